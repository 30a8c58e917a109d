"""DecisionRecord: everything that one decision depended on, so that it can be explained later, and made again.

Only inputs are recorded, and what came out; who was filtered out, scores and predictions are worked out from them when somebody
asks (`explain.py`), by the functions that made the decision. What a request was about is not in it: no prompt, no credentials, and
of its headers only those that a filter, scorer or handler read. Two kinds of plugins depend on more than the View: those that
learn where requests went, and those of the user. What they said is recorded word by word (`tape`). Decision: 0013.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

import orjson
from xxhash import xxh3_64_hexdigest

from picker import schedule
from picker.ask import Ask
from picker.facts import Refused
from picker.load import Load
from picker.plugins.own import Guarded
from picker.request import InferenceRequest
from picker.scorers import View
from picker.stage import After, Learns, Pick, Profile
from picker.turn import Turn, Verdict, choose
from xds_server.model.graph import Endpoint

LONGEST = 1000  # characters of a name that a client chose; no adapter and no label has one that is longer
LONGEST_HEADER = 8000
# Headers whose values are nobody's business, whatever scorer reads them.
_SECRET = re.compile(r"auth|cookie|token|secret|password|api-?key|credential|signature", re.IGNORECASE)

Why = Literal["asked", "sampled"]
# Why it waited. behind: others waited before it; wait and full: see turn.Verdict.
Held = Literal["", "behind", "wait", "full"]
Tape = tuple[tuple[str, tuple[float, ...]], ...]  # (name of the plugin, what it said), in the order of the calls


@dataclass(frozen=True, slots=True)
class Config:
    """An EndpointPickerConfig in force; content None is the default profile."""

    digest: str = "default"
    content: Mapping[str, Any] | None = None


def config_of(content: Mapping[str, Any] | None) -> Config:
    """With its digest. What JSON cannot say (a file that holds itself) has no content: its decisions are not made again."""
    if content is None:
        return Config()
    try:
        plain = orjson.dumps(content, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError, RecursionError):
        return Config("unreadable")
    return Config(xxh3_64_hexdigest(plain), orjson.loads(plain))


@dataclass(frozen=True, slots=True)
class Request:
    """What is recorded of a request."""

    path: str  # without the query
    model: str  # as the client asked
    target_model: str  # as the server is asked
    priority: int
    objective: str
    fairness_id: str
    request_id: str
    session: str  # a hash
    streaming: bool
    prompt_bytes: int
    body_bytes: int
    cacheable: int  # tokens of the prompt in whole blocks
    media: int  # pictures, videos and sounds
    headers: Mapping[str, str] = field(default_factory=dict)  # those that a filter, scorer or handler read
    withheld: tuple[str, ...] = ()  # read too, but the value is not recorded
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    endpoint: Endpoint
    load: Load
    matched: int  # tokens of the prompt that it has cached


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One decision or refusal. `now` and the times in Loads are monotonic seconds of one process."""

    id: str
    time: float  # time.time() of the answer
    why: Why
    pool: str
    request: Request
    config: Config
    now: float
    waited: float  # seconds
    held: Held
    queued: int  # requests that wait in the pool, this one not counted
    subset: tuple[str, ...] | None
    candidates: tuple[Candidate, ...]  # also those that rest; none where there was none
    turn: Turn | None  # None: it was refused without one, by what else waits or because it had waited long enough
    tape: Tape
    picked: Pick | None
    refused: Refused | None
    lacking: tuple[str, ...] = ()  # endpoints that were known not to have the model, and so no candidates

    def view(self) -> View:
        """What filters and scorers saw, but for the prompt, which is as long and empty."""
        request, found = self.request, self.candidates
        seen = InferenceRequest(
            request.path,
            model=request.model,
            streaming=request.streaming,
            prompt=bytes(request.prompt_bytes),
            body_bytes=request.body_bytes,
            objective=request.objective,
            fairness_id=request.fairness_id,
            session_id=request.session,
            request_id=request.request_id,
            headers=request.headers,
            media=(0,) * request.media,
        )
        return View(
            seen,
            request.target_model,
            [one.endpoint for one in found],
            [str(one.endpoint) for one in found],
            [one.load for one in found],
            [one.matched for one in found],
            request.cacheable,
            self.now,
            id=self.id,
            lacking=self.lacking,
        )


class Records(Protocol):
    """Who wants records, and takes them."""

    def wants(self, ask: Ask) -> Why | None: ...
    def take(self, record: DecisionRecord) -> None: ...


