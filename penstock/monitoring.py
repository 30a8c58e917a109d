"""Two commands: boards and alert policies in Cloud Monitoring (`penstock dashboards`); whether there is data behind them (`verify`)."""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock.arguments import Parser
from penstock.durations import duration, in_seconds
from penstock.process import UserError

_ENDPOINT = "https://monitoring.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/monitoring"


def dashboards_options(command: Parser) -> None:
    command.description = (
        "Makes the boards, alert policies and service level objectives of a Google Cloud project like ours (apply), or says what differs "
        "(diff; exit status 1 if anything does). They are found by their labels; notification channels and whatever else is there stay. "
        "Credentials: those that `gcloud auth application-default login` or the workload's identity gives."
    )
    option = command.add_argument
    option("action", choices=("apply", "diff"))
    option("--project", required=True, metavar="ID", help="the project")
    option(
        "--endpoint",
        default=_ENDPOINT,
        metavar="URL",
        help="of the API (default: %(default)s); http:// needs no credentials",
    )
    option("--no-alerts", action="store_true", help="leave alert policies alone")
    option("--no-objectives", action="store_true", help="leave services and their objectives alone")
    option(
        "--runbooks",
        default="docs/runbooks",
        metavar="URL",
        help="where alerts say that the runbooks are (default: %(default)s)",
    )
    command.set_defaults(act=lambda given: _told(_dashboards, given))


def verify_options(command: Parser) -> None:
    command.description = (
        "Runs the query of every panel and alert against a Prometheus and names what finds nothing. Exit status 1 if anything is empty "
        "that should not be in a gateway that is well. With --draw, a page of all boards as well: to see them without Grafana, or to "
        "keep from a test."
    )
    option = command.add_argument
    option(
        "--prometheus", required=True, metavar="URL", help="e.g. http://prometheus:9090, or what speaks its HTTP API"
    )
    option(
        "--window",
        type=duration,
        default="5m",
        metavar="DURATION",
        help="of the rates (default: %(default)s): at least four scrapes",
    )
    option("--draw", type=Path, metavar="FILE", help="write every board there as one HTML page that needs nothing else")
    option(
        "--since",
        type=duration,
        default="1h",
        metavar="DURATION",
        help="how far back that page goes (default: %(default)s)",
    )
    option(
        "--prices",
        type=prices,
        default={},
        metavar="INPUT,CACHED,OUTPUT",
        help="of a million tokens, for what that page shows in money (default: 0,0,0)",
    )
    option("--header", action="append", default=[], metavar="NAME:VALUE", help="to send along, e.g. for authorisation")
    option("--strict", action="store_true", help="what may be empty in a gateway that is well counts, too")
    command.set_defaults(act=lambda given: _told(_verify, given))


def _told(act: Callable[[argparse.Namespace], int], given: argparse.Namespace) -> int:
    """What the user can mend is one line."""
    try:
        return act(given)
    except UserError as error:
        print(f"penstock: error: {error}", file=sys.stderr)
        return 2


def _dashboards(given: argparse.Namespace) -> int:
    from observability.dashboards import cloud_monitoring  # noqa: PLC0415  the gateway itself starts without all this
    from observability.dashboards.files import boards, policies  # noqa: PLC0415
    from observability.dashboards.objectives import OBJECTIVES  # noqa: PLC0415
    from observability.project import DASHBOARDS, POLICIES, SERVICES, SLOS, Project, ProjectError  # noqa: PLC0415

    project = Project(given.project, _session(given.endpoint), given.endpoint)
    ours: list[tuple[Any, list[dict[str, Any]]]] = [
        (DASHBOARDS, [cloud_monitoring.dashboard(each) for each in boards()])
    ]
    if not given.no_alerts:
        ours.append((POLICIES, policies(given.runbooks.rstrip("/"))))
    if not given.no_objectives:
        ours.append((SERVICES, [cloud_monitoring.service()]))
        ours.append((SLOS, [cloud_monitoring.objective(each) for each in OBJECTIVES]))
    try:
        changes = [change for kind, bodies in ours for change in project.changes(kind, bodies)]
        for change in changes:
            if given.action == "apply":
                project.apply(change)
            print(change)
    except ProjectError as error:
        raise UserError(str(error)) from error
    count = sum(len(bodies) for _, bodies in ours)
    print(f"{len(changes)} of {count} {'changed' if given.action == 'apply' else 'differ'}", file=sys.stderr)
    return 1 if changes and given.action == "diff" else 0


def _session(endpoint: str) -> Any:
    import requests  # noqa: PLC0415

    if endpoint.startswith("http://"):
        return requests.Session()
    import google.auth  # noqa: PLC0415
    from google.auth.transport.requests import AuthorizedSession  # noqa: PLC0415

    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
    except google.auth.exceptions.DefaultCredentialsError as error:
        raise UserError(f"no credentials: {error}") from error
    return AuthorizedSession(credentials)


def _verify(given: argparse.Namespace) -> int:
    from observability.asking import Prometheus, QueryError  # noqa: PLC0415
    from observability.dashboards.alerts import alerts  # noqa: PLC0415
    from observability.dashboards.files import boards  # noqa: PLC0415
    from observability.verify import verify  # noqa: PLC0415

    headers = dict(_header(each) for each in given.header)
    server = Prometheus(given.prometheus, headers)
    try:
        server.values("vector(1)")
    except QueryError as error:
        raise UserError(f"--prometheus {given.prometheus}: {error}") from error
    every = boards()
    found = list(verify(server.values, every, alerts(), given.window))
    bad = [each for each in found if given.strict or not each.allowed]
    for each in found:
        print(each)
    panels = sum(len(board.panels) for board in every)
    print(
        f"{panels} panels and {len(alerts())} alerts: {len(bad)} problems, {len(found) - len(bad)} allowed",
        file=sys.stderr,
    )
    if given.draw:
        from penstock.drawing import draw  # noqa: PLC0415

        about = {"source": given.prometheus, "since": in_seconds(given.since), "window": given.window}
        draw(given.draw, server, found, **about, prices=given.prices)
    return 1 if bad else 0


def prices(text: str) -> dict[str, str]:
    """An argparse type: three numbers, by the variables of the boards."""
    from observability.dashboards.model import PRICES  # noqa: PLC0415

    found = text.split(",")
    if len(found) != len(PRICES) or not all(re.fullmatch(r"\d+(\.\d+)?", each) for each in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not three prices; write e.g. 0.15,0.03,0.6")
    return dict(zip(PRICES, found, strict=True))


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise UserError(f"--header {text!r}: write NAME:VALUE")
    return name.strip(), value.strip()
