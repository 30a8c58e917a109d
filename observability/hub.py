"""Who is told of which facts: each fact costs one look-up, and a call of everybody who asked for its type."""

from collections.abc import Callable
from typing import Any, TypeVar

Fact = TypeVar("Fact")


class Hub:
    """`on` subscribes, `tell` tells, at once and in the order of subscribing. For one event loop.

    Handlers must not block or raise: what one raises reaches the teller, and those after it are not told.
    """

    __slots__ = ("_handlers", "_subscribed")

    def __init__(self) -> None:
        self._subscribed: list[tuple[type, Callable[[Any], None]]] = []
        self._handlers: dict[type, tuple[Callable[[Any], None], ...]] = {}  # by the types of facts that were told

    def on(self, kind: type[Fact], handle: Callable[[Fact], None]) -> None:
        """Tell `handle` the facts of this type from now on; all facts are of type `object`."""
        self._subscribed.append((kind, handle))
        self._handlers.clear()

    def tell(self, fact: object) -> None:
        """Takes any fact."""
        try:
            handlers = self._handlers[type(fact)]
        except KeyError:
            handlers = self._find(type(fact))
        for handle in handlers:
            handle(fact)

    def _find(self, kind: type) -> tuple[Callable[[Any], None], ...]:
        found = tuple(handle for asked, handle in self._subscribed if issubclass(kind, asked))
        self._handlers[kind] = found
        return found
