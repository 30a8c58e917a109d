"""The doors that write by themselves, as options and as work: --export cloud-monitoring, --export otlp."""

import argparse
import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from observability.exporters.push import FLOOR, Door, Push
from observability.hub import Hub
from observability.registry import Registry
from penstock.process import UserError
from penstock.settings import Export, Settings
from picker.trace import Tracing

DOORS = ("cloud-monitoring", "otlp")
_RATE = 0.05  # of the requests that come without a trace
# OTEL_TRACES_SAMPLER -> does a parent decide; share of the others, None where OTEL_TRACES_SAMPLER_ARG says.
_SAMPLERS: Mapping[str, tuple[bool, float | None]] = {
    "always_on": (False, 1.0),
    "always_off": (False, 0.0),
    "traceidratio": (False, None),
    "parentbased_always_on": (True, 1.0),
    "parentbased_always_off": (True, 0.0),
    "parentbased_traceidratio": (True, None),
}


@dataclass(frozen=True, slots=True)
class Exporting:
    """What is to run, and what is to listen to facts."""

    work: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    listen: tuple[Callable[[Hub], None], ...] = ()


def options(command: argparse.ArgumentParser, share: Callable[[str], float]) -> None:
    """`export_of` reads them."""
    option = command.add_argument
    option(
        "--export",
        action="append",
        choices=DOORS,
        default=[],
        help="write metrics (otlp: and traces) there, besides /metrics; may be given twice. See docs/exporting.md",
    )
    option(
        "--export-period",
        type=period,
        default=None,
        metavar="SECONDS",
        help="between two points of a metric, 10 or more (default: OTEL_METRIC_EXPORT_INTERVAL, or 60)",
    )
    option(
        "--trace-rate",
        type=share,
        default=None,
        metavar="SHARE",
        help=f"of the requests that bring no trace, from 0 to 1 (default: what OTEL_TRACES_SAMPLER says, or {_RATE})",
    )
    option(
        "--project",
        default="",
        metavar="ID",
        help="Google Cloud project, for Cloud Monitoring and for links from logs to traces (default: GOOGLE_CLOUD_PROJECT)",
    )
    option("--location", default="", help="of the resource in Cloud Monitoring (default: as the metadata server says)")
    option("--cluster", default="", metavar="NAME", help="the same")


def period(text: str) -> float:
    """An argparse type."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not FLOOR <= found <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no period; write seconds, from {FLOOR:g} to 3600")
    return found


def export_of(given: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Export:
    """The options and the environment as one value. Raises UserError."""
    project = given.project or environment.get("GOOGLE_CLOUD_PROJECT", "")
    doors = tuple(dict.fromkeys(given.export))
    if "otlp" in doors and environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        doors = tuple(door for door in doors if door != "otlp")
    return Export(
        doors=doors,
        period=given.export_period or _interval(environment),
        tracing=tracing(given.trace_rate, environment) if "otlp" in doors else Tracing(),
        project=project,
        location=given.location,
        cluster=given.cluster,
    )


def tracing(rate: float | None, environment: Mapping[str, str]) -> Tracing:
    """Which requests have spans; `rate` is the option's. Source: OpenTelemetry SDK, environment variables."""
    if environment.get("OTEL_TRACES_EXPORTER") == "none":
        return Tracing()
    name = environment.get("OTEL_TRACES_SAMPLER") or "parentbased_traceidratio"
    if name not in _SAMPLERS:
        raise UserError(f"OTEL_TRACES_SAMPLER={name}: write one of {', '.join(_SAMPLERS)}")
    parent_based, ratio = _SAMPLERS[name]
    if rate is None:
        rate = ratio if ratio is not None else _argument(environment)
    return Tracing(rate, parent_based)


def _argument(environment: Mapping[str, str]) -> float:
    text = environment.get("OTEL_TRACES_SAMPLER_ARG") or str(_RATE)
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0.0 <= found <= 1.0:
        raise UserError(f"OTEL_TRACES_SAMPLER_ARG={text}: write a share from 0 to 1")
    return found


