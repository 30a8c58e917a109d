"""`penstock controller`: the options of a gateway in a Kubernetes cluster."""

import argparse
import json
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace

from penstock.arguments import Parser, about_requests, address, count, request_options, scaler_option
from penstock.process import go
from penstock.settings import Autoscaling, Kubernetes, Proxy, Settings
from xds_server.infrastructure import Infrastructure

Serve = Callable[[Settings], Awaitable[int]]
_DEFAULT = Infrastructure(xds="", server_name="", authority="")
_HERE = Kubernetes()


def options(command: Parser, serve: Serve) -> None:
    """Everything that the Helm chart sets; see deploy/README.md."""
    command.description = (
        "Runs the gateway in a Kubernetes cluster: watches the Gateway API and inference resources, serves xDS and the endpoint "
        "picker over TLS, writes statuses, and makes Envoys for each Gateway. In a pod it needs no option; elsewhere it uses KUBECONFIG."
    )
    whereabouts(command)
    _about_this_replica(command)
    _about_envoys(command)
    _about_autoscalers(command)
    request_options(command)
    command.add_argument("-v", "--verbose", action="store_true", help="log more")
    command.set_defaults(act=lambda given: go(serve(settings(given)), verbose=given.verbose))


def whereabouts(command: Parser) -> None:
    """Where the cluster is, and what we are called in it."""
    option = command.add_argument
    option(
        "--kubeconfig",
        default="",
        metavar="FILE",
        help="how to reach the API server (default: KUBECONFIG, or the pod's account)",
    )
    option("--context", default="", help="of the kubeconfig (default: its current one)")
    option(
        "--namespace",
        default=os.environ.get("POD_NAMESPACE", _HERE.namespace),
        help="ours: the Lease and our authority are kept there (default: POD_NAMESPACE, or penstock-system)",
    )
    option("--service", default=_HERE.service, help="the Service by which Envoys find us (default: %(default)s)")
    option("--xds-port", type=count, default=_HERE.xds_port, metavar="PORT", help="xDS (default: %(default)s)")


def _about_this_replica(command: Parser) -> None:
    option = command.add_argument
    option(
        "--address",
        default=os.environ.get("POD_IP", _HERE.address),
        metavar="IP",
        help="where Envoys reach this replica's picker (default: POD_IP, or 127.0.0.1)",
    )
    option(
        "--picker-port",
        type=count,
        default=_HERE.picker_port,
        metavar="PORT",
        help="ext_proc and access log (default: %(default)s)",
    )
    option(
        "--watch-namespace",
        action="append",
        default=[],
        metavar="NAMESPACE",
        help="serve the Gateways and routes of this namespace only; may be given several times (default: all)",
    )
    option(
        "--telemetry",
        type=address,
        default="0.0.0.0:9090",
        metavar="ADDRESS",
        help="/metrics, /status, /autoscale, /readyz (default: %(default)s)",
    )


def _about_envoys(command: Parser) -> None:
    option = command.add_argument
    option(
        "--no-provision",
        action="store_true",
        help="make no Envoys: the fleet of each Gateway is there already, under the names that deploy/README.md tells",
    )
    option("--envoy-image", default=_DEFAULT.image, metavar="IMAGE", help="default: %(default)s")
    option(
        "--envoy-replicas",
        type=count,
        default=_DEFAULT.replicas,
        metavar="N",
        help="of each Gateway (default: %(default)s)",
    )
    option(
        "--envoy-workers",
        type=count,
        default=_DEFAULT.workers,
        metavar="N",
        help="threads of an Envoy (default: %(default)s)",
    )
    option(
        "--envoy-drain",
        type=count,
        default=_DEFAULT.drain,
        metavar="SECONDS",
        help="that an Envoy goes on after it is told to end (default: %(default)s)",
    )
    option(
        "--service-type",
        choices=("LoadBalancer", "NodePort", "ClusterIP"),
        default=_DEFAULT.service_type,
        help="of each Gateway's Service (default: %(default)s)",
    )


def _about_autoscalers(command: Parser) -> None:
    option = command.add_argument
    option(
        "--external-metrics",
        type=address,
        default=None,
        metavar="ADDRESS",
        help="serve external.metrics.k8s.io here, for HorizontalPodAutoscalers, over TLS (default: not)",
    )
    scaler_option(command)
    option("--scaler-tls", action="store_true", help="the scaler has a certificate of our authority")


async def attach(given: argparse.Namespace) -> int:
    """`penstock attach`: the manifests that are not pods, as a List."""
    from penstock.cluster import attachment  # noqa: PLC0415  the parser needs nothing of it

    place = Kubernetes(
        namespace=given.namespace,
        service=given.service,
        xds_port=given.xds_port,
        kubeconfig=given.kubeconfig,
        context=given.context,
    )
    print(json.dumps(await attachment(place, given.gateway), indent=1))
    return 0


def settings(given: argparse.Namespace) -> Settings:
    pod = os.environ.get("POD_NAME") or socket.gethostname()
    return Settings(
        kubernetes=Kubernetes(
            namespace=given.namespace,
            service=given.service,
            identity=f"{pod}_{secrets.token_hex(4)}",  # a container that restarts in its pod is another candidate
            address=given.address,
            xds_port=given.xds_port,
            picker_port=given.picker_port,
            watch=tuple(given.watch_namespace),
            kubeconfig=given.kubeconfig,
            context=given.context,
            provision=not given.no_provision,
            infrastructure=replace(
                _DEFAULT,
                image=given.envoy_image,
                replicas=given.envoy_replicas,
                workers=given.envoy_workers,
                drain=given.envoy_drain,
                service_type=given.service_type,
            ),
        ),
        proxy=Proxy(start=False),
        autoscaling=Autoscaling(given.external_metrics or "", given.scaler or "", given.scaler_tls),
        **about_requests(given),
    )
