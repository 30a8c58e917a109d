"""A record explained: the same functions on what was recorded, and what each of them said on the way. Off the request path."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from picker import profile as profiles, schedule, ttft
from picker.errors import NoEndpoint
from picker.facts import Refused
from picker.health import healthy
from picker.plugins.own import Own
from picker.record import Config, DecisionRecord, Tape, through
from picker.scorers import View, known
from picker.stage import Pick, Profile
from picker.turn import Verdict, choose, places


class Diverged(Exception):
    """Plugins that the record quotes are asked in another order than then."""


@dataclass(slots=True)
class Stage:
    """One run of a profile: a request has several where a handler says so, or where only some candidates have room."""

    profile: str
    candidates: tuple[str, ...]  # that it began with
    dropped: list[tuple[str, list[str]]] = field(default_factory=list)  # (filter, endpoints)
    scores: list[tuple[str, float, dict[str, float]]] = field(default_factory=list)  # (scorer, weight, by endpoint)
    total: dict[str, float] = field(default_factory=dict)
    endpoints: tuple[str, ...] = ()  # best first; none where the filters let nobody pass


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a record's inputs give."""

    found: Pick | Verdict | NoEndpoint
    stages: tuple[Stage, ...]


def profile_of(config: Config, own: Own | None = None) -> Profile:
    """The profile of a recorded configuration. Without `own` the user's scorers only say what the record quotes of them.

    Raises ConfigError, or LookupError where the configuration was not recorded.
    """
    if config.content is None:
        if config.digest != Config().digest:
            raise LookupError("its configuration could not be recorded: it is not JSON")
        return profiles.DEFAULT
    return profiles.read(config.content, own or Own(lambda _: _absent, lambda: 0.0))


def _absent(_view: object) -> Sequence[float]:
    raise Diverged("a scorer of the user is asked, and the record does not quote it")


def replay(record: DecisionRecord, profile: Profile, *, quoted: bool = True) -> Replayed:
    """Choose again. `quoted`: plugins that learn, and the user's, say what they said then; else they are asked anew, and learn.

    Raises ValueError for a record without a turn, Diverged.
    """
    turn = record.turn
    if turn is None:
        raise ValueError("it was refused without a choice")
    stages: list[Stage] = []
    tape = _Playback(record.tape)

    def play(profile: Profile) -> Profile:
        return through(profile, tape.keep, tape.score) if quoted else profile

    def run(view: View, stage: Profile, id_: str) -> Pick:
        found = Stage(stage.name, tuple(view.names))
        stages.append(found)
        pick = schedule.run(view, _watched(play(stage), found), id_)
        found.endpoints = pick.endpoints
        return pick

    chosen = play(profile)
    if quoted:
        chosen = replace(chosen, after=())  # they learned it when it happened
    try:
        return Replayed(choose(record.view(), chosen, turn, run), tuple(stages))
    except NoEndpoint as error:
        return Replayed(error, tuple(stages))


class _Playback:
    """What opaque filters and scorers said, in the order in which they were asked."""

    def __init__(self, tape: Tape) -> None:
        self._left = deque(tape)

    def keep(self, name: str, _filter: object) -> Callable[[View], list[int]]:
        def quote(view: View) -> list[int]:
            said = self._next(name)
            if not all(one in range(len(view.names)) for one in said):
                raise Diverged(f"{name!r} is asked for {len(view.names)} endpoints, and kept others")
            return [int(one) for one in said]

        return quote

    def score(self, name: str, _scorer: object) -> Callable[[View], list[float]]:
        def quote(view: View) -> list[float]:
            said = self._next(name)
            if len(said) != len(view.names):
                raise Diverged(f"{name!r} is asked for {len(view.names)} endpoints, and said {len(said)} figures")
            return list(said)

        return quote

    def _next(self, name: str) -> tuple[float, ...]:
        kept, said = self._left.popleft() if self._left else ("nothing", ())
        if kept != name:
            raise Diverged(f"{name!r} is asked where the record has {kept!r}")
        return said


def _watched(profile: Profile, stage: Stage) -> Profile:
    """The profile, whose functions note what they said."""

    def filters(name: str, keep: Callable[[View], list[int]]) -> Callable[[View], list[int]]:
        def watch(view: View) -> list[int]:
            kept = keep(view)
            gone = [view.names[i] for i in sorted(set(range(len(view.names))) - set(kept))]
            if gone:
                stage.dropped.append((name, gone))
            return kept

        return watch

    def scores(name: str, score: Callable[[View], list[float]], weight: float) -> Callable[[View], list[float]]:
        def watch(view: View) -> list[float]:
            found = score(view)
            stage.scores.append((name, weight, dict(zip(view.names, found, strict=True))))
            return found

        return watch

    def picks(view: View, totals: list[float], id_: str) -> list[int]:
        stage.total = stage.total or dict(zip(view.names, totals, strict=True))  # first it is asked about all of them
        return profile.picker(view, totals, id_)

    return replace(
        profile,
        filters=tuple((name, filters(name, one)) for name, one in profile.filters),
        scorers=tuple((name, scores(name, one, weight), weight) for name, one, weight in profile.scorers),
        picker=picks,
    )