def _interval(environment: Mapping[str, str]) -> float:
    text = environment.get("OTEL_METRIC_EXPORT_INTERVAL") or "60000"
    if not text.isdigit() or int(text) < FLOOR * 1000:
        raise UserError(f"OTEL_METRIC_EXPORT_INTERVAL={text}: write milliseconds, {FLOOR * 1000:.0f} or more")
    return int(text) / 1000


async def opened(settings: Settings, registry: Registry) -> Exporting:
    """The doors of `settings`. Raises UserError, with the remedy.

    To be called when the counters are 0: that is since when they count.
    """
    began, given, cluster = time.time(), settings.export, settings.kubernetes
    host = os.environ.get("POD_NAME") or socket.gethostname()
    instance = (
        f"{host}:{settings.telemetry.rpartition(':')[2] or os.getpid()}"  # one of all replicas, and of all on this host
    )
    found = Exporting()
    if "cloud-monitoring" in given.doors:
        found = await _cloud_monitoring(given, registry, began, instance, cluster.namespace if cluster else "")
    if "otlp" in given.doors:
        otlp = _otlp(given, registry, began, instance)
        found = Exporting(found.work + otlp.work, found.listen + otlp.listen)
    return found


async def _cloud_monitoring(
    settings: Export, registry: Registry, began: float, instance: str, namespace: str
) -> Exporting:
    from observability.exporters.target import Given, UnknownTarget, target  # noqa: PLC0415

    try:
        labels = await target(Given(settings.project, settings.location, settings.cluster, namespace, instance))
    except UnknownTarget as error:
        raise UserError(f"--export cloud-monitoring: {error}") from error
    door = await asyncio.to_thread(_google, labels, began)  # it reads much code and may ask the metadata server
    return Exporting((Push(door, registry, period=settings.period).run,))


def _google(labels: Mapping[str, str], began: float) -> Door:
    """The door, with the credentials of this machine. 50 MB that others need not pay for."""
    from google.auth.exceptions import DefaultCredentialsError  # noqa: PLC0415
    from google.cloud.monitoring_v3 import MetricServiceClient  # noqa: PLC0415

    from observability.exporters.cloud_monitoring import CloudMonitoring  # noqa: PLC0415

    try:
        return CloudMonitoring(MetricServiceClient(), labels, began)
    except DefaultCredentialsError as error:
        remedy = "give the pod a service account (Workload Identity), or set GOOGLE_APPLICATION_CREDENTIALS"
        raise UserError(f"--export cloud-monitoring: no credentials: {remedy}") from error


def _otlp(settings: Export, registry: Registry, began: float, instance: str) -> Exporting:
    from observability.exporters import otlp  # noqa: PLC0415  the SDK is only read where it is used
    from observability.exporters.spans import Spans  # noqa: PLC0415

    described = otlp.resource(
        {
            "service.version": version("penstock"),
            "service.instance.id": instance,
            "k8s.pod.name": os.environ.get("POD_NAME", ""),
            "k8s.namespace.name": os.environ.get("POD_NAMESPACE", ""),
            "k8s.cluster.name": settings.cluster,
            "gcp.project_id": settings.project,
        }
    )
    work: list[Callable[[], Coroutine[Any, Any, None]]] = []
    listen: list[Callable[[Hub], None]] = []
    try:
        if os.environ.get("OTEL_METRICS_EXPORTER") != "none":
            door = otlp.Otlp(otlp.exporter("metric"), described, began)
            work.append(Push(door, registry, period=settings.period).run)
        if settings.tracing.ratio is not None:
            spans = Spans(otlp.exporter("trace"), described, registry)
            work.append(spans.run)
            listen.append(spans.listen)
    except (otlp.UnknownProtocol, otlp.ShadowedPackage, ValueError, OSError) as error:
        raise UserError(f"--export otlp: {error}") from error
    return Exporting(tuple(work), tuple(listen))
