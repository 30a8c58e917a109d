"""Adapters: which LoRA adapters an endpoint has in its slots, also when none of them is in use.

A server's page names those that run or wait now, a scrape late. An idle one stays in its slot until another one needs it, and no
page says so: vLLM gives the slot of the least recently used away. So we remember which were used last. No clock in here.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable

_NONE: Collection[str] = ()


class Adapters:
    """Of the endpoints ("ip:port") of all pools."""

    def __init__(self) -> None:
        self._used: dict[str, OrderedDict[str, None]] = {}  # the latest last

    def update(self, endpoints: Collection[str]) -> None:
        """These exist; the others are forgotten."""
        for gone in self._used.keys() - set(endpoints):
            del self._used[gone]

    def used(self, endpoint: str, names: Iterable[str], slots: int) -> None:
        """These are in use there now, on a server with so many slots for adapters."""
        used = self._used.setdefault(endpoint, OrderedDict())
        for name in names:
            used[name] = None
            used.move_to_end(name)
        while len(used) > slots:
            used.popitem(last=False)

    def loaded(self, endpoint: str) -> Collection[str]:
        """Those that were used last, at most as many as there are slots."""
        return self._used.get(endpoint, _NONE)
