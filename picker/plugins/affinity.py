"""Session affinity: the requests of one session go to one endpoint.

Two strategies, llm-d's names. `session_id` remembers where the session's last request went, for a while. `encoded_endpoint_header`
keeps nothing: the header's value, whatever it is, is hashed with each endpoint's name and the highest wins (rendezvous hashing),
so that every replica decides the same and losing an endpoint moves only its own sessions. llm-d puts the pod's name into the
token, which tells clients the names of pods and lets them choose one; here a token is opaque, and none is ever sent back.
"""

from collections import OrderedDict
from collections.abc import Callable

from xxhash import xxh3_64_intdigest

from picker.plugins.parameters import Parameters
from picker.scorers import View

TOKEN_HEADER, SESSION_HEADER = "x-session-token", "x-session-id"
STRATEGIES = ("encoded_endpoint_header", "session_id")
MOST_SESSIONS = 1 << 16  # remembered: a client names its session itself

Key = Callable[[View], str]  # of the session; "" for none


class Hashed:
    """The endpoint that the session's key belongs to."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def find(self, view: View) -> int | None:
        key = self._key(view)
        if not key:
            return None
        seed = xxh3_64_intdigest(key.encode())
        return max(range(len(view.names)), key=lambda i: xxh3_64_intdigest(view.names[i].encode(), seed))

    def after(self, view: View, endpoints: tuple[str, ...]) -> None:
        """Nothing to remember."""


class Remembered:
    """The endpoint that the session's last request went to, as long as it is a candidate. Keys are kept as hashes only."""

    def __init__(self, key: Key, seconds: float) -> None:
        self._key = key
        self._seconds = seconds
        self._bound: OrderedDict[int, tuple[str, float]] = (
            OrderedDict()
        )  # session -> endpoint, when; least recent first

    def find(self, view: View) -> int | None:
        key = self._key(view)
        found = self._bound.get(xxh3_64_intdigest(key.encode())) if key else None
        if found is None or view.now - found[1] > self._seconds or found[0] not in view.names:
            return None
        return view.names.index(found[0])

    def after(self, view: View, endpoints: tuple[str, ...]) -> None:
        key = self._key(view)
        if not key:
            return
        session = xxh3_64_intdigest(key.encode())
        self._bound[session] = (endpoints[0], view.now)
        self._bound.move_to_end(session)
        while len(self._bound) > MOST_SESSIONS or view.now - next(iter(self._bound.values()))[1] > self._seconds:
            self._bound.popitem(last=False)


class AffinityScorer:
    """1 for the session's endpoint, 0 for the others."""

    def __init__(self, where: Hashed | Remembered) -> None:
        self.after, self._find = where.after, where.find

    def __call__(self, view: View) -> list[float]:
        found = self._find(view)
        return [float(i == found) for i in range(len(view.names))]


class AffinityFilter:
    """The session's endpoint alone; everybody where it has none."""

    def __init__(self, where: Hashed | Remembered) -> None:
        self.after, self._find = where.after, where.find

    def __call__(self, view: View) -> list[int]:
        found = self._find(view)
        return list(range(len(view.names))) if found is None else [found]


def read(given: Parameters) -> Hashed | Remembered:
    given.text("profileName")  # in llm-d: whose endpoint the token names; here always that of the response
    strategy = given.choice("strategy", STRATEGIES, STRATEGIES[0])
    encoded, session = given.child("encodedEndpointHeaderConfig"), given.child("sessionIdConfig")
    header = encoded.text("header", TOKEN_HEADER).strip().lower() or TOKEN_HEADER
    encoded.finish()
    names = [_source(one) for one in session.children("sources")] or [SESSION_HEADER]
    seconds = session.number("evictionTtlSeconds", 300.0, 0.001)
    session.number("evictionSweepSeconds", 10.0, 0.001)
    session.finish()
    if strategy == "session_id":
        return Remembered(lambda view: _first(view, names), seconds)
    return Hashed(lambda view: view.request.headers.get(header, ""))


def _source(given: Parameters) -> str:
    """A header's name, or "" for what the request says by any of the headers that are known to name a session."""
    header, attribute = given.text("header").strip().lower(), given.text("attribute")
    given.text("producer")
    given.finish()
    if bool(header) == bool(attribute):
        raise given.error("header", "exactly one of header and attribute must be set")
    return header


def _first(view: View, names: list[str]) -> str:
    found = (view.request.headers.get(name, "") if name else view.request.session_id for name in names)
    return next((each for each in found if each), "")
