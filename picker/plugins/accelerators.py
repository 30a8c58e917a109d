"""Sources of accelerators' figures, by llm-d's names: what they say is the attribute GPUUtilization, and a Load's utilization."""

from collections.abc import Callable, Mapping

from picker.plugins.parameters import Parameters
from xds_server.model.exporter import Exporter

DCGM_PORT = 9400


def _dcgm(given: Parameters) -> Exporter:
    """The interval is as given, and no shorter than a second: the exporter measures no more often."""
    if given.choice("scheme", ("http", "https"), "http") == "https":
        raise given.error("scheme", "https is not spoken to exporters; let it listen on http, inside the cluster")
    given.flag("insecureSkipVerify", default=True)
    path = given.text("path", "/metrics")
    return Exporter(
        port=given.integer("port", DCGM_PORT, 1, 65535),
        path=path if path.startswith("/") else f"/{path}",
        on_node=given.flag("useNodeAddress"),
        interval=max(given.duration("interval", 1.0), 1.0),
    )


SOURCES: Mapping[str, Callable[[Parameters], Exporter]] = {"dcgm-data-source": _dcgm}
