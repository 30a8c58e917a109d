"""Writes dashboards/ and the heads of docs/runbooks/, below the directory that is given, or this one."""

import sys
from pathlib import Path

from observability.dashboards.files import RUNBOOKS, files, runbook_files


def main(root: Path) -> None:
    folder = root / "dashboards"
    written = files()
    for old in folder.iterdir():
        if old.name not in written:
            old.unlink()
    for name, content in written.items():
        (folder / name).write_bytes(content)
    books = root / RUNBOOKS
    books.mkdir(exist_ok=True)
    there = {path.name: path.read_text(encoding="utf-8") for path in books.glob("*.md") if path.name != "README.md"}
    for name, text in runbook_files(there).items():
        (books / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(*sys.argv[1:]))
