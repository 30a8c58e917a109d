"""Traffic through a Picker that records everything: any configuration, any loads, waiting, subsets, objectives."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
from hypothesis import strategies as st

from picker.ask import Ask
from picker.facts import Decision
from picker.latency import Speed
from picker.load import Load
from picker.picker import Answer, Picker, Waiting
from picker.plugins.own import Own
from picker.record import DecisionRecord, Why
from picker.request import parse
from picker.served import Served
from tests.picker.test_picker import pool
from xds_server.model.graph import Endpoint, Objective

CANARY = "canary-5f2c"  # what must be in no record
MODELS = ("m", "adapter")
ROLES = ("decode", "prefill", "encode", "both", "")


def _endpoint(number: int) -> Endpoint:
    labels = {"llm-d.ai/role": ROLES[number % 5], "tier": "gold" if number % 2 else "iron",
              "llm-d.ai/context-length-range": f"0-{100 * (number + 1)}"}  # fmt: skip
    return Endpoint(f"10.0.0.{number}", 8000, zone=f"z{number % 2}", node=f"n{number % 3}", labels=tuple(sorted(labels.items())))  # fmt: skip


ENDPOINTS = tuple(_endpoint(number) for number in range(7))
RANKS = tuple(replace(_endpoint(number // 2), rank=number % 2, by_header=True) for number in range(7))


def plugin(kind: str, name: str = "", **parameters: Any) -> dict[str, Any]:
    return {"type": kind, "name": name or kind, "parameters": parameters}


FILTERS = (
    plugin("by-label", label="tier", validValues=["gold"], allowsNoLabel=True),
    plugin("context-length-aware", enableFiltering=True),
    plugin("utilization-filter", conditions=[{"metric": "waiting-queue", "maxValue": 3}], fallbackOnEmpty=True),
    plugin("prefix-cache-affinity-filter", explorationProbability=0.5),
    plugin("session-affinity-filter", strategy="session_id"),
    plugin("slo-headroom-tier-filter", epsilonExploreNeg=0.5),
    plugin("lora-filter"),
)
SCORERS = (
    *map(
        plugin, ("queue-scorer", "running-requests-size-scorer", "kv-cache-utilization-scorer", "prefix-cache-scorer")
    ),
    *map(plugin, ("active-request-scorer", "lora-affinity-scorer", "load-aware-scorer", "token-load-scorer")),
    *map(plugin, ("no-hit-lru-scorer", "latency-scorer", "predicted-latency-scorer", "mm-embeddings-cache-scorer")),
    plugin("session-affinity-scorer"),
    plugin("session-affinity-scorer", "remembered", strategy="session_id"),
    plugin("header-label-affinity-scorer", headerName="x-tier", labelKey="tier"),
    plugin("python-scorer", "own", function="mine:score"),
)
PICKERS = tuple(map(plugin, ("max-score-picker", "random-picker", "weighted-random-picker")))


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any] | None:
    """An EndpointPickerConfig that is read, with one stage or several."""
    if draw(st.integers(0, 4)) == 0:
        return None
    chosen = [*draw(st.lists(st.sampled_from(FILTERS), max_size=2, unique_by=lambda one: one["name"])),
              *draw(st.lists(st.sampled_from(SCORERS), min_size=1, max_size=3, unique_by=lambda one: one["name"])),
              draw(st.sampled_from(PICKERS))]  # fmt: skip
    shape = draw(st.sampled_from(("single", "disaggregated", "by-header", "ranks")))
    flow = {"featureGates": ["flowControl=false"]} if draw(st.booleans()) else {}
    refs = [{"pluginRef": one["name"], "weight": draw(st.sampled_from((1, 2.5)))} for one in chosen]
    one = [{"name": "default", "plugins": refs}]
    match shape:
        case "disaggregated":
            roles = [plugin("decode-filter"), plugin("prefill-filter"), plugin("encode-filter")]
            deciders = [plugin("always-disagg-pd-decider"), plugin("always-disagg-multimodal-decider")]
            use = {"prefill": "always-disagg-pd-decider", "encode": "always-disagg-multimodal-decider"}
            chosen += [*roles, *deciders, plugin("disagg-profile-handler", deciders=use)]
            one = [
                {"name": role, "plugins": [{"pluginRef": f"{role}-filter"}, *refs]}
                for role in ("decode", "prefill", "encode")
            ]
        case "by-header":
            chosen.append(plugin("header-profile-handler", defaultProfile="decode"))
            one = [{"name": name, "plugins": refs[place:]} for place, name in enumerate(("decode", "other"))]
        case "ranks":
            chosen.append(plugin("data-parallel-profile-handler"))
    return {"plugins": chosen, "schedulingProfiles": one, **flow}


def _floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


SPEEDS = st.builds(
    Speed,
    weights=st.tuples(*[_floats(0, 2)] * 4),
    drift=_floats(-1, 1),
    at=_floats(0, 100),
    seen=_floats(0, 50),
    slots=st.just(float("inf")) | _floats(1, 8),
    seconds=_floats(0.01, 5),
    trust=_floats(0, 1),
    foreign=_floats(0, 2),
)
LOADS = st.builds(
    Load,
    waiting=st.integers(0, 5),
    running=st.integers(0, 9),
    kv_usage=_floats(0, 1),
    loras=st.frozensets(st.sampled_from(MODELS), max_size=1),
    max_loras=st.integers(0, 2),
    adapters=st.frozensets(st.sampled_from(MODELS), max_size=2),
    adapters_busy=st.integers(0, 2),
    sheddable=st.integers(0, 3),
    scraped=st.just(float("-inf")) | _floats(80, 100),
    errors=st.integers(0, 4),
    inflight=st.integers(0, 6),
    inflight_tokens=st.integers(0, 9000),
    inflight_at_scrape=st.integers(0, 6),
    utilization=_floats(0, 1),
    speed=SPEEDS,
    prefill=st.tuples(_floats(0, 9), _floats(90, 100), _floats(90, 130)),
    resting=st.just(float("-inf")) | _floats(90, 140),
)
FULL = st.builds(
    Load,
    running=st.integers(1, 9),
    scraped=_floats(90, 100),
    inflight=st.integers(4, 6),
    speed=st.builds(Speed, slots=_floats(1, 3), seconds=_floats(0.01, 5), weights=st.tuples(*[_floats(0, 1)] * 4)),
)
POOLS = st.tuples(*[LOADS] * len(ENDPOINTS)) | st.tuples(*[FULL] * len(ENDPOINTS))
ASKS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(MODELS),
        "prompt": st.sampled_from((0, 300, 1200)),
        "headers": st.fixed_dictionaries(
            {},
            optional={
                "x-slo-ttft-ms": st.sampled_from(("20", "400", "5000", "soon")),
                "x-gateway-inference-objective": st.sampled_from(("gold", "bulk")),
                "x-gateway-inference-fairness-id": st.sampled_from(("a", "b")),
                "x-session-token": st.sampled_from((CANARY + "1", CANARY + "2")),
                "x-tier": st.sampled_from(("gold", "iron")),
                "epp-profile": st.sampled_from(("decode", "other", "none")),
                "x-request-id": st.sampled_from(("r-1", "r-2")),
            },
        ),
        "image": st.booleans(),
        "subset": st.none()
        | st.lists(st.sampled_from(("10.0.0.1", "10.0.0.2:8000", "10.0.0.9")), max_size=3).map(tuple),
    }
)
CHANGES = st.lists(st.tuples(st.integers(0, len(ENDPOINTS) - 1), LOADS), max_size=3)
STEPS = st.lists(ASKS | CHANGES, min_size=1, max_size=10)


class Known:
    """Signals that say what a test says, and count what was sent."""

    def __init__(self, loads: Mapping[str, Load]) -> None:
        self.known = dict(loads)

    def loads(self, pool: str) -> Mapping[str, Load]:
        return self.known

    def started(self, decision: Decision, now: float) -> None:
        load = self.known[decision.endpoints[0]]
        self.known[decision.endpoints[0]] = replace(load, inflight=load.inflight + 1)


class Kept:
    """Takes every record."""

    def __init__(self, why: Why | None = "sampled") -> None:
        self.why = why
        self.records: list[DecisionRecord] = []

    def wants(self, _ask: Ask) -> Why | None:
        return self.why

    def take(self, record: DecisionRecord) -> None:
        self.records.append(record)


def moody(view: Any) -> list[float]:
    """A user's scorer that says something else each time, or fails."""
    moody.calls += 1  # type: ignore[attr-defined]
    if moody.calls % 7 == 0:  # type: ignore[attr-defined]
        raise RuntimeError(CANARY)
    return [(i * 37 + moody.calls) % 11 / 10 for i in range(len(view.endpoints))]  # type: ignore[attr-defined]


