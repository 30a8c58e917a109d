"""Served: which models each server has, as it lists them itself, and so who of a pool may be asked for one.

A server that does not have an adapter answers 404, and no page of metrics names an adapter that is loaded and idle. But servers list
what they have: `GET /v1/models`. Who is known to lack a model is no candidate for it, as long as anybody may have it.

Nobody is left out on suspicion. A server whose list is not known, or too old, may have anything. So may one of an engine that takes
any name, which is told by who owns its models, or by an answer that is well for a model that its list does not have, nor after
another look. No clock in here. Decision: 0019.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import msgspec

from picker.ranks import host_port

MOST = 20_000  # models of one server
# Marks on a page: a model of vLLM has three that open something, and twenty commas. More is there to keep us busy.
_MARKS = {b"{": 5 * MOST, b"[": 5 * MOST, b",": 25 * MOST}
LONGEST = 1000  # characters of a name
# Whatever a request calls its model, these serve the one that they have; SGLang unless it is called `base:adapter`.
_TAKE_ANY = frozenset({"llamacpp", "tensorrt_llm"})
_TAKE_ANY_BASE = "sglang"
_DOUBTS = 16  # models of one server that it has served although it does not list them, until it is asked again


class _Card(msgspec.Struct):
    id: str
    parent: Any = None
    owned_by: Any = None


class _List(msgspec.Struct):
    data: list[_Card]


_DECODER = msgspec.json.Decoder(_List)


class NoList(Exception):
    """What was answered does not say what the server has."""


def parse(page: bytes) -> tuple[frozenset[str], bool]:
    """The names of an answer to `GET /v1/models`, and whether they are all that it takes, or all adapters that it takes (SGLang).

    Raises NoList, also where it lists nothing: such a server would be no use. SGLang's adapters are asked for as `base:adapter`, and
    listed as `adapter` with its `parent`.
    """
    if any(page.count(mark) > most for mark, most in _MARKS.items()):
        raise NoList("more than any list has")
    try:
        cards = _DECODER.decode(page).data
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NoList(f"no list of models: {error}") from None
    if not 0 < len(cards) <= MOST:
        raise NoList(f"{len(cards)} models")
    owner = cards[0].owned_by
    if isinstance(owner, str) and owner in _TAKE_ANY:
        raise NoList(f"{owner} takes any name")
    names = {card.id for card in cards}
    if owner == _TAKE_ANY_BASE:
        names.update(f"{card.parent}:{card.id}" for card in cards if card.parent)
    if max(map(len, names)) > LONGEST:
        raise NoList(f"a name is longer than {LONGEST} characters")
    return frozenset(names), owner != _TAKE_ANY_BASE


@dataclass(slots=True)
class _Server:
    """One address. Times are those of the caller's clock."""

    names: frozenset[str] | None = None  # None: not known
    at: float = -inf  # when it was asked for them
    until: float = inf  # they are believed
    asked: bool = False  # ever, and with an answer or without
    strict: bool = True  # False: other names than `base:adapter` are all its base model
    takes_any: bool = False  # it serves what it does not list
    doubts: tuple[str, ...] = ()
    doubted: float = -inf  # since when

    def may_have(self, model: str) -> bool:
        if self.names is None or self.takes_any or model in self.names:
            return True
        return not self.strict and ":" not in model

    def forget(self) -> None:
        self.names, self.asked, self.until, self.takes_any, self.doubts = None, True, inf, False, ()


class Served:
    """Of all servers, by "ip:port": the ranks behind a port have one list."""

    def __init__(self) -> None:
        self._servers: dict[str, _Server] = {}
        self._edition = 0
        self._until = inf  # no list ends before

    def update(self, endpoints: Iterable[str]) -> None:
        """These exist; the others are forgotten."""
        found = {host_port(name) for name in endpoints}
        for gone in self._servers.keys() - found:
            del self._servers[gone]
        for new in found - self._servers.keys():
            self._servers[new] = _Server()
        self._edition += 1

    def listed(self, address: str, names: frozenset[str], at: float, until: float, *, strict: bool = True) -> None:
        """It has these, as it said when it was asked at `at`; to be believed until `until`. `strict`: see parse."""
        server = self._servers.get(address)
        if server is None:
            return
        news = names != server.names or strict != server.strict
        if news:  # servers of a pool mostly have the same: kept once
            server.names = next((one.names for one in self._servers.values() if one.names == names), names)
            server.takes_any = False
        if at >= server.doubted and server.doubts:
            if not names.issuperset(server.doubts):
                news = server.takes_any = True
            server.doubts = ()
        server.asked, server.at, server.until, server.strict = True, at, until, strict
        self._until = min(self._until, until)
        self._edition += news

    def unanswered(self, address: str) -> None:
        """It was asked in vain: what it said before counts as long as it would have."""
        server = self._servers.get(address)
        if server is not None and not server.asked:
            server.asked = True
            self._edition += 1

    def unknown(self, address: str) -> None:
        """It does not say what it has."""
        server = self._servers.get(address)
        if server is not None and (server.names is not None or not server.asked):
            server.forget()
            self._edition += 1

    def edition(self, now: float) -> int:
        """Another one whenever `candidates` may say something else than before."""
        if now >= self._until:
            for server in self._servers.values():
                if now >= server.until:
                    server.forget()
                    self._edition += 1
            self._until = min((server.until for server in self._servers.values()), default=inf)
        return self._edition

    def candidates(self, names: Sequence[str], model: str) -> list[int] | None:
        """The indices of the endpoints that have the model or may have it; None for all of them, also where all are known to lack it.

        One that was not asked yet may have it only where no other may: that is a matter of milliseconds.
        """
        found: list[int] = []
        new: list[int] = []
        for index, name in enumerate(names):
            server = self._servers.get(host_port(name))
            if server is None or not server.asked:
                new.append(index)
            elif server.may_have(model):
                found.append(index)
        kept = found or new
        return kept if 0 < len(kept) < len(names) else None

    def lacks(self, endpoint: str, model: str) -> bool:
        """Whether it is known not to have the model."""
        server = self._servers.get(host_port(endpoint))
        return bool(model) and server is not None and not server.may_have(model)

    def doubted(self, endpoint: str, model: str, now: float) -> None:
        """It has answered well for a model that it was known to lack: what it lists next says whether it takes any name."""
        server = self._servers.get(host_port(endpoint))
        if server is not None:
            server.doubts, server.doubted = (*server.doubts, model)[-_DOUBTS:], now

    def has(self, endpoint: str) -> Collection[str] | None:
        """The models that it lists; None where that is not known."""
        server = self._servers.get(host_port(endpoint))
        return None if server is None else server.names

    def age(self, endpoint: str, now: float) -> float | None:
        """Seconds since it was asked for them; None where they are not known."""
        server = self._servers.get(host_port(endpoint))
        return None if server is None or server.names is None else now - server.at

    def note(self, endpoints: Iterable[str]) -> str:
        """What a person should know of these endpoints; "" for nothing."""
        found = [name for name in endpoints if (one := self._servers.get(host_port(name))) and one.takes_any]
        if not found:
            return ""
        return (
            f"{len(found)} endpoints, such as {found[0]}, serve models that their /v1/models does not list: what it lists is not "
            "taken for all that they have"
        )
