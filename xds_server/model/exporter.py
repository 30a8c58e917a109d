"""Exporter: what tells how busy the accelerators of a pool's endpoints are, beside each of them or on its node."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exporter:
    """An HTTP server of metrics, seen from an endpoint."""

    port: int = 0  # 0: the endpoint's own
    path: str = "/metrics"
    on_node: bool = False
    interval: float = 1.0  # seconds

    def url(self, address: str, port: int, node: str) -> str:
        """Of an endpoint at `address`:`port`, on the node at `node`; empty where the node's address is needed and not known."""
        found = node if self.on_node else address
        host = f"[{found}]" if ":" in found else found
        return f"http://{host}:{self.port or port}{self.path}" if found else ""
