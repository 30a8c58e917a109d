"""The configuration files that llm-d publishes: each loads, or is refused for the reason that docs/llm-d.md gives."""

import os
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from picker.errors import ConfigError
from picker.plugins.accelerators import SOURCES
from picker.plugins.admitters import ADMITTERS
from picker.plugins.filters import FILTERS
from picker.plugins.flow_control import DETECTORS, POLICIES
from picker.plugins.handlers import DECIDERS, HANDLERS
from picker.plugins.ignored import APPROXIMATED, BUILT_IN, REFUSED
from picker.plugins.pickers import PICKERS
from picker.plugins.scorers import SCORERS
from picker.profile import read

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("PENSTOCK_SHARED", str(ROOT.parent / "shared"))) / "reference" / "llm-d-configs"
DOCUMENT = (ROOT / "docs" / "llm-d.md").read_text()
PROMISED = dict(re.findall(r"^\| `([\w-]+\.yaml)` \| ([^|]+) \|", DOCUMENT, re.MULTILINE))
TABLES = (
    FILTERS,
    SCORERS,
    PICKERS,
    HANDLERS,
    DECIDERS,
    DETECTORS,
    ADMITTERS,
    SOURCES,
    POLICIES,
    BUILT_IN,
    APPROXIMATED,
    REFUSED,
)


@pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"there is no {FOLDER.name}: PENSTOCK_SHARED names their parent's parent"
)
@pytest.mark.parametrize("name", sorted(PROMISED))
def test_a_file_of_llm_d_does_what_the_document_says(name: str) -> None:
    content = YAML(typ="safe").load((FOLDER / name).read_text())
    if PROMISED[name].startswith("loads"):
        read(content)
    else:
        with pytest.raises(ConfigError) as caught:
            read(content)
        assert PROMISED[name].removeprefix("refused: ").strip(" `") in str(caught.value)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="see above")
def test_the_document_lists_every_file() -> None:
    assert sorted(PROMISED) == sorted(path.name for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("kind", sorted({name for table in TABLES for name in table}))
def test_every_plugin_is_documented(kind: str) -> None:
    assert f"`{kind}`" in DOCUMENT
