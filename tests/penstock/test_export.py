"""The options of the doors, and what of the standard environment is obeyed."""

import argparse
from collections.abc import Mapping

import pytest
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError

from observability.registry import Registry
from penstock.arguments import share
from penstock.export import export_of, opened, options
from penstock.process import UserError
from penstock.settings import Export, Settings
from picker.trace import UNTRACED, Tracing


def parsed(*given: str, **environment: str) -> Export:
    parser = argparse.ArgumentParser(exit_on_error=False)
    options(parser, share)
    return export_of(parser.parse_args(given), environment)


def test_nothing_is_written_unless_it_is_asked_for() -> None:
    assert parsed() == Export()
    assert parsed(GOOGLE_CLOUD_PROJECT="p").project == "p"  # for links from the log


def test_the_doors_are_named() -> None:
    found = parsed(
        "--export", "cloud-monitoring", "--export", "otlp", "--project", "p", "--location", "l", "--cluster", "c"
    )
    assert found == Export(("cloud-monitoring", "otlp"), tracing=Tracing(0.05), project="p", location="l", cluster="c")
    with pytest.raises(argparse.ArgumentError):
        parsed("--export", "carrier-pigeon")


@pytest.mark.parametrize("text", ["9.9", "0", "-60", "3601", "soon", "nan"])
def test_the_period_is_one_that_the_quota_allows(text: str) -> None:
    with pytest.raises(argparse.ArgumentError, match="write seconds, from 10 to 3600"):
        parsed("--export-period", text)


def test_the_environment_says_how_often() -> None:
    assert parsed(OTEL_METRIC_EXPORT_INTERVAL="15000").period == 15.0
    assert parsed("--export-period", "30", OTEL_METRIC_EXPORT_INTERVAL="15000").period == 30.0
    with pytest.raises(UserError, match="OTEL_METRIC_EXPORT_INTERVAL=500: write milliseconds, 10000 or more"):
        parsed(OTEL_METRIC_EXPORT_INTERVAL="500")


@pytest.mark.parametrize(
    ("given", "environment", "tracing"),
    [
        ((), {}, Tracing(0.05)),
        (("--trace-rate", "0.5"), {}, Tracing(0.5)),
        ((), {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, Tracing(1.0)),
        ((), {"OTEL_TRACES_SAMPLER": "always_off"}, Tracing(0.0, parent_based=False)),
        (
            (),
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.2"},
            Tracing(0.2, parent_based=False),
        ),
        (("--trace-rate", "0"), {"OTEL_TRACES_SAMPLER_ARG": "0.2"}, Tracing(0.0)),
        ((), {"OTEL_TRACES_EXPORTER": "none"}, UNTRACED),
        ((), {"OTEL_SDK_DISABLED": "true"}, UNTRACED),
    ],
)
def test_who_is_sampled(given: tuple[str, ...], environment: Mapping[str, str], tracing: Tracing) -> None:
    assert parsed("--export", "otlp", *given, **environment).tracing == tracing
    assert parsed(*given, **environment).tracing == UNTRACED


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OTEL_TRACES_SAMPLER": "xray"}, "OTEL_TRACES_SAMPLER=xray: write one of always_on"),
        ({"OTEL_TRACES_SAMPLER_ARG": "half"}, "OTEL_TRACES_SAMPLER_ARG=half: write a share from 0 to 1"),
    ],
)
def test_a_mistake_in_the_environment_is_named(environment: Mapping[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parsed("--export", "otlp", **environment)


async def test_otlp_is_two_works_and_one_who_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    found = await opened(Settings(export=Export(("otlp",), tracing=Tracing(1.0))), Registry())
    assert (len(found.work), len(found.listen)) == (2, 1)
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    found = await opened(Settings(export=Export(("otlp",))), Registry())
    assert (found.work, found.listen) == ((), ())


async def test_cloud_monitoring_takes_the_credentials_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(export=Export(("cloud-monitoring",), project="p", location="l", cluster="c"))
    monkeypatch.setattr("google.auth.default", lambda **_: (AnonymousCredentials(), "p"))
    found = await opened(settings, Registry())
    assert (len(found.work), found.listen) == (1, ())

    def nobody(**_: object) -> None:
        raise DefaultCredentialsError

    monkeypatch.setattr("google.auth.default", nobody)
    with pytest.raises(UserError, match="no credentials: give the pod a service account"):
        await opened(settings, Registry())


async def test_what_a_door_lacks_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    for name in ("GOOGLE_CLOUD_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"--export cloud-monitoring: .* set --project"):
        await opened(Settings(export=Export(("cloud-monitoring",))), Registry())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "udp")
    with pytest.raises(
        UserError, match="--export otlp: OTEL_EXPORTER_OTLP_PROTOCOL=udp: write one of http/protobuf, grpc"
    ):
        await opened(Settings(export=Export(("otlp",))), Registry())
