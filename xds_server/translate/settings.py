"""DataPlane: what translation needs to know beside the Graph: where to listen, where the picker is, limits."""

from dataclasses import dataclass

from xds_server.bootstrap import Trust


@dataclass(frozen=True, slots=True)
class DataPlane:
    """Durations are seconds, sizes bytes."""

    bind: str = "0.0.0.0"  # noqa: S104  a gateway listens; `penstock run` passes 127.0.0.1
    binds: tuple[tuple[int, str, int], ...] = ()  # (listener port, address, port): listeners that are bound elsewhere
    picker: str = "unix:/run/penstock/picker.sock"  # "unix:PATH" or "host:port": ext_proc and access log
    picker_standby: str = ""  # "host:port": asked while `picker` does not answer; by name, the other replicas
    instance: str = ""  # of the process: Envoys leave the standby, with their access logs, when `picker` is a new one
    picker_timeout: float = 2.0  # then FailOpen or FailClose; a picker that queues a request asks for more time itself
    foreign_picker_timeout: float = 10.0  # the same for pickers of others, with the time that requests queue there
    max_body: int = 32 * 1024 * 1024  # a prompt with images is large; beyond it the client gets 413
    stream_idle: float = 900.0  # pools: no byte either way for so long ends the stream
    connect_timeout: float = 2.0
    explain: bool = False  # a client that asks is told the id of its decision's record
    trust: Trust | None = None  # how Envoys know the picker, and it them; None: plaintext, as on a unix socket

    def socket(self, port: int) -> tuple[str, int]:
        """The address and port to bind for a listener's port."""
        for listener, address, bound in self.binds:
            if listener == port:
                return address, bound
        return self.bind, port
