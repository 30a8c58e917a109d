"""The command line: `penstock run | demo | sim | translate | bootstrap`."""

import argparse
import asyncio
import difflib
import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import uvloop

from penstock.bootstrap import address, bootstrap
from penstock.settings import Listen, Proxy, Settings

_SIM = "sim"  # has its own parser, in penstock.sim.cli


class Parser(argparse.ArgumentParser):
    """argparse that names the nearest option it knows, and takes no abbreviations: a script must not break by a new one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **({"allow_abbrev": False} | options))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            chosen = self._chosen(found)
            chosen.error(chosen.advice(unknown[0]))
        return found

    def _chosen(self, found: argparse.Namespace) -> "Parser":
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  argparse has no other way
                chosen = action.choices.get(getattr(found, "command", ""))
                if isinstance(chosen, Parser):
                    return chosen
        return self

    def advice(self, unknown: str) -> str:
        known = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown.partition("=")[0], known, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"see `{self.prog} --help`"
        return f"unknown argument {unknown}; {remedy}"

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


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
    _listen_options(command)
    option("--no-envoy", action="store_true", help="start no Envoy: serve the ones that `penstock bootstrap` is for")
    option(
        "--workers",
        type=_count,
        default=0,
        metavar="N",
        help="worker threads of that Envoy (default: one per processor)",
    )
    option(
        "--admin", type=_address, default="127.0.0.1:19000", metavar="ADDRESS", help="its admin (default: %(default)s)"
    )
    option(
        "--xds",
        type=_address,
        action="append",
        default=[],
        metavar="ADDRESS",
        help="serve xDS here too, for other Envoys",
    )
    option("--picker", type=_address, default=None, metavar="ADDRESS", help="serve the picker here, for other Envoys")
    option(
        "--telemetry",
        type=_address,
        default="127.0.0.1:9090",
        metavar="ADDRESS",
        help="/metrics, /status, /readyz (default: %(default)s)",
    )
    option(
        "--request-log",
        default="-",
        metavar="FILE",
        help="one JSON line per request; - is standard output, '' none (default: -)",
    )
    option(
        "--request-log-rate",
        type=_share,
        default=1.0,
        metavar="SHARE",
        help="of the successes (default: 1.0; errors: always)",
    )
    option(
        "--max-body",
        type=_size,
        default=32 << 20,
        metavar="SIZE",
        help="of a request, e.g. 32Mi; beyond it 413 (default: 32Mi)",
    )
    option(
        "--picker-timeout",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="then a pool's failureMode decides (default: 2)",
    )
    option("-v", "--verbose", action="store_true")
    command.set_defaults(act=lambda given: _go(_serve(_settings(given)), verbose=given.verbose))


def _demo(command: Parser) -> None:
    from penstock import demo  # noqa: PLC0415  it draws with rich, which `run` does not need

    command.description = demo.__doc__ or ""
    option = command.add_argument
    option("--manifests", type=Path, default=None, metavar="DIR", help="default: examples/quickstart")
    _listen_options(command)
    option("--once", action="store_true", help="run for --seconds, print one line of JSON, fail if any request failed")
    option(
        "--seconds", type=float, default=20.0, help="how long --once sends traffic, at most 45 (default: %(default)s)"
    )
    option("--rate", type=float, default=12.0, metavar="N", help="requests a second (default: %(default)s)")
    option("--seed", type=int, default=0)
    option("-v", "--verbose", action="store_true")
    command.set_defaults(act=lambda given: _go(demo.main(given), verbose=given.verbose))


def _translate(command: Parser) -> None:
    from penstock import offline  # noqa: PLC0415

    command.description = offline.__doc__ or ""
    command.add_argument("directory", type=Path, metavar="DIR")
    command.add_argument("--output", choices=("yaml", "json"), default="yaml")
    command.add_argument("--show", choices=("all", "envoy", "status"), default="all")
    _listen_options(command)
    command.set_defaults(act=offline.main)


def _bootstrap(command: Parser) -> None:
    command.description = (
        "Prints the bootstrap of an Envoy that gets its configuration from `penstock run --xds ADDRESS`."
    )
    option = command.add_argument
    option("--xds", type=_address, required=True, metavar="ADDRESS", help="of the xDS server: HOST:PORT or unix:PATH")
    option("--node-id", default="envoy-1", help="unique in the fleet (default: %(default)s)")
    option("--fleet", default="penstock", help="node.cluster: which configuration it gets (default: %(default)s)")
    option("--admin", type=_address, default="127.0.0.1:19000", metavar="ADDRESS")
    command.set_defaults(act=_print_bootstrap)


def _print_bootstrap(given: argparse.Namespace) -> int:
    print(json.dumps(bootstrap(given.xds, node_id=given.node_id, fleet=given.fleet, admin=given.admin), indent=2))
    return 0


def _listen_options(command: Parser) -> None:
    command.add_argument(
        "--listen", type=_listen, action="append", default=[], metavar="WHERE",
        help="ADDRESS for every listener (default 127.0.0.1; 0.0.0.0 opens it to the network), or PORT=ADDRESS:PORT to bind the "
        "listener of one port elsewhere, e.g. 80=127.0.0.1:8080; may be given several times",
    )  # fmt: skip


def listen_of(given: argparse.Namespace) -> Listen:
    """The --listen options as one value."""
    everywhere = [found for found in given.listen if isinstance(found, str)]
    binds = tuple(found for found in given.listen if isinstance(found, tuple))
    return Listen(everywhere[-1] if everywhere else "127.0.0.1", binds)


def _settings(given: argparse.Namespace) -> Settings:
    return Settings(
        manifests=given.manifests,
        listen=listen_of(given),
        proxy=Proxy(start=not given.no_envoy, workers=given.workers, admin=given.admin),
        xds=tuple(given.xds),
        picker=given.picker or "",
        telemetry=given.telemetry,
        request_log=given.request_log,
        request_log_rate=given.request_log_rate,
        max_body=given.max_body,
        picker_timeout=given.picker_timeout,
    )


async def _serve(settings: Settings) -> int:
    from penstock.run import running  # noqa: PLC0415  `translate` and `bootstrap` start faster without it

    stop = until_signal()
    async with running(settings) as gateway:
        logging.getLogger("penstock").info("ready: %s", gateway.report.addresses())
        await stop.wait()
    return 0


def until_signal() -> asyncio.Event:
    """Set by SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _go(work: Any, *, verbose: bool) -> int:
    """Run a coroutine; what the user can mend is one line, ours is a traceback."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(levelname)-7s %(message)s", stream=sys.stderr
    )
    for noisy in ("asyncio", "aiohttp", "grpc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return int(runner.run(work))
    except* (OSError, RuntimeError, UserError) as group:
        if verbose:
            raise
        for error in _leaves(group):
            print(f"penstock: error: {error}", file=sys.stderr)
    return 1


class UserError(Exception):
    """What stops a command and can be mended by the user; the message says how."""


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    return [
        leaf
        for each in group.exceptions
        for leaf in (_leaves(each) if isinstance(each, BaseExceptionGroup) else [each])
    ]


# --- argument types: ValueError texts reach the user through ArgumentTypeError ----------------------------------------


def _checked(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def check(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return check


@_checked
def _address(text: str) -> str:
    address(text)
    return text


@_checked
def _listen(text: str) -> str | tuple[int, str, int]:
    port, equals, where = text.partition("=")
    if not equals:
        return text.strip("[]")
    found = address(where)
    if not port.isdigit() or "socket_address" not in found:
        raise ValueError(f"{text!r}: write PORT=ADDRESS:PORT, for example 80=127.0.0.1:8080")
    socket = found["socket_address"]
    return int(port), socket["address"], socket["port_value"]


@_checked
def _count(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{text!r} is no number; write 0 or more")
    return int(text)


@_checked
def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{text!r} is no share; write a number from 0 to 1")
    return share


@_checked
def _size(text: str) -> int:
    units = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
    number, unit = (text[:-2], units[text[-2:]]) if text[-2:] in units else (text, 1)
    if not number.isdigit() or not 1024 <= int(number) * unit <= 1 << 30:
        raise ValueError(f"{text!r} is no size from 1Ki to 1Gi; write bytes, or a number with Ki, Mi or Gi")
    return int(number) * unit


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
