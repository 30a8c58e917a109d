"""`penstock autoscale`: what autoscalers are told of a pool, and the manifests that make them ask."""

import argparse
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from observability.autoscaling import explain as explained, manifests as made
from observability.autoscaling.signals import SIGNALS
from penstock.arguments import Parser, address, count
from penstock.process import UserError, go

_PATIENCE = 10.0  # seconds


def options(command: Parser) -> None:
    command.description = __doc__ or ""
    commands = command.add_subparsers(dest="what", required=True, metavar="COMMAND", parser_class=Parser)
    _explain(commands.add_parser("explain", help="what each signal of a pool says, why, and what an HPA would do"))
    _manifests(commands.add_parser("manifests", help="print the manifests that make an autoscaler act on a pool"))


def _explain(command: Parser) -> None:
    command.description = (
        "Asks a running gateway's telemetry server what each signal of a pool says, and prints the figures behind it, their age, and "
        "what a HorizontalPodAutoscaler with that target would do. A signal that is not known is an error to an autoscaler: it keeps "
        "the size that there is."
    )
    option = command.add_argument
    option("pool", metavar="POOL", help="the InferencePool, as NAMESPACE/NAME; a name alone is in namespace default")
    option(
        "--telemetry",
        type=address,
        default="127.0.0.1:9090",
        metavar="ADDRESS",
        help="of the gateway; in a cluster: kubectl port-forward -n penstock-system deployment/penstock 9090 (default: %(default)s)",
    )
    option("--labels", default="", metavar="A=B,...", help="only the pods with these labels")
    option(
        "--target",
        action="append",
        default=[],
        type=target,
        metavar="SIGNAL=NUMBER",
        help=f"instead of the default; SIGNAL is one of {', '.join(SIGNALS)}; may be given several times",
    )
    option("--replicas", type=count, default=None, metavar="N", help="as if the pool had so many pods")
    option("--json", action="store_true", help="print JSON")
    command.set_defaults(act=lambda given: go(_print(given), verbose=False))


def _manifests(command: Parser) -> None:
    command.description = (
        "Prints manifests for `kubectl apply -f -`; docs/autoscaling.md compares the kinds and the signals."
    )
    option, default = command.add_argument, made.Wanted("", "", "")
    option("pool", metavar="POOL", help="the InferencePool, as NAMESPACE/NAME; a name alone is in namespace default")
    option(
        "--kind", choices=tuple(made.KINDS), default="hpa", help="who scales, and whom it asks (default: %(default)s)"
    )
    option("--signal", choices=tuple(SIGNALS), default=default.signal.name, help="default: %(default)s")
    option(
        "--target",
        type=above_zero,
        default=None,
        metavar="NUMBER",
        help="of the signal (default: what is good for most)",
    )
    option("--deployment", default="", metavar="NAME", help="that is scaled (default: the pool's name)")
    option(
        "--min",
        type=count,
        default=default.least,
        metavar="N",
        help="replicas; 0 with KEDA only (default: %(default)s)",
    )
    option("--max", type=count, default=default.most, metavar="N", help="replicas (default: %(default)s)")
    option("--gateway", default=default.gateway, metavar="NAME.NAMESPACE", help="our Service (default: %(default)s)")
    option(
        "--scaler-port",
        type=count,
        default=default.scaler_port,
        metavar="N",
        help="of KEDA's scaler (default: %(default)s)",
    )
    option("--prometheus", default=default.prometheus, metavar="URL", help="for keda-prometheus (default: %(default)s)")
    option("--engine", default=default.engine, help="of the model servers, for gke (default: %(default)s)")
    option(
        "--port",
        type=count,
        default=default.port,
        metavar="N",
        help="of the model servers, for gke (default: %(default)s)",
    )
    command.set_defaults(act=lambda given: go(_render(given), verbose=False))


async def _render(given: argparse.Namespace) -> int:
    namespace, _, pool = pool_name(given.pool).partition("/")
    wanted = made.Wanted(
        namespace,
        pool,
        given.deployment or pool,
        SIGNALS[given.signal],
        given.target,
        given.min,
        given.max,
        given.gateway,
        given.scaler_port,
        given.prometheus,
        given.engine,
        given.port,
    )
    try:
        print(made.render(made.manifests(given.kind, wanted)), end="")
    except made.CannotScale as error:
        raise UserError(str(error)) from error
    return 0


def above_zero(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: write a number above 0")
    return found


def target(text: str) -> tuple[str, float]:
    """SIGNAL=NUMBER."""
    name, _, number = text.partition("=")
    if name not in SIGNALS:
        raise argparse.ArgumentTypeError(f"{text!r}: write SIGNAL=NUMBER, where SIGNAL is one of {', '.join(SIGNALS)}")
    return name, above_zero(number)


def pool_name(text: str) -> str:
    """As "ns/name"."""
    return text if "/" in text else f"default/{text}"


async def _print(given: argparse.Namespace) -> int:
    found = explained.retargeted(
        fetch(given.telemetry, pool_name(given.pool), given.labels), dict(given.target), given.replicas
    )
    print(json.dumps(found, indent=2) if given.json else explained.text(found))
    return 0


def fetch(telemetry: str, pool: str, labels: str = "") -> dict[str, Any]:
    """The gateway's own explanation. Raises UserError."""
    query = urllib.parse.urlencode({"pool": pool, "labels": labels})
    try:
        with urllib.request.urlopen(f"http://{telemetry}/autoscale?{query}", timeout=_PATIENCE) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        try:
            message = json.load(error)["error"]
        except (ValueError, KeyError, TypeError):
            message = f"http://{telemetry}/autoscale answers {error.code}; is this a gateway's telemetry server?"
        raise UserError(message) from error
    except (OSError, ValueError) as error:
        raise UserError(f"http://{telemetry}: {error}; name the gateway's telemetry server with --telemetry") from error