# --- the same, or what differs ----------------------------------------------------------------------------------------


def differences(record: DecisionRecord, replayed: Replayed) -> list[str]:
    """What came out otherwise than recorded, in words; nothing: the same, bit for bit."""
    found, was = replayed.found, record.picked
    if isinstance(found, Pick) and was is not None:
        pairs = ((name, getattr(was, name), getattr(found, name)) for name in Pick.__dataclass_fields__)
        return [
            f"{name}: {_shown(one)} was recorded, {_shown(other)} is found"
            for name, one, other in pairs
            if one != other
        ]
    one, other = outcome(was or record.refused), outcome(found)
    return [] if one == other else [f"{one} was recorded, {other} is found"]


def outcome(found: Pick | Refused | Verdict | NoEndpoint | None) -> str:
    """The same words for the same outcome, whichever of both it is told by."""
    match found:
        case Pick():
            return ",".join(found.endpoints)
        case Refused():
            return f"{found.reason} ({found.message})" if found.reason == "no_endpoints" else found.reason
        case NoEndpoint():
            return f"no_endpoints ({found})"
        case "late":
            return "slo_unreachable"
    return str(found)


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) or "nothing" if isinstance(value, tuple) else str(value)


# --- for people -------------------------------------------------------------------------------------------------------


def predicted(record: DecisionRecord) -> float | None:
    """Seconds to the first token on the endpoint that was picked, from the decision on; None where none was."""
    if record.picked is None:
        return None
    view = record.view()
    return ttft.predict(view)[view.names.index(record.picked.endpoints[0])]


def summary(record: DecisionRecord) -> dict[str, Any]:
    """A row of a list."""
    refused = record.refused
    return {
        "id": record.id,
        "time": record.time,
        "why": record.why,
        "pool": record.pool,
        "model": record.request.model,
        "target_model": record.request.target_model,
        "priority": record.request.priority,
        "prompt_tokens": record.request.prompt_bytes // 4,
        "candidates": len(record.candidates),
        "waited_seconds": record.waited,
        "endpoints": list(record.picked.endpoints) if record.picked else [],
        "predicted_ttft_seconds": predicted(record),
        "matched_tokens": record.picked.matched if record.picked else None,
        "status": refused.status if refused else None,
        "reason": refused.reason if refused else None,
    }


def explanation(record: DecisionRecord, profile: Profile) -> dict[str, Any]:
    """What a person wants to know of it: each candidate's state, who was dropped by which filter, every score, the order.

    Raises Diverged.
    """
    view, turn = record.view(), record.turn
    room = places(view, turn)[0] if turn and view.names else []
    fit = set(healthy(view.loads, view.now))
    expected, slots = ttft.predict(view), ttft.drain(view)
    found = replay(record, profile) if turn else None
    return {
        "outcome": outcome(record.picked or record.refused),
        "same": found is not None and not differences(record, found),
        "held": record.held,
        "waited_seconds": record.waited,
        "candidates": [
            {
                "endpoint": name,
                "load_age_seconds": view.now - load.scraped if load.scraped > float("-inf") else None,
                "load_known": known(load, view.now),
                "rests": i not in fit,
                "room": room[i] if room else None,
                "predicted_ttft_seconds": expected[i],
                "slot_in_seconds": slots[i],
                "matched_tokens": view.matched[i],
                "waiting": load.waiting,
                "running": load.running,
                "inflight": load.inflight,
                "kv_usage": load.kv_usage,
            }
            for i, (name, load) in enumerate(zip(view.names, view.loads, strict=True))
        ],
        "dropped": [{"filter": "served-models", "endpoints": list(record.lacking)}] if record.lacking else [],
        "stages": [_stage(one) for one in found.stages] if found else [],
    }


def _stage(stage: Stage) -> dict[str, Any]:
    weights = [{"scorer": name, "weight": weight} for name, weight, _ in stage.scores]
    return {
        "profile": stage.profile,
        "candidates": list(stage.candidates),
        "dropped": [{"filter": name, "endpoints": gone} for name, gone in stage.dropped],
        "scorers": weights,
        "scores": {
            name: {**{scorer: figures[name] for scorer, _, figures in stage.scores}, "sum": total}
            for name, total in stage.total.items()
        },
        "picked": list(stage.endpoints),
    }
