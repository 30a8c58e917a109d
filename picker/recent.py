"""Recent: which blocks of prompts each endpoint was sent a moment ago, and has not been heard of since."""

from bisect import bisect_left
from collections.abc import Collection, Sequence


class _Sent:
    """Two generations, so that forgetting costs nothing: one is filled, the other is as old again."""

    __slots__ = ("begun", "new", "old")

    def __init__(self, now: float) -> None:
        self.begun = now
        self.new: dict[int, float] = {}  # block -> when
        self.old: dict[int, float] = {}


class Recent:
    """Endpoints are "ip:port", times are seconds. Who is sent a chain is sent its head: a recent block has recent blocks before it."""

    __slots__ = ("_endpoints", "_seconds")

    def __init__(self, seconds: float) -> None:
        """How long a block is recent."""
        self._seconds = seconds
        self._endpoints: dict[str, _Sent] = {}

    def add(self, endpoint: str, hashes: Sequence[int], now: float) -> None:
        sent = self._endpoints.get(endpoint)
        if sent is None:
            sent = self._endpoints[endpoint] = _Sent(now)
        if now - sent.begun > self._seconds:
            sent.begun, sent.new, sent.old = now, {}, sent.new
        sent.new.update(dict.fromkeys(hashes, now))

    def count(self, endpoint: str, hashes: Sequence[int], known: int, now: float) -> int:
        """How many of the first blocks are recent, if those are more than `known`; else `known`."""
        sent = self._endpoints.get(endpoint)
        if sent is None or known >= len(hashes):
            return known
        new, old, since = sent.new.get, sent.old.get, now - self._seconds

        def sooner(block: int) -> bool:
            when = new(block) or old(block)
            return when is None or when < since

        return known if sooner(hashes[known]) else bisect_left(hashes, True, lo=known, key=sooner)

    def settle(self, endpoint: str, hashes: Sequence[int], sent: float) -> None:
        """What was sent at `sent`, and not again, is recent no more: whether it is there is known by now."""
        found = self._endpoints.get(endpoint)
        if found is None:
            return
        for block in hashes:
            if (found.new.get(block) or found.old.get(block)) == sent:
                found.new.pop(block, None)
                found.old.pop(block, None)  # an older time of it

    def forget(self, endpoint: str) -> None:
        """Whatever was sent there is gone."""
        self._endpoints.pop(endpoint, None)

    def retain(self, endpoints: Collection[str]) -> None:
        """Forget every endpoint but these."""
        for gone in self._endpoints.keys() - endpoints:
            del self._endpoints[gone]
