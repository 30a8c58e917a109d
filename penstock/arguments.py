"""The command line's parser and the types of its arguments; what is wrong is said with the remedy."""

import argparse
import difflib
import ipaddress
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from observability.aliases import FAMILIES
from penstock import export
from penstock.settings import Listen
from xds_server.bootstrap import address as envoy_address


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


def listen_options(command: Parser) -> None:
    command.add_argument(
        "--listen", type=listen, action="append", default=[], metavar="WHERE",
        help="ADDRESS for every listener (default 127.0.0.1; 0.0.0.0 opens it to the network), or PORT=ADDRESS:PORT to bind the "
        "listener of one port elsewhere, e.g. 80=127.0.0.1:8080; may be given several times",
    )  # fmt: skip


def listen_of(given: argparse.Namespace) -> Listen:
    """The --listen options as one value."""
    everywhere = [found for found in given.listen if isinstance(found, str)]
    binds = tuple(found for found in given.listen if isinstance(found, tuple))
    return Listen(everywhere[-1] if everywhere else "127.0.0.1", binds)


def _checked(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def check(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return check


@_checked
def address(text: str) -> str:
    envoy_address(text)
    return text


@_checked
def listen(text: str) -> str | tuple[int, str, int]:
    port, equals, where = text.partition("=")
    if not equals:
        return _ip(text)
    found = envoy_address(where)
    if not port.isdigit() or "socket_address" not in found:
        raise ValueError(f"{text!r}: write PORT=ADDRESS:PORT, for example 80=127.0.0.1:8080")
    socket = found["socket_address"]
    return int(port), _ip(socket["address"]), socket["port_value"]


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise ValueError(f"{text!r} is no IP address; write one, for example 0.0.0.0, or PORT=ADDRESS:PORT") from None


@_checked
def count(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{text!r} is no number; write 0 or more")
    return int(text)


@_checked
def aliases(text: str) -> tuple[str, ...]:
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in found:
        if name not in FAMILIES:
            raise ValueError(f"{name!r} is no family of aliases; write some of {', '.join(FAMILIES)}")
    return found


@_checked
def size(text: str) -> int:
    units = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
    number, unit = (text[:-2], units[text[-2:]]) if text[-2:] in units else (text, 1)
    if not number.isdigit() or not 1024 <= int(number) * unit <= 1 << 30:
        raise ValueError(f"{text!r} is no size from 1Ki to 1Gi; write bytes, or a number with Ki, Mi or Gi")
    return int(number) * unit


def _number(noun: str, low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not low <= found <= high:
            raise ValueError(f"{text!r} is no {noun}; write a number from {low:g} to {high:g}")
        return found

    return _checked(read)


share = _number("share", 0, 1)
seconds = _number("number of seconds", 0.001, 3600)
rate = _number("number of requests a second", 0.01, 1000)


def request_options(command: Parser) -> None:
    """What `run` and `controller` are told of requests; `about_requests` reads it."""
    option = command.add_argument
    option(
        "--request-log",
        default="-",
        metavar="FILE",
        help="one JSON line per request; - is standard output, '' none (default: -)",
    )
    option(
        "--request-log-rate",
        type=share,
        default=1.0,
        metavar="SHARE",
        help="share of the successes to log, from 0 to 1 (default: 1.0); errors are always logged",
    )
    option(
        "--decisions",
        default="",
        metavar="FILE",
        help="one JSON line per recorded decision, for `penstock replay`; - is standard output, '' none (default: '')",
    )
    option(
        "--decisions-rate",
        type=share,
        default=0.01,
        metavar="SHARE",
        help="share of the decisions to record, from 0 to 1, and at least one a second (default: 0.01; 0: none)",
    )
    option(
        "--explain",
        choices=("header", "off"),
        default="off",
        help="header: a request with `penstock-explain: 1` is recorded, and its client told the id (default: off)",
    )
    option(
        "--max-body",
        type=size,
        default=32 << 20,
        metavar="SIZE",
        help="the largest request body, in bytes or with Ki, Mi or Gi; a larger one gets 413 (default: 32Mi)",
    )
    option(
        "--picker-timeout",
        type=seconds,
        default=2.0,
        metavar="SECONDS",
        help="how long Envoy waits for a decision; after that the pool's failureMode decides (default: 2)",
    )
    option(
        "--metric-aliases",
        type=aliases,
        default=(),
        metavar="NAMES",
        help=f"metrics under these names too, for dashboards that ask for them: {', '.join(FAMILIES)}, separated by commas",
    )
    export.options(command, share)
    scorers_option(command)


def scorers_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--scorers", type=Path, metavar="DIR", help="directory of scorers of your own, which a python-scorer names"
    )


def scaler_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--scaler",
        type=address,
        default=None,
        metavar="ADDRESS",
        help="serve KEDA's external scaler here (default: not)",
    )


def about_requests(given: argparse.Namespace) -> dict[str, Any]:
    """As fields of Settings."""
    named = ("telemetry", "request_log", "request_log_rate", "max_body", "picker_timeout", "scorers")
    found = {name: getattr(given, name) for name in (*named, "metric_aliases", "decisions", "decisions_rate")}
    return {**found, "explain": given.explain == "header", "export": export.export_of(given)}
