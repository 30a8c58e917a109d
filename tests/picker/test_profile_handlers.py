"""Profile handlers: prefill, decode and encode workers, ranks, profiles by header; and the headers that servers are told by."""

from typing import Any

import pytest
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingResponse

from picker.errors import ConfigError, NoEndpoint
from picker.picker import Picker
from picker.plugins.handlers import ENCODE_HEADER, PREFILL_HEADER
from picker.profile import read
from picker.schedule import pick
from picker.session import ExtProcSession, RequestHeaders
from picker.signals import Signals
from picker.stage import Pick, Profile
from picker.wire import encode
from tests.picker._views import endpoint, fresh, plugin, profile, view
from xds_server.model.graph import Backend, Pool
from xds_server.model.names import DESTINATION
from xds_server.model.objects import ObjectRef

P, P2, D, D2, E = (endpoint(1, "prefill", node="n1"), endpoint(2, "prefill", node="n2"), endpoint(3, "decode", node="n2"),
                   endpoint(4, "decode", node="n3"), endpoint(5, "encode"))  # fmt: skip
BOTH = endpoint(6, "both")
LONG = {"prompt": b"x" * 4096, "cacheable": 1024}  # 1024 tokens


def stages(handler: dict[str, Any], *more: str, **stage: list[str]) -> Profile:
    deciders = [plugin("prefix-based-pd-decider", nonCachedTokens=100), {"type": "always-disagg-pd-decider"},
                {"type": "always-disagg-multimodal-decider"}]  # fmt: skip
    filters = [{"type": f"{role}-filter"} for role in ("prefill", "decode", "encode")]
    profiles = [
        {"name": name, "plugins": [{"pluginRef": one} for one in (*plugins, *more)]} for name, plugins in stage.items()
    ]
    extra = [{"type": one} for one in dict.fromkeys([*more, "topology-affinity-filter", "topology-affinity-scorer"])]
    return read({"plugins": [handler, *deciders, *filters, *extra], "schedulingProfiles": profiles})


def disaggregated(**deciders: str) -> Profile:
    return stages(plugin("disagg-profile-handler", deciders=deciders),
                  prefill=["prefill-filter", "topology-affinity-filter"], decode=["decode-filter"], encode=["encode-filter"])  # fmt: skip


def headers(found: Pick) -> dict[str, str]:
    return dict(found.headers)


def test_prefill_and_decode_are_different_workers() -> None:
    found = pick(view(P, P2, D, D2, E, **LONG), disaggregated(prefill="prefix-based-pd-decider"), "id")
    assert set(found.endpoints) == {str(D), str(D2)}
    assert headers(found)[PREFILL_HEADER] in (str(P), str(P2))
    assert found.beside == (headers(found)[PREFILL_HEADER],)
    assert headers(found)[ENCODE_HEADER] == ""


def test_prefill_is_near_decode() -> None:
    for number in range(20):
        found = pick(view(P, P2, D, **LONG), disaggregated(prefill="prefix-based-pd-decider"), str(number))
        assert headers(found)[PREFILL_HEADER] == str(P2)  # on the node of D


@pytest.mark.parametrize(("matched", "used"), [(0, True), (896, True), (960, False), (1024, False)])
def test_a_prefill_worker_is_used_from_a_number_of_uncached_tokens_on(matched: int, used: bool) -> None:
    found = pick(view(P, D, matched=(0, matched), **LONG), disaggregated(prefill="prefix-based-pd-decider"), "id")
    assert headers(found)[PREFILL_HEADER] == (str(P) if used else "")
    assert found.matched == matched


def test_without_a_decider_there_is_no_other_worker_and_a_client_cannot_name_one() -> None:
    assert headers(pick(view(P, D, E, media=(1,), **LONG), disaggregated(), "id")) == {
        PREFILL_HEADER: "",
        ENCODE_HEADER: "",
    }


def test_media_are_encoded_elsewhere() -> None:
    found = disaggregated(encode="always-disagg-multimodal-decider")
    assert headers(pick(view(P, D, E, media=(1,)), found, "id"))[ENCODE_HEADER] == str(E)
    assert headers(pick(view(P, D, E), found, "id"))[ENCODE_HEADER] == ""


def test_no_worker_is_done_without_but_decode() -> None:
    found = disaggregated(prefill="always-disagg-pd-decider", encode="always-disagg-multimodal-decider")
    assert headers(pick(view(D, media=(1,)), found, "id")) == {PREFILL_HEADER: "", ENCODE_HEADER: ""}
    with pytest.raises(NoEndpoint, match="decode-filter"):
        pick(view(P, E), found, "id")


def test_a_worker_of_both_roles_does_not_ask_itself() -> None:
    found = pick(view(BOTH), disaggregated(prefill="always-disagg-pd-decider"), "id")
    assert (headers(found)[PREFILL_HEADER], found.beside) == ("", ())


def test_a_worker_that_rests_is_better_than_none() -> None:
    found = disaggregated(prefill="always-disagg-pd-decider")
    rests = fresh(resting=200.0)
    assert pick(view(P, D, loads=(fresh(), rests)), found, "id").endpoints == (str(D),)
    assert pick(view(P, D, D2, loads=(fresh(), rests, fresh())), found, "id").endpoints == (str(D2),)


def test_prefill_first() -> None:
    handler = plugin("disagg-profile-handler", stageOrder="prefill-first", profiles={"prefill": "p", "decode": "d"})
    found = stages(handler, p=["prefill-filter"], d=["decode-filter", "topology-affinity-filter"])
    for number in range(20):
        picked = pick(view(P2, D, D2), found, str(number))
        assert (picked.endpoints, headers(picked)) == ((str(D),), {PREFILL_HEADER: str(P2)})
    assert headers(pick(view(D), found, "id")) == {PREFILL_HEADER: ""}


