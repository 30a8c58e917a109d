"""What all tests share: waiting for a condition, and what becomes of tests without an Envoy."""

import os

import hypothesis
import pytest

from penstock.envoy import EnvoyMissing, find_envoy

# No law is about wall-clock time: a busy machine is no mistake of ours.
hypothesis.settings.register_profile("penstock", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("penstock")


def pytest_configure(config: pytest.Config) -> None:
    """envoy-data-plane is generated for an older pydantic; every other warning stays an error."""
    config.addinivalue_line("filterwarnings", "ignore:Using `@model_validator` with mode='after':DeprecationWarning")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden/*.out.yaml")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `envoy` are skipped where there is none; in CI they fail instead, since a skipped test protects nothing."""
    try:
        find_envoy()
    except EnvoyMissing as missing:
        if os.environ.get("CI"):
            return
        for item in items:
            if item.get_closest_marker("envoy"):
                item.add_marker(pytest.mark.skip(reason=str(missing)))
