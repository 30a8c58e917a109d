"""The command line: `penstock run | controller | attach | demo | sim | translate | replay | bootstrap`, and for telemetry
`dashboards | verify | autoscale`.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from penstock import autoscale, controller, monitoring
from penstock.arguments import (
    Parser,
    about_requests,
    address,
    count,
    listen_of,
    listen_options,
    rate,
    request_options,
    scaler_option,
    scorers_option,
    seconds,
)
from penstock.process import UserError, calm_garbage_collection, go, until_signal
from penstock.settings import Autoscaling, Proxy, Settings
from xds_server.bootstrap import bootstrap

_SIM = "sim"  # has its own parser, in penstock.sim.cli


def parser() -> Parser:
    """All commands and their options."""
    made = Parser(prog="penstock", description="An inference gateway for any Envoy fleet.")
    made.add_argument("--version", action="version", version=f"penstock {version('penstock')}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    _run(commands.add_parser("run", help="the gateway on a directory of manifests, with an Envoy of its own"))
    _demo(commands.add_parser("demo", help="the same with simulated model servers and real traffic, shown live"))
    commands.add_parser(_SIM, help="one simulated model server (see `penstock sim --help`)", add_help=False)
    _translate(
        commands.add_parser("translate", help="print the Envoy configuration and the status of manifests, offline")
    )
    _replay(commands.add_parser("replay", help="decide recorded decisions again, or as another configuration would"))
    controller.options(commands.add_parser("controller", help="the gateway in a Kubernetes cluster"), _serve_settings)
    _attach(commands.add_parser("attach", help="print what Envoys of your own need to serve a Gateway of a cluster"))
    monitoring.dashboards_options(commands.add_parser("dashboards", help="boards and alerts in Cloud Monitoring"))
    monitoring.verify_options(
        commands.add_parser("verify", help="whether every panel and alert has data in a Prometheus")
    )
    autoscale.options(
        commands.add_parser("autoscale", help="what autoscalers are told of a pool, and manifests for them")
    )
    _bootstrap(commands.add_parser("bootstrap", help="print the bootstrap for an Envoy of an existing fleet"))
    return made


def _run(command: Parser) -> None:
    command.description = (
        "Runs the gateway: reads Kubernetes manifests from a directory (edits take effect live), serves xDS and the endpoint "
        "picker, and starts an Envoy that listens where the Gateways say."
    )
    option = command.add_argument
    option(
        "--manifests",
        type=Path,
        required=True,
        metavar="DIR",
        help="directory of *.yaml, *.yml, *.json; read recursively",
    )
    listen_options(command)
    option("--no-envoy", action="store_true", help="start no Envoy: serve the ones that `penstock bootstrap` is for")
    option(
        "--workers",
        type=count,
        default=0,
        metavar="N",
        help="worker threads of that Envoy (default: one per processor)",
    )
    option(
        "--admin",
        type=address,
        default="127.0.0.1:19000",
        metavar="ADDRESS",
        help="where that Envoy's admin is (default: %(default)s)",
    )
    option(
        "--xds",
        type=address,
        action="append",
        default=[],
        metavar="ADDRESS",
        help="serve xDS here too, for other Envoys; may be given several times",
    )
    option(
        "--picker",
        type=address,
        default=None,
        metavar="ADDRESS",
        help="serve the picker here, for other Envoys; they are told this address as it is, so not 0.0.0.0",
    )
    option(
        "--telemetry",
        type=address,
        default="127.0.0.1:9090",
        metavar="ADDRESS",
        help="/metrics, /status, /autoscale, /readyz (default: %(default)s)",
    )
    scaler_option(command)
    request_options(command)
    option("-v", "--verbose", action="store_true", help="log more")
    command.set_defaults(act=lambda given: go(_serve(given), verbose=given.verbose))


def _demo(command: Parser) -> None:
    from penstock import demo  # noqa: PLC0415  it draws with rich, which `run` does not need

    command.description = demo.__doc__ or ""
    option = command.add_argument
    option(
        "--manifests",
        type=Path,
        default=None,
        metavar="DIR",
        help="directory of manifests (default: examples/quickstart)",
    )
    listen_options(command)
    option("--once", action="store_true", help="run for --seconds, print one line of JSON, fail if any request failed")
    option(
        "--seconds", type=seconds, default=20.0, help="how long --once sends traffic, at most 45 (default: %(default)s)"
    )
    option("--rate", type=rate, default=12.0, metavar="N", help="requests a second (default: %(default)s)")
    option("--seed", type=int, default=0, metavar="N", help="the same seed sends the same texts (default: 0)")
    option("-v", "--verbose", action="store_true", help="log more")
    command.set_defaults(act=lambda given: go(demo.main(given), verbose=given.verbose))


def _translate(command: Parser) -> None:
    from penstock import offline  # noqa: PLC0415

    command.description = offline.__doc__ or ""
    command.add_argument("directory", type=Path, metavar="DIR", help="directory of manifests, read recursively")
    command.add_argument("--output", choices=("yaml", "json"), default="yaml", help="default: yaml")
    scorers_option(command)
    command.add_argument(
        "--show", choices=("all", "envoy", "status"), default="all", help="which part to print (default: all)"
    )
    listen_options(command)
    command.set_defaults(act=offline.main)


def _replay(command: Parser) -> None:
    from penstock import replay  # noqa: PLC0415

    replay.options(command)


def _bootstrap(command: Parser) -> None:
    command.description = (
        "Prints the bootstrap of an Envoy that gets its configuration from `penstock run --xds ADDRESS`."
    )
    option = command.add_argument
    option("--xds", type=address, required=True, metavar="ADDRESS", help="of the xDS server: HOST:PORT or unix:PATH")
    option("--node-id", default="envoy-1", metavar="ID", help="unique in the fleet (default: %(default)s)")
    option(
        "--fleet",
        default="penstock",
        metavar="NAME",
        help="node.cluster, shown in /status; every fleet gets the same configuration (default: %(default)s)",
    )
    option(
        "--admin",
        type=address,
        default="127.0.0.1:19000",
        metavar="ADDRESS",
        help="where that Envoy's admin listens (default: %(default)s)",
    )
    command.set_defaults(act=_print_bootstrap)


def _attach(command: Parser) -> None:
    command.description = (
        "Prints what Envoys of your own need to serve a Gateway of a cluster (`penstock controller --no-provision`): their "
        "ServiceAccount, by which they are known, and a ConfigMap with their bootstrap. Pipe it into `kubectl apply -f -`; then run "
        "Envoys as that account, as deploy/README.md shows. It reads our authority's Secret with your own rights."
    )
    command.add_argument("gateway", metavar="NAMESPACE/NAME", help="the Gateway")
    controller.whereabouts(command)
    command.set_defaults(act=lambda given: go(controller.attach(given), verbose=False))


def _print_bootstrap(given: argparse.Namespace) -> int:
    print(json.dumps(bootstrap(given.xds, node_id=given.node_id, fleet=given.fleet, admin=given.admin), indent=2))
    return 0


def _settings(given: argparse.Namespace) -> Settings:
    if given.no_envoy and not (given.xds and given.picker):
        raise UserError("--no-envoy serves other Envoys: say where, by --xds ADDRESS and --picker ADDRESS")
    if given.picker and given.picker.rpartition(":")[0] in {"0.0.0.0", "[::]"}:  # noqa: S104
        raise UserError(f"--picker {given.picker} is handed to the Envoys as written: name an address that they reach")
    return Settings(
        manifests=given.manifests,
        listen=listen_of(given),
        proxy=Proxy(start=not given.no_envoy, workers=given.workers, admin=given.admin),
        xds=tuple(given.xds),
        picker=given.picker or "",
        autoscaling=Autoscaling(scaler=given.scaler or ""),
        **about_requests(given),
    )


async def _serve(given: argparse.Namespace) -> int:
    return await _serve_settings(_settings(given))


async def _serve_settings(settings: Settings) -> int:
    from penstock.run import running  # noqa: PLC0415  `translate` and `bootstrap` start faster without it

    stop = until_signal()
    async with running(settings) as gateway:
        calm_garbage_collection()
        logging.getLogger("penstock").info("ready: %s", gateway.addresses())
        await stop.wait()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == [_SIM]:
        from penstock.sim import cli as sim  # noqa: PLC0415

        return sim.main(given[1:])
    found = parser().parse_args(given)
    return int(found.act(found))


if __name__ == "__main__":
    sys.exit(main())
