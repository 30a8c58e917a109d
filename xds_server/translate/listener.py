"""LDS: one listener per port of the fleet, its chains, and what each of them does with a connection.

Source: Envoy `config.listener.v3`. Cases: tests/golden.
"""

from envoy_data_plane.envoy.config.core.v3 import Address, SocketAddress, SocketAddressProtocol
from envoy_data_plane.envoy.config.listener.v3 import (
    FilterChain,
    FilterChainMatch,
    Listener,
    ListenerFilter,
    UdpListenerConfig,
)
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 import TlsInspector

from xds_server.model.graph import Chain, Port
from xds_server.translate import stream, tls
from xds_server.translate.chain import asks_here, serves_models
from xds_server.translate.connection_manager import connection_manager
from xds_server.translate.encode import pack
from xds_server.translate.settings import DataPlane


def listener(port: Port, plane: DataPlane) -> Listener:
    """The listener of a port, named after it: stable whatever is routed there."""
    return _datagrams(port, plane) if port.transport == "UDP" else _connections(port, plane)


def listener_name(port: Port) -> str:
    return f"{port.transport.lower()}-{port.number}"


def chain_name(chain: Chain, port: Port) -> str:
    """The name of a chain, and of its route table if it has one: "http-80", "https-443/example.com", "tls-443/*"."""
    if chain.stream is not None:
        return f"tls-{port.number}/{chain.hostname or '*'}" if _by_name(port) else f"tcp-{port.number}"
    return f"https-{port.number}/{chain.hostname or '*'}" if chain.tls else f"http-{port.number}"


def _connections(port: Port, plane: DataPlane) -> Listener:
    models = any(map(serves_models, port.chains))
    ours = any(map(asks_here, port.chains))
    return Listener(
        name=listener_name(port),
        address=_address(port, plane),
        filter_chains=[_chain(chain, port, plane, models=models, ours=ours) for chain in port.chains],
        listener_filters=[_tls_inspector()] if _by_name(port) else [],
        per_connection_buffer_limit_bytes=plane.max_body if models else None,
    )


def _datagrams(port: Port, plane: DataPlane) -> Listener:
    served = next((chain.stream for chain in port.chains if chain.stream), None)
    address = _address(port, plane)
    if address.socket_address:
        address.socket_address.protocol = SocketAddressProtocol.UDP
    return Listener(
        name=listener_name(port),
        address=address,
        udp_listener_config=UdpListenerConfig(),
        listener_filters=[stream.udp_proxy(served, f"port-{port.number}")],
    )


def _chain(chain: Chain, port: Port, plane: DataPlane, *, models: bool, ours: bool) -> FilterChain:
    name, prefix, http = chain_name(chain, port), f"port-{port.number}", chain.stream is None
    found = FilterChain(
        name=name,
        filters=[
            connection_manager(chain, name, prefix, plane, models=models, ours=ours)
            if http
            else stream.tcp_proxy(chain.stream, prefix)
        ],
    )
    if chain.tls:
        found.transport_socket = tls.downstream(chain.tls, http=http)
    if chain.hostname and _by_name(port):
        found.filter_chain_match = FilterChainMatch(server_names=[chain.hostname])
    return found


def _by_name(port: Port) -> bool:
    """Whether the chains are chosen by the server name that a client asks for."""
    return port.sni or any(chain.tls for chain in port.chains)


def _address(port: Port, plane: DataPlane) -> Address:
    address, number = plane.socket(port.number)
    return Address(socket_address=SocketAddress(address=address, port_value=number))


def _tls_inspector() -> ListenerFilter:
    return ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=pack(TlsInspector()))
