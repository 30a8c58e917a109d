"""What belongs to a pool: whether an InferenceObjective or InferenceModelRewrite has the effect that its owner wants.

Of a pool whose picker is not ours nothing is said: the picker that reads these objects has the word. Sources: llm-d 0.10
InferenceObjective, InferenceModelRewrite (the oldest object wins, then the first rule). Cases: tests/xds_server/test_resolve_members.py.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from xds_server.model.graph import ObjectStatus
from xds_server.model.objects import InferenceModelRewrite, InferenceObjective, InferencePool, ObjectRef, Problem
from xds_server.resolve import conditions as c
from xds_server.resolve.context import Context
from xds_server.resolve.pickers import honoured

Member = InferenceObjective | InferenceModelRewrite
EVERY = ""  # the model of a rule that names none


def member_statuses(context: Context) -> tuple[dict[ObjectRef, ObjectStatus], list[Problem]]:
    """Accepted, of every objective and rewrite; and what is wrong with them."""
    state = context.state
    held = {pool.meta.ref: pool for pool in state.all(InferencePool)}
    useful, notes = _precedence(context)
    notes |= _second_objectives(state.all(InferenceObjective))
    members: list[Member] = [*state.all(InferenceObjective), *state.all(InferenceModelRewrite)]
    statuses: dict[ObjectRef, ObjectStatus] = {}
    problems: list[Problem] = []
    for member in members:
        pool, ref, generation = held.get(member.pool), member.meta.ref, member.meta.generation
        if pool is not None and honoured(pool, context) is not None:
            continue
        field, reason, message = "", "", c.sentence(notes.get(ref, ()))
        if pool is None:
            field, reason = "spec.poolRef", c.TARGET_NOT_FOUND
            message = f"{member.pool} does not exist; create it or change spec.poolRef"
        elif isinstance(member, InferenceModelRewrite) and ref not in useful:
            field, reason = "spec.rules", c.CONFLICTED if message else c.INVALID
            message = message or "no rule has targets, so that no model is rewritten; add targets"
        if reason:
            problems.append(Problem(ref, field, reason, message, member.meta.source))
            condition = c.failed(c.ACCEPTED, reason, message, generation)
        else:
            condition = c.passed(c.ACCEPTED, generation, message)
        statuses[ref] = ObjectStatus(ref, (condition,))
    return statuses, problems


def _rules(rewrites: Iterable[InferenceModelRewrite]) -> Iterator[tuple[str, int, InferenceModelRewrite]]:
    """(model, rule, object) in order of precedence, of all rules that rewrite anything."""
    for rewrite in rewrites:
        for number, rule in enumerate(rewrite.rules):
            if rule.targets:
                for model in dict.fromkeys(rule.models or (EVERY,)):
                    yield model, number, rewrite


def _precedence(context: Context) -> tuple[set[ObjectRef], dict[ObjectRef, list[str]]]:
    """The rewrites that are the first for some model, and what of any is never used."""
    useful: set[ObjectRef] = set()
    notes: dict[ObjectRef, list[str]] = defaultdict(list)
    for rewrites in context.rewrites.values():
        first: dict[str, tuple[int, InferenceModelRewrite]] = {}
        for model, number, rewrite in _rules(rewrites):
            rule, taker = first.setdefault(model, (number, rewrite))
            if taker is rewrite and rule == number:
                useful.add(rewrite.meta.ref)
                continue
            what = f"model {model!r}" if model else "every model that no rule names"
            by = f"its rule {rule}" if taker is rewrite else f"{taker.meta.ref}, which comes first,"
            notes[rewrite.meta.ref].append(f"rule {number} is not used for {what}: {by} has it")
    return useful, notes


def _second_objectives(objectives: Iterable[InferenceObjective]) -> dict[ObjectRef, list[str]]:
    """Models that an objective lists and another one of the pool gets: the first by name."""
    notes: dict[ObjectRef, list[str]] = defaultdict(list)
    first: dict[tuple[ObjectRef, str], InferenceObjective] = {}
    for each in sorted(objectives, key=lambda found: found.meta.ref.name):
        for model in each.models:
            taker = first.setdefault((each.pool, model), each)
            if taker is not each:
                notes[each.meta.ref].append(f"model {model!r} has {taker.meta.ref}, the first by name")
    return notes
