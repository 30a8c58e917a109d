"""The laws of the tree: every module is tested, no file is long. Imports between packages: `lint-imports`, in `make lint`."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("observability", "penstock", "picker", "xds_server")
LONGEST = 400  # lines
# A module has a test file of its own name, in the folder of its package. Those that have not are covered elsewhere:
ELSEWHERE = {
    "observability/dashboards/": "tests/observability/test_dashboards.py",
    "observability/document.py": "tests/observability/test_catalogue.py",
    "observability/log.py": "tests/observability/test_request_log.py",
    "observability/metric.py": "tests/observability/test_catalogue.py",
    "observability/server.py": "tests/observability/test_metrics_server.py",
    "penstock/__main__.py": "tests/penstock/test_cli.py",
    "penstock/arguments.py": "tests/penstock/test_cli.py",
    "penstock/process.py": "tests/penstock/test_cli.py",
    "penstock/report.py": "tests/e2e/test_live_edit.py",
    "penstock/gateway.py": "tests/penstock/test_run.py",
    "penstock/run.py": "tests/e2e/test_completions.py",
    "penstock/sim/__main__.py": "tests/sim/test_main.py",
    "penstock/sim/": "tests/sim/test_server.py",
    "penstock/demo/": "tests/penstock/test_demo*.py",
    "picker/errors.py": "tests/picker/test_session.py",
    "picker/facts.py": "tests/picker/test_inflight.py",
    "picker/plugins/": "tests/picker/test_profile*.py",
    "picker/signals.py": "tests/picker/test_load.py",
    "picker/stage.py": "tests/picker/test_schedule.py",
    "picker/state.py": "tests/picker/test_picker.py",
    "xds_server/blame.py": "tests/xds_server/test_ads.py",
    "xds_server/facts.py": "tests/xds_server/test_server.py",
    "xds_server/model/": "tests/xds_server/test_parse.py",
    "xds_server/parse/": "tests/xds_server/test_parse.py",
    "xds_server/reconcile.py": "tests/penstock/test_reconcile.py",
    "xds_server/resolve/": "tests/xds_server/test_resolve_*.py",
    "xds_server/sources/": "tests/xds_server/test_files.py",
    "xds_server/translate/": "tests/test_golden.py",
    "xds_server/wire.py": "tests/xds_server/test_server.py",
}
MODULES = sorted(
    str(path.relative_to(ROOT))
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
)
FILES = sorted(
    path for folder in (*PACKAGES, "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py") if path.is_file()
)


def covering(module: str) -> list[Path]:
    """The test files of a module: its own, else those named for it, else those named for its folder."""
    package, _, _ = module.partition("/")
    own = {
        f"tests/{package}/test_{Path(module).stem}.py",
        f"tests/{Path(module).parent}/test_{Path(module).stem}.py",
        f"tests/{Path(module).parent.name}/test_{Path(module).stem}.py",
    }
    patterns = [*own, ELSEWHERE.get(module, ""), ELSEWHERE.get(f"{Path(module).parent}/", "")]
    return [found for pattern in patterns if pattern for found in ROOT.glob(pattern)]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_tested(module: str) -> None:
    assert covering(module), f"{module} has no test: write tests/{Path(module).parent}/test_{Path(module).stem}.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_long(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{lines} lines: split it by what changes together"
