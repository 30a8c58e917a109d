"""`penstock autoscale`: what autoscalers are told of a pool, and the manifests that make them ask."""

import argparse
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from observability.autoscaling import explain as explained
from observability.autoscaling.signals import SIGNALS
from penstock.arguments import Parser, address, count
from penstock.process import UserError, go

_PATIENCE = 10.0  # seconds


def options(command: Parser) -> None:
    command.description = __doc__ or ""
    commands = command.add_subparsers(dest="what", required=True, metavar="COMMAND", parser_class=Parser)
    _explain(commands.add_parser("explain", help="what each signal of a pool says, why, and what an HPA would do"))


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


def target(text: str) -> tuple[str, float]:
    """SIGNAL=NUMBER."""
    name, _, number = text.partition("=")
    try:
        found = float(number)
    except ValueError:
        found = 0.0
    if name not in SIGNALS or not 0.0 < found < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r}: write SIGNAL=NUMBER, where SIGNAL is one of {', '.join(SIGNALS)} and NUMBER is above 0"
        )
    return name, found


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