@pytest.mark.parametrize(
    "handler",
    [
        plugin(
            "disagg-profile-handler", prefillProfile="p", decodeProfile="d", deciderPluginName="prefix-based-pd-decider"
        ),
        plugin(
            "disagg-profile-handler",
            prefillProfile="p",
            decodeProfile="d",
            prefillDeciderPluginName="prefix-based-pd-decider",
        ),
        plugin("pd-profile-handler", prefillProfile="p", decodeProfile="d", primaryPort=8000),
    ],
)
def test_parameters_of_earlier_releases(handler: dict[str, Any]) -> None:
    found = stages(handler, p=["prefill-filter"], d=["decode-filter"])
    assert headers(pick(view(P, D, **LONG), found, "id"))[PREFILL_HEADER] == str(P)


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (plugin("disagg-profile-handler", deciders={"prefill": "nobody"}), "'nobody' is no decider"),
        (plugin("disagg-profile-handler", profiles={"decode": "x"}), "no profile 'x'"),
        (plugin("disagg-profile-handler", stageOrder="encode-first"), "decode-first or prefill-first"),
        (plugin("disagg-profile-handler", stageOrder="prefill-first", deciders={"prefill": "always-disagg-pd-decider"}), "no meaning"),
        (plugin("header-profile-handler", defaultProfile="x"), "no profile 'x'"),
        ({"type": "single-profile-handler"}, "exactly one"),
        ({"type": "data-parallel-profile-handler"}, "exactly one"),
    ],
)  # fmt: skip
def test_mistakes(handler: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        stages(handler, prefill=["prefill-filter"], decode=["decode-filter"])


def test_two_handlers_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="keep one"):
        profile("single-profile-handler", "data-parallel-profile-handler")


def test_a_rank_is_named_to_the_sidecar() -> None:
    found = pick(view(D, D2), profile(plugin("data-parallel-profile-handler", primaryPort=8000)), "id")
    assert len(found.endpoints) == 1
    assert headers(found) == {"x-data-parallel-host-port": found.endpoints[0]}


def test_a_client_names_the_profile() -> None:
    found = stages({"type": "header-profile-handler"}, prefill=["prefill-filter"], decode=["decode-filter"])
    assert pick(view(P, D), found, "id").endpoints == (str(D),)
    assert pick(view(P, D, headers={"epp-profile": "prefill"}), found, "id").endpoints == (str(P),)
    with pytest.raises(NoEndpoint, match="prefill, decode"):
        pick(view(P, D, headers={"epp-profile": "x"}), found, "id")
    alone = stages(plugin("header-profile-handler", headerName="X-Stage"), prefill=["prefill-filter"])
    assert pick(view(P, D, headers={"x-stage": "x"}), alone, "id").endpoints == (str(P),)


def test_topology_scores() -> None:
    places = [("n1", "a", "r"), ("n2", "a", "r"), ("n3", "b", "r"), ("n4", "c", "q"), ("", "", "")]
    labels = [{"topology.kubernetes.io__region": region} if region else {} for _, _, region in places]
    endpoints = [
        endpoint(i, node=n, zone=z, **more) for i, ((n, z, _), more) in enumerate(zip(places, labels, strict=True))
    ]
    endpoints.append(endpoint(9, node="n5", **{"topology.kubernetes.io__rack": "k"}))
    seen = view(*endpoints)
    score = profile("topology-affinity-scorer").scorers[0][1]
    assert score(seen) == [0] * 6
    seen.peer = endpoint(
        8, node="n1", zone="a", **{"topology.kubernetes.io__region": "r", "topology.kubernetes.io__rack": "k"}
    )
    assert score(seen) == [1, 0.05, 0.02, 0, 0, 0.2]
    for level, stay in (("host", [0]), ("rack", [0, 5]), ("zone", [0, 1, 5]), ("region", [0, 1, 2, 5])):
        assert profile(plugin("topology-affinity-filter", minAffinity=level)).filters[0][1](seen) == stay


def test_what_envoy_is_told() -> None:
    """From the request to the bytes: the prefill worker is a header beside the destination, and a client's own is gone."""
    content = {
        "plugins": [{"type": "prefill-filter"}, {"type": "decode-filter"}, {"type": "always-disagg-pd-decider"},
                    plugin("disagg-profile-handler", deciders={"prefill": "always-disagg-pd-decider"})],
        "schedulingProfiles": [{"name": stage, "plugins": [{"pluginRef": f"{stage}-filter"}]} for stage in ("prefill", "decode")],
    }  # fmt: skip
    ref = ObjectRef("inference.networking.k8s.io", "InferencePool", "ns", "pool")
    for workers, told, gone in (((P, D), str(P), []), ((D,), None, [PREFILL_HEADER])):
        picker = Picker(Signals())
        picker.update({"ns/pool": Pool(ref, Backend("pool/ns/pool", ref, pool=True), workers, config=content)})
        session = ExtProcSession(picker, "ns/pool", "id")
        (reply,) = session.receive(
            RequestHeaders({":path": "/v1/models", PREFILL_HEADER: "10.9.9.9:1"}, True), 0.0, 0.0
        )
        mutation = ProcessingResponse.FromString(encode(reply)).request_headers.response.header_mutation
        found = {each.header.key: each.header.raw_value.decode() for each in mutation.set_headers}
        assert found[DESTINATION] == str(D)
        assert found.get(PREFILL_HEADER) == told
        assert list(mutation.remove_headers) == gone
