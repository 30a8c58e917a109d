"""A stream of bytes -> its lines, however it was cut into chunks. aiohttp's own reader refuses lines above 128 KiB."""


class Lines:
    """Linear in the bytes fed: an object of 1.5 MB comes in a hundred chunks."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, without their ends and without empty ones."""
        *ended, rest = chunk.split(b"\n")
        if ended:
            ended[0] = b"".join([*self._parts, ended[0]])
            self._parts.clear()
        if rest:
            self._parts.append(rest)
        return [line for line in ended if line.strip()]
