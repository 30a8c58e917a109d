"""Prints what manifests become: the Envoy configuration, the status conditions, and the problems. Nothing is started.

Exit status 1 if there is any problem, so that it can guard a merge.
"""

import argparse
import json
import sys
from dataclasses import replace
from io import StringIO
from typing import Any

from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from penstock.arguments import listen_of
from picker import own_scorers
from picker.picker import config_problems
from xds_server import status
from xds_server.model.graph import EVERYTHING, Graph
from xds_server.resolve import resolve
from xds_server.snapshot import CDS, EDS, LDS, RDS, SDS, Snapshot
from xds_server.sources import files
from xds_server.translate import DataPlane, translate

_MESSAGES: dict[str, tuple[str, Any]] = {
    "clusters": (CDS, Cluster),
    "endpoints": (EDS, ClusterLoadAssignment),
    "listeners": (LDS, Listener),
    "routes": (RDS, RouteConfiguration),
}


def main(given: argparse.Namespace) -> int:
    try:
        reading = files.read(given.directory)
    except OSError as error:
        print(f"penstock translate: error: {given.directory}: {error.strerror}", file=sys.stderr)
        return 2
    if not reading.stamps:
        print(
            f"penstock translate: error: {given.directory} holds no manifest ({', '.join(files.SUFFIXES)})",
            file=sys.stderr,
        )
        return 2
    listen = listen_of(given)
    graph = resolve(reading.state)
    problems = (*graph.problems, *config_problems(graph.pools.values(), own_scorers.own(given.scorers)))
    graph = replace(graph, problems=tuple(files.located(each, given.directory) for each in problems))
    print(
        render(
            graph,
            translate(graph, DataPlane(bind=listen.address, binds=listen.binds))[EVERYTHING],
            given.show,
            given.output,
        ),
        end="",
    )
    for problem in graph.problems:
        print(problem, file=sys.stderr)
    return 1 if graph.problems else 0


def render(graph: Graph, snapshot: Snapshot, show: str = "all", output: str = "yaml") -> str:
    """The document, as text."""
    document: dict[str, Any] = {}
    if show != "status":
        document["envoy"] = envoy(snapshot)
    if show != "envoy":
        document["status"] = status.render(graph)
        document["problems"] = [str(problem) for problem in graph.problems]
    if output == "json":
        return json.dumps(document, indent=2) + "\n"
    text = StringIO()
    yaml = YAML()
    yaml.Representer = _Readable
    yaml.default_flow_style = False
    yaml.width = 160
    yaml.dump(document, text)
    return text.getvalue()


class _Readable(RoundTripRepresenter):
    """Text of several lines stays text of several lines."""

    def represent_str(self, data: str) -> Any:
        style = "|" if data.count("\n") > 1 else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Readable.add_representer(str, _Readable.represent_str)


def envoy(snapshot: Snapshot) -> dict[str, Any]:
    """The resources in proto3 JSON, as Envoy's own config dump writes them. Secrets by name only."""
    found = {
        kind: [message.parse(each.body).to_dict() for each in snapshot.of_type(url).values()]
        for kind, (url, message) in _MESSAGES.items()
    }
    return found | {"secrets": [{"name": name} for name in snapshot.of_type(SDS)]}
