"""Scorers that remember where requests went: `Profile.after` tells them. Each belongs to one profile of one pool."""

from collections import OrderedDict

from picker.scorers import UNKNOWN, View

MEGABYTES_PER_ITEM = 2  # of an encoder cache, as llm-d estimates them


class NoHitLru:
    """llm-d's no-hit-lru-scorer: requests that nobody has cached go round, the least recently given one first.

    So what is cold spreads over all endpoints instead of piling up where the other scorers see a small advantage.
    """

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._given: OrderedDict[str, None] = OrderedDict()  # endpoints that got a cold request, the least recent first

    def __call__(self, view: View) -> list[float]:
        count = len(view.names)
        if any(view.matched):
            return [UNKNOWN] * count
        if count == 1:
            return [1.0]
        order = {name: place for place, name in enumerate(self._given, 1)}
        places = [order.get(name, 0) for name in view.names]  # 0: never
        rank = {place: position for position, place in enumerate(sorted(places))}
        return [1.0 - rank[place] / (count - 1) if place else 1.0 for place in places]

    def after(self, view: View, endpoints: tuple[str, ...]) -> None:
        if any(view.matched):
            return
        for name in endpoints:
            self._given[name] = None
            self._given.move_to_end(name)
        while len(self._given) > self._size:
            self._given.popitem(last=False)


class MediaCache:
    """llm-d's mm-embeddings-cache-scorer: the share of the prompt's images, videos and sounds that the endpoint has encoded."""

    def __init__(self, items: int = 2048) -> None:
        self._items = items  # of one endpoint
        self._seen: dict[str, OrderedDict[int, None]] = {}

    def __call__(self, view: View) -> list[float]:
        media = view.request.media
        if not media:
            return [0.0] * len(view.names)
        empty: OrderedDict[int, None] = OrderedDict()
        caches = [self._seen.get(name, empty) for name in view.names]
        return [sum(item in cache for item in media) / len(media) for cache in caches]

    def after(self, view: View, endpoints: tuple[str, ...]) -> None:
        if not view.request.media:
            return
        if len(self._seen) > 2 * len(view.names):  # a hint of the gateway may leave out some that are still there
            self._seen = {name: cache for name, cache in self._seen.items() if name in view.names}
        for name in endpoints:
            cache = self._seen.setdefault(name, OrderedDict())
            for item in view.request.media:
                cache[item] = None
                cache.move_to_end(item)
            while len(cache) > self._items:
                cache.popitem(last=False)