# --- while a decision is made -----------------------------------------------------------------------------------------

Function = Callable[[View], Sequence[float]]


def opaque(function: object) -> bool:
    """Whether what a filter or scorer says depends on more than the View."""
    return isinstance(function, (Learns, Guarded))


def through(profile: Profile, keep: Callable[[str, Any], Any], score: Callable[[str, Any], Any]) -> Profile:
    """The profile with its opaque filters by way of `keep`, and its opaque scorers by way of `score`."""
    return replace(
        profile,
        filters=tuple((name, keep(name, one) if opaque(one) else one) for name, one in profile.filters),
        scorers=tuple((name, score(name, one) if opaque(one) else one, share) for name, one, share in profile.scorers),
    )


class Noted(Mapping[str, str]):
    """Headers that remember which of them were read."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        found = self._headers[name]
        self.read.add(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)


class Recording:
    """Of one request that somebody wants to know of: what its choice depends on, noted while it is made."""

    __slots__ = ("_noted", "_raw", "_tape", "held", "turn", "view", "why")

    def __init__(self, why: Why, request: InferenceRequest) -> None:
        self.why = why
        self.held: Held = ""
        self.view: View | None = None  # of the last choice
        self.turn: Turn | None = None
        self._raw = request
        self._noted = Noted(request.headers)
        self._tape: list[tuple[str, tuple[float, ...]]] = []

    def choose(self, view: View, profile: Profile, turn: Turn) -> Pick | Verdict:
        """As turn.choose. Of several the last counts. Raises NoEndpoint."""
        self._noted, self._tape = Noted(self._raw.headers), []
        self.view, self.turn = view, turn
        seen = replace(view, request=replace(self._raw, headers=self._noted))
        tell = tuple(partial(self._tell, one) for one in profile.after)
        return choose(seen, replace(self._through(profile), after=tell), turn, self._run)

    def _run(self, view: View, stage: Profile, id_: str) -> Pick:
        return schedule.run(view, self._through(stage), id_)

    def _through(self, profile: Profile) -> Profile:
        return through(profile, self._taped, self._taped)

    def _taped(self, name: str, function: Function) -> Function:
        def ask(view: View) -> Sequence[float]:
            found = function(self._unnoted(view))
            self._tape.append((name, tuple(found)))
            return found

        return ask

    def _tell(self, tell: After, view: View, endpoints: tuple[str, ...]) -> None:
        tell(self._unnoted(view), endpoints)

    def _unnoted(self, view: View) -> View:
        """For whom it does not matter what is read: its answer is recorded, not its reasons."""
        return replace(view, request=self._raw)

    def record(
        self,
        ask: Ask,
        answer: Pick | Refused,
        *,
        view: View | None,
        pool: str,
        target_model: str,
        priority: int,
        config: Config,
        now: float,
        queued: int,
    ) -> DecisionRecord:
        """`view`: what is known of the candidates now; None where there are none. It is that of the last choice, or a later one."""
        turn = self.turn if view is not None and view is self.view else None
        request, noted = ask.request, self._noted
        shown = {name: noted[name][:LONGEST_HEADER] for name in sorted(noted.read) if turn and not _SECRET.search(name)}
        found = zip(view.endpoints, view.loads, view.matched, strict=True) if view is not None else ()
        return DecisionRecord(
            id=ask.id,
            time=ask.wall + (now - ask.now),
            why=self.why,
            pool=pool,
            request=Request(
                path=request.path[:LONGEST],
                model=request.model[:LONGEST],
                target_model=target_model[:LONGEST],
                priority=priority,
                objective=request.objective[:LONGEST],
                fairness_id=request.fairness_id[:LONGEST],
                request_id=request.request_id[:LONGEST],
                session=request.session_id,
                streaming=request.streaming,
                prompt_bytes=len(request.prompt),
                body_bytes=request.body_bytes,
                cacheable=view.cacheable if view is not None else 0,
                media=len(request.media),
                headers=shown,
                withheld=tuple(name for name in sorted(noted.read) if turn and name not in shown),
                trace_id=ask.trace.trace_id,
            ),
            config=config,
            now=now,
            waited=now - ask.now,
            held=self.held,
            queued=queued,
            subset=ask.subset,
            candidates=tuple([Candidate(*one) for one in found]),
            turn=turn,
            tape=tuple(self._tape) if turn else (),
            picked=answer if isinstance(answer, Pick) else None,
            refused=answer if isinstance(answer, Refused) else None,
            lacking=tuple(view.lacking) if view is not None else (),
        )