moody.calls = 0  # type: ignore[attr-defined]
OWN = Own(lambda _: moody, lambda: 0.0)


def asked(given: Mapping[str, Any], number: int, now: float) -> Ask:
    text = {"type": "text", "text": (CANARY + " ") * (given["prompt"] // 12)}
    image = [{"type": "image_url", "image_url": {"url": CANARY}}] if given["image"] else []
    body = {"model": given["model"], "messages": [{"role": "user", "content": [text, *image]}]}
    headers = {":method": "POST", ":path": f"/v1/chat/completions?key={CANARY}", "authorization": f"Bearer {CANARY}",
               "cookie": f"session={CANARY}", "x-api-key": CANARY, "user-agent": CANARY, **given["headers"]}  # fmt: skip
    return Ask(parse(headers, orjson.dumps(body)), "ns/pool", given["subset"], f"id-{number}", now, 1e9 + now)


def traffic(
    config: Mapping[str, Any] | None,
    loads: tuple[Load, ...],
    steps: list[Any],
    endpoints: tuple[Endpoint, ...] = ENDPOINTS,
    served: Served | None = None,
) -> tuple[list[DecisionRecord], dict[str, Answer]]:
    """What was recorded, and what was answered, by id. In the end all servers have room for who still waits."""
    signals, kept = Known({str(one): load for one, load in zip(endpoints, loads, strict=True)}), Kept()
    picker = Picker(signals, own=OWN, records=kept, served=served)
    objectives = (Objective("bulk", -1), Objective("gold", 10))
    found = pool(*endpoints, objectives=objectives, config=config)
    picker.update({found.name: found})
    assert not [one for one in picker.problems if one.reason == "InvalidConfig"]
    answers: dict[str, Answer] = {}
    now = 100.0
    for number, step in enumerate(steps):
        now += 0.25
        if isinstance(step, dict):
            answer = picker.decide(asked(step, number, now))
            if not isinstance(answer, Waiting):
                answers[f"id-{number}"] = answer
        else:
            signals.known.update({str(endpoints[place]): load for place, load in step})
        answers.update(picker.poll(now))
    signals.known = {name: replace(load, inflight=0) for name, load in signals.known.items()}
    answers.update(picker.poll(now + 0.5))
    answers.update(picker.poll(now + 1000.0))
    assert not picker.waits
    return kept.records, answers
