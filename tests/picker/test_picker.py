"""The Picker: objectives, rewrites, what is learned, what a change of pools keeps, and each refusal."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given, strategies as st

from picker.facts import Decision
from picker.load import Load
from picker.picker import Ask, Denied, Picker, target_model
from picker.profile import DEFAULT, Own
from picker.request import InferenceRequest
from picker.served import Served
from xds_server.model.graph import Backend, Endpoint, Objective, Pool
from xds_server.model.objects import InferenceModelRewrite, Meta, ObjectRef, RewriteRule

A, B, C = (Endpoint(f"10.0.0.{i}", 80) for i in (1, 2, 3))


class FakeSignals:
    def __init__(self, loads: Mapping[str, Load] | None = None) -> None:
        self.known = loads or {}
        self.begun: list[Decision] = []

    def loads(self, pool: str) -> Mapping[str, Load]:
        return self.known

    def started(self, decision: Decision, now: float) -> None:
        self.begun.append(decision)


def pool(*endpoints: Endpoint, name: str = "pool", **more: Any) -> Pool:
    ref = ObjectRef("inference.networking.k8s.io", "InferencePool", "ns", name)
    return Pool(ref, Backend(f"pool/ns/{name}", ref, pool=True), endpoints, **more)


def rewrite(*rules: RewriteRule) -> InferenceModelRewrite:
    ref = ObjectRef("llm-d.ai", "InferenceModelRewrite", "ns", "r")
    return InferenceModelRewrite(Meta(ref), ref, rules)


def picker_of(*pools: Pool, signals: FakeSignals | None = None, default: str = "") -> Picker:
    found = Picker(signals or FakeSignals(), default)
    found.update({one.name: one for one in pools})
    return found


def ask(pool: str = "ns/pool", subset: tuple[str, ...] | None = None, id: str = "id", **request: Any) -> Ask:  # noqa: A002
    return Ask(InferenceRequest("/v1/completions", **{"model": "m", **request}), pool, subset, id, 0.0, 5.0)


def test_a_decision_says_all_that_was_known() -> None:
    signals = FakeSignals()
    found = picker_of(pool(A, B), signals=signals).decide(ask(prompt=b"x" * 600, streaming=True, body_bytes=700))
    assert isinstance(found, Decision)
    assert (found.pool, found.model, found.target_model, found.candidates) == ("ns/pool", "m", "m", 2)
    assert (found.prompt_tokens, found.matched_tokens, found.body_bytes, found.time) == (150, 0, 700, 5.0)
    assert signals.begun == [found]


def test_the_same_prompt_goes_to_the_same_endpoint() -> None:
    picker = picker_of(pool(A, B, C))
    first = picker.decide(ask(prompt=b"x" * 600))
    for number in range(20):
        again = picker.decide(ask(id=str(number), prompt=b"x" * 600))
        assert again.endpoints[0] == first.endpoints[0]
        assert again.matched_tokens == 128


def test_the_server_says_how_much_it_remembers() -> None:
    signals = FakeSignals({str(A): Load(scraped=0.0, blocks=4, block_tokens=16)})  # 64 tokens: one block of ours
    picker = picker_of(pool(A), signals=signals)
    picker.decide(ask(prompt=b"x" * 600))
    assert picker.decide(ask(prompt=b"x" * 600)).matched_tokens == 64


def test_what_is_learned_of_endpoints_that_stay_is_kept() -> None:
    picker = picker_of(pool(A))
    picker.decide(ask(prompt=b"x" * 600))
    picker.update({"ns/pool": pool(A, B, C)})
    assert picker.decide(ask(prompt=b"x" * 600)).endpoints[0] == str(A)
    picker.update({"ns/pool": pool(B, C)})
    assert picker.decide(ask(prompt=b"x" * 600)).matched_tokens == 0
    picker.update({})
    assert picker.decide(ask()).refused.status == 503


def test_a_bad_profile_leaves_the_last_good_one_in_force() -> None:
    good, bad = {"plugins": [{"type": "queue-scorer"}]}, {"plugins": [{"type": "magic"}]}
    picker = picker_of(pool(A, config=good))
    assert not picker.problems
    picker.update({"ns/pool": pool(A, config=bad)})
    (problem,) = picker.problems
    assert (problem.ref.name, problem.field) == ("pool", "plugins[0].type")
    assert [name for name, _, _ in picker.profile("ns/pool").scorers] == ["queue-scorer"]
    picker.update({"ns/pool": pool(A)})
    assert not picker.problems
    assert picker.profile("ns/pool") is DEFAULT
    assert picker.profile("ns/other") is None


def test_which_pool() -> None:
    one, two = pool(A, name="one"), pool(B, name="two")
    assert picker_of(one).decide(ask("")).pool == "ns/one"
    assert picker_of(one, two, default="ns/two").decide(ask("")).pool == "ns/two"
    for found in (picker_of(one, two).decide(ask("")), picker_of(one).decide(ask("ns/none"))):
        assert isinstance(found, Denied)
        assert (found.refused.status, found.refused.reason) == (503, "no_endpoints")


def test_an_empty_subset_is_503() -> None:
    for found in (picker_of(pool()).decide(ask(subset=())), picker_of(pool(A)).decide(ask(subset=()))):
        assert (found.refused.status, found.outcome.reason, found.outcome.pool) == (503, "no_endpoints", "ns/pool")
    assert picker_of(pool(A, B)).decide(ask(subset=("10.0.0.2",))).endpoints == (str(B),)


OBJECTIVES = (Objective("bulk", -1), Objective("gold", 10, ("m",)))


def test_objectives() -> None:
    picker = picker_of(pool(A, objectives=OBJECTIVES))
    assert [
        (d.objective, d.priority) for d in (picker.decide(ask(objective=name)) for name in ("bulk", "gold", "none"))
    ] == [
        ("bulk", -1),
        ("gold", 10),
        ("gold", 10),  # nobody knows "none": the model's own objective holds
    ]
    assert picker.decide(ask()).objective == "gold"  # by its model
    assert picker.decide(ask(model="n")).objective == ""
    assert picker.decide(ask(model="")).objective == ""


def test_only_a_negative_priority_is_shed() -> None:
    signals = FakeSignals({str(A): Load(scraped=0.0, waiting=50)})
    picker = picker_of(pool(A, objectives=OBJECTIVES), signals=signals)
    found = picker.decide(ask(objective="bulk"))
    assert (found.refused.status, found.refused.reason, found.refused.retry_after) == (429, "shed_priority", 10)
    assert (found.outcome.objective, found.outcome.priority, found.outcome.attempts) == ("bulk", -1, 0)
    assert isinstance(picker.decide(ask(objective="gold")), Decision)
    assert picker.saturation("ns/pool", 0.0) == 10
    assert picker.saturation("ns/none", 0.0) is None
    assert len(signals.begun) == 1


def test_rewrites() -> None:
    exact, catch_all = RewriteRule(("m",), (("exact", 1),)), RewriteRule((), (("all", 1),))
    assert target_model((rewrite(catch_all), rewrite(exact)), "m", "k") == "exact"
    assert target_model((rewrite(catch_all), rewrite(exact)), "n", "k") == "all"
    assert target_model((rewrite(exact, RewriteRule(("m",), (("later", 1),))),), "m", "k") == "exact"
    assert target_model((rewrite(exact),), "n", "k") == "n"
    assert target_model((rewrite(catch_all),), "", "k") == ""
    assert target_model((rewrite(exact),), "n", "k", "by-header") == "by-header"
    assert target_model((rewrite(exact),), "m", "k", "by-header") == "exact"
    assert target_model((), "", "k", "by-header") == ""


def test_weights_are_proportions_and_sessions_are_faithful() -> None:
    found = (rewrite(RewriteRule((), (("a", 3), ("b", 1)))),)
    counts = Counter(target_model(found, "m", str(i)) for i in range(1000))
    assert 700 < counts["a"] < 800
    picker = picker_of(pool(A, rewrites=found))
    assert len({picker.decide(ask(id=str(i), session_id="s")).target_model for i in range(20)}) == 1


@given(st.lists(st.integers(0, 3), min_size=1), st.text(max_size=4))
def test_a_target_is_always_found_and_never_one_of_weight_zero(weights: list[int], key: str) -> None:
    targets = tuple((str(i), weight) for i, weight in enumerate(weights))
    found = target_model((rewrite(RewriteRule((), targets)),), "m", key)
    assert weights[int(found)] > 0 or not sum(weights)


# --- what configurations ask for --------------------------------------------------------------------------------------


def roles(*names: str) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"10.0.1.{i}", 80, labels=(("llm-d.ai/role", name),)) for i, name in enumerate(names))


DISAGGREGATED = {
    "plugins": [
        {"type": "prefill-filter"},
        {"type": "decode-filter"},
        {"type": "prefix-cache-scorer"},
        {"type": "prefix-based-pd-decider", "parameters": {"nonCachedTokens": 16}},
        {"type": "disagg-profile-handler", "parameters": {"deciders": {"prefill": "prefix-based-pd-decider"}}},
    ],
    "schedulingProfiles": [
        {"name": stage, "plugins": [{"pluginRef": f"{stage}-filter"}, {"pluginRef": "prefix-cache-scorer"}]}
        for stage in ("prefill", "decode")
    ],
}


def test_prefill_workers_are_told_by_header_and_remember_the_prompt() -> None:
    workers = roles("prefill", "prefill", "prefill", "decode")
    picker = picker_of(pool(*workers, config=DISAGGREGATED))
    found = [picker.decide(ask(prompt=b"x" * 1024, id=str(number))) for number in range(9)]
    assert all(isinstance(each, Decision) and each.endpoints == (str(workers[3]),) for each in found)
    first, *others = [dict(each.headers)["x-prefiller-host-port"] for each in found if isinstance(each, Decision)]
    assert first in {str(worker) for worker in workers[:3]}
    assert set(others) == {""}  # decode has all of it by then
    again = [picker.decide(ask(prompt=b"x" * 1024 + b"y" * 256, id=str(number))) for number in range(9)]
    told = {dict(each.headers)["x-prefiller-host-port"] for each in again if isinstance(each, Decision)}
    assert told <= {first, ""}  # whoever has computed the beginning


def test_scorers_of_users_are_problems_when_they_fail() -> None:
    config = {"plugins": [{"type": "python-scorer", "name": "mine", "parameters": {"function": "f:g"}}]}
    picker = Picker(FakeSignals(), own=Own(lambda _: lambda seen: [2.0 for _ in seen.endpoints], lambda: 0.0))
    picker.update({"ns/pool": pool(A, B, config=config)})
    assert picker.problems == ()
    assert isinstance(picker.decide(ask()), Decision)
    (problem,) = picker.problems
    assert (problem.field, problem.reason) == ("plugins", "FaultyScorer")
    assert "'mine' failed in 1 of 1 calls, last: gave 2.0" in problem.message


def test_the_probabilistic_admitter_sheds_before_the_pool_is_full() -> None:
    signals = FakeSignals({str(A): Load(waiting=4, scraped=0.0)})
    objectives = (Objective("low", -1),)
    for plugins, status in (([], None), ([{"type": "probabilistic-admitter"}], 429)):
        picker = picker_of(pool(A, config={"plugins": plugins}, objectives=objectives), signals=signals)
        found = picker.decide(ask(objective="low"))
        assert (found.refused.status if isinstance(found, Denied) else None) == status
        assert not isinstance(picker.decide(ask()), Denied)


def test_flow_control_is_as_configured() -> None:
    picker = picker_of(pool(config={"featureGates": ["flowControl=false"]}))
    assert isinstance(picker.decide(ask()), Denied)  # nobody waits for endpoints


# --- what servers list ------------------------------------------------------------------------------------------------


def listed(*lists: str, **more: Any) -> tuple[Picker, Served]:
    """A picker of A, B and C, which list these: words, or nothing where it does not say."""
    served = Served()
    served.update(map(str, (A, B, C)))
    for endpoint, names in zip((A, B, C), lists, strict=True):
        if names:
            served.listed(str(endpoint), frozenset(names.split()), 0.0, 30.0)
        else:
            served.unknown(str(endpoint))
    picker = Picker(FakeSignals(), served=served)
    picker.update({"ns/pool": pool(A, B, C, **more)})
    return picker, served


def everywhere(picker: Picker, **given: Any) -> set[str]:
    """Where 30 requests go, fallbacks included."""
    return {name for number in range(30) for name in picker.decide(ask(id=str(number), **given)).endpoints}


def test_a_model_goes_where_it_is_listed_or_may_be() -> None:
    every = {str(A), str(B), str(C)}
    for lists, found in (
        (("base m", "base", "base"), {str(A)}),
        (("base m", "base", "base m"), {str(A), str(C)}),
        (("base m", "base", ""), {str(A), str(C)}),
        (("base", "base", "base"), every),
        (("", "", ""), every),
    ):
        picker, _ = listed(*lists)
        assert everywhere(picker) == found
        assert everywhere(picker, model="base") == everywhere(picker, model="") == every


def test_what_changes_counts_at_once_and_what_is_old_does_not() -> None:
    picker, served = listed("m", "base", "base")
    assert everywhere(picker) == {str(A)}
    served.listed(str(B), frozenset({"base", "m"}), 0.0, 30.0)
    assert everywhere(picker) == {str(A), str(B)}
    served.listed(str(A), frozenset({"base"}), 0.0, 30.0)
    assert everywhere(picker) == {str(B)}
    late = Ask(InferenceRequest("/", model="m"), "ns/pool", None, "late", 30.0, 5.0)
    assert picker.decide(late).candidates == 3


def test_what_is_old_does_not_count_where_a_gateway_names_a_subset_either() -> None:
    picker, _ = listed("m", "base", "base")
    subset = (str(A), str(B))
    late = Ask(InferenceRequest("/", model="m"), "ns/pool", subset, "late", 30.0, 5.0)
    assert picker.decide(late).candidates == 2


def test_the_rewritten_model_counts() -> None:
    picker, _ = listed("base", "base canary", "base", rewrites=(rewrite(RewriteRule(("m",), (("canary", 1),))),))
    assert everywhere(picker) == {str(B)}


def test_a_pool_may_ignore_what_its_servers_list() -> None:
    picker, _ = listed("m", "base", "base", model_lists=False)
    assert everywhere(picker) == {str(A), str(B), str(C)}


def test_a_subset_and_pods_that_end_keep_their_meaning() -> None:
    picker, served = listed("m", "m", "base")
    assert everywhere(picker, subset=(str(B), str(C))) == {str(B)}
    assert everywhere(picker, subset=(str(C),)) == {str(C)}  # it is the gateway's to say so, and the server's to refuse
    picker.update({"ns/pool": pool(A, replace(B, draining=True), C)})
    assert everywhere(picker) == {str(A)}
    served.listed(str(A), frozenset({"base"}), 0.0, 30.0)
    assert everywhere(picker) == {str(B)}  # nobody else has it


def test_names_of_clients_fill_no_memory() -> None:
    picker, _ = listed("m", "base", "base")
    for number in range(3000):
        picker.decide(ask(model=f"{number}"))
    picker.decide(ask(model="x" * 10**6))
    kept = picker._states["ns/pool"]._candidates
    assert len(kept) <= 1001 and max(map(len, kept)) < 1000
