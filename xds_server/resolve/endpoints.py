"""Endpoints: the addresses behind a Service port and behind an InferencePool.

Sources: discovery.k8s.io/v1 EndpointSlice conditions; InferencePool 1.6 `targetPorts` (a pod and a port are an endpoint,
the port's index is the data-parallel rank). Cases: tests/xds_server/test_resolve_endpoints.py.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import replace

from xds_server.model.graph import Endpoint
from xds_server.model.objects import EndpointSlice, InferencePool, Pod, Service, ServicePort, SliceEndpoint, XBackend
from xds_server.parse import annotations
from xds_server.resolve.context import Context

ACTIVE_PORTS = ("llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports")


def service_endpoints(service: Service, port: ServicePort, context: Context) -> tuple[Endpoint, ...]:
    """The ready addresses of a Service port, from its EndpointSlices.

    A Service without any EndpointSlice gets the addresses of the Pods that it selects: in a directory of manifests there is
    no endpoint controller. Headless Services are no different: Envoy balances, not the cluster IP.
    """
    slices = context.slices.get((service.meta.namespace, service.meta.ref.name), [])
    if slices:
        return unique(
            found
            for each in slices
            for name, number in each.ports
            if name == port.name
            for found in _from_slice(each, number)
        )
    pods = context.pods(service.meta.namespace, service.selector)
    numbers = ((pod, _target(port, pod)) for pod in pods)
    return unique(_from_pod(pod, number) for pod, number in numbers if number and _serves(pod))


def pool_endpoints(pool: InferencePool, context: Context) -> tuple[Endpoint, ...]:
    """Every pod of the pool x every target port, sorted and unique.

    Without Pods that match, EndpointSlices whose labels match take their place, and the annotation `penstock.dev/endpoints`
    adds addresses: both are for manifests in files, where nobody runs pods.
    """
    found = [
        Endpoint(address, port, rank=pool.target_ports.index(port) if port in pool.target_ports else 0)
        for address, port in listed(pool)
        if not (context.setting.per_gateway and own_host(address))
    ]
    pods = context.pods(pool.meta.namespace, pool.selector)
    for pod in filter(_serves, pods):
        active = active_ports(pod)
        for rank, port in enumerate(pool.target_ports):
            if active is None or port in active:
                found.append(_from_pod(pod, port, rank))
    if not pods:
        for each in context.selected_slices(pool.meta.namespace, pool.selector):
            for rank, port in _slice_ports(each, pool.target_ports):
                found.extend(_from_slice(each, port, rank))
    return unique(found)


def unready_pods(pool: InferencePool, context: Context) -> int:
    """How many pods of the pool start, or do not serve now."""
    pods = context.pods(pool.meta.namespace, pool.selector)
    return sum(not _serves(pod) and not pod.terminating for pod in pods)


def pool_candidates(pool: InferencePool, context: Context) -> tuple[Endpoint, ...]:
    """What the picker chooses among: the endpoints, or the ranks behind each, of which the proxy knows nothing."""
    found, ranks = pool_endpoints(pool, context), annotations.pool_ranks(pool.meta)
    if ranks == 1:
        return found
    return tuple(replace(each, rank=rank, by_header=True) for each in found for rank in range(ranks))


def listed(pool: InferencePool) -> tuple[tuple[str, int], ...]:
    """(address, port) of each endpoint that the annotation adds."""
    return annotations.pool_endpoints(pool.meta)


def own_host(address: str) -> bool:
    """Whether an address leads to whoever asks, or to its node: in a cluster no user may send us there (EndpointSlice's rule)."""
    found = ipaddress.ip_address(address)
    found = getattr(found, "ipv4_mapped", None) or found
    return found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast


def selected_endpoints(found: XBackend, context: Context) -> tuple[Endpoint, ...]:
    """The ready pods that an XBackend selects, at its port; slices with the labels in their place, as for pools."""
    pods = context.pods(found.meta.namespace, found.selector)
    if pods:
        return unique(_from_pod(pod, found.port) for pod in pods if _serves(pod))
    slices = context.selected_slices(found.meta.namespace, found.selector)
    return unique(each for one in slices for each in _from_slice(one, found.port))


def unique(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Sorted, each address and port once: one that is not draining wins, then one that is known to be a pod."""
    best = sorted(endpoints, key=lambda e: (e.address, e.port, e.draining, not e.pod, e))
    return tuple({(found.address, found.port): found for found in reversed(best)}.values())[::-1]


def active_ports(pod: Pod) -> frozenset[int] | None:
    """The target ports that this pod serves now; None for all. What is not a number is skipped."""
    for annotation in ACTIVE_PORTS:
        if annotation in pod.meta.annotations:
            words = pod.meta.annotations[annotation].replace(",", " ").split()
            return frozenset(int(word) for word in words if word.isascii() and word.isdigit())
    return None


def _serves(pod: Pod) -> bool:
    return bool(pod.ip) and pod.ready


def _from_pod(pod: Pod, port: int, rank: int = 0) -> Endpoint:
    return Endpoint(
        address=pod.ip,
        port=port,
        pod=pod.meta.ref.name,
        node=pod.node,
        draining=pod.terminating,
        rank=rank,
        labels=tuple(sorted(pod.meta.labels.items())),
        host=pod.host,
    )


def _from_slice(found: EndpointSlice, port: int, rank: int = 0) -> Iterator[Endpoint]:
    if found.address_type == "FQDN":  # deprecated by Kubernetes; EDS takes addresses only
        return
    for each in found.endpoints:
        if each.addresses and (each.ready or _drains(each)):
            # All addresses of one entry are the same endpoint; the API says to use the first.
            yield Endpoint(each.addresses[0], port, each.pod, each.zone, each.node, draining=_drains(each), rank=rank)


def _drains(each: SliceEndpoint) -> bool:
    return each.terminating and each.serving


def _target(port: ServicePort, pod: Pod) -> int:
    """The container's port; 0 when this pod has none of that name."""
    if isinstance(port.target, str):
        return pod.ports.get(port.target, 0)
    return port.target or port.port


def _slice_ports(found: EndpointSlice, targets: tuple[int, ...]) -> list[tuple[int, int]]:
    """(rank, port): the pool's target ports that the slice has; its own ports when it has none of them."""
    held = [port for _, port in found.ports]
    both = [(rank, port) for rank, port in enumerate(targets) if port in held or not held]
    return both or list(enumerate(held))
