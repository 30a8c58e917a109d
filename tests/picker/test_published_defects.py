"""Defects of scheduling that llm-d's router publishes in its issues: one test each that this picker does not have them.

The numbers are those of the issues in llm-d/llm-d-inference-scheduler (R) and gateway-api-inference-extension (G) where there are any.
Those of its answers (names of models and usage that are cut by chunk borders): tests/e2e/test_rewrite.py; plain-text errors without
Retry-After: tests/e2e/test_refusals.py; statuses that nobody writes: tests/xds_server/test_resolve_members.py.
"""

from collections.abc import Mapping
from itertools import permutations

import orjson
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from picker.ask import Ask, target_model
from picker.facts import Decision
from picker.inflight import LogEntry
from picker.load import STALE_ERRORS, Load, parse
from picker.picker import Picker
from picker.prefix import BLOCK_TOKENS, TOKEN_BYTES, PrefixIndex, hash_blocks
from picker.request import InferenceRequest
from picker.scorers import known
from picker.session import Event, ExtProcSession, RequestBody, RequestHeaders
from picker.signals import Signals
from picker.wire import decode, encode
from tests.picker._views import candidates
from xds_server.model.graph import Backend, Endpoint, Objective, Pool
from xds_server.model.objects import ClusterState, InferenceModelRewrite, Meta, ObjectRef, RewriteRule
from xds_server.parse import parse as parse_object

REF = ObjectRef("inference.networking.k8s.io", "InferencePool", "ns", "p")
A, B, SIX = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.1", 81), Endpoint("fd00::1", 80)


def hashes(blocks: list[int]) -> list[int]:
    return hash_blocks(b"".join(bytes([block]) * BLOCK_TOKENS * TOKEN_BYTES for block in blocks), "m")


class Gateway:
    """A picker over real signals."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self.signals = Signals()
        self.picker = Picker(self.signals)
        self.signals.update({"ns/p": endpoints})
        self.picker.update({"ns/p": Pool(REF, Backend("pool/ns/p", REF, pool=True), endpoints)})

    def send(self, id_: str, prompt: bytes = b"", now: float = 0.0, **request: object) -> object:
        asked = InferenceRequest("/v1/completions", **{"model": "m", "prompt": prompt, **request})  # type: ignore[arg-type]
        return self.picker.decide(Ask(asked, "ns/p", None, id_, now, now))


def test_a_hole_in_the_prefix_is_no_match() -> None:
    index = PrefixIndex()
    index.record("a", hashes([1, 2, 3, 4]))
    index.record("b", hashes([1]))
    for mask in (hashes([1, 2, 3, 4])[2:],):  # what an engine that lost the middle would still hold
        index.record("b", mask)
    assert index.match(hashes([1, 2, 9, 4])) == {"a": 2, "b": 1}


def test_the_head_of_a_prefix_is_evicted_last() -> None:  # R#2661
    index = PrefixIndex()
    index.resize("a", 2 * BLOCK_TOKENS)
    index.record("a", hashes([1, 2, 3, 4]))
    assert index.match(hashes([1, 2, 3, 4])) == {"a": 2}


@pytest.mark.parametrize("block_tokens", [16, 32, 128])
def test_the_engines_blocks_are_counted_in_the_engines_tokens(block_tokens: int) -> None:  # 4 times too many with 16
    gateway = Gateway(A)
    blocks = 1024 // block_tokens
    gateway.signals.scraped(str(A), Load(blocks=blocks, block_tokens=block_tokens, scraped=0.0), 0.0)
    for number in range(4):
        prompt = bytes([number]) * (BLOCK_TOKENS * TOKEN_BYTES * 10)
        gateway.send(str(number), prompt)
    index = gateway.picker._states["ns/p"].prefixes
    assert len(index) == 1024 // BLOCK_TOKENS


def test_every_endpoint_that_has_a_prefix_is_known() -> None:  # not ten a key
    index = PrefixIndex()
    for number in range(200):
        index.record(f"{number}", hashes([1, 2]))
    assert len(index.match(hashes([1, 2]))) == 200


def test_the_series_of_every_rank_count() -> None:  # G#2950
    page = b"".join(
        b'vllm:num_requests_waiting{engine="%d"} 2\nvllm:kv_cache_usage_perc{engine="%d"} 0.%d\n' % (i, i, i)
        for i in range(4)
    )
    assert (parse(page).waiting, parse(page).kv_usage) == (8, pytest.approx(0.15))


def test_a_burst_between_two_scrapes_spreads() -> None:  # no credit for what was just sent
    endpoints = [Endpoint("10.0.0.1", 8000 + i) for i in range(4)]
    gateway = Gateway(*endpoints)
    for endpoint in endpoints:
        gateway.signals.scraped(str(endpoint), Load(running=0, scraped=0.0), 0.0)
    sent = [gateway.send(str(i)) for i in range(40)]
    firsts = [one.endpoints[0] for one in sent if isinstance(one, Decision)]
    assert len(firsts) == 40
    assert {firsts.count(str(endpoint)) for endpoint in endpoints} == {10}


def test_one_failed_scrape_is_no_ill_endpoint() -> None:  # R#1123, G#2328
    gateway = Gateway(A)
    gateway.signals.scraped(str(A), Load(scraped=0.0), 0.0)
    for failed in range(STALE_ERRORS):
        assert known(gateway.signals.loads("ns/p")[str(A)], 0.0), failed
        gateway.signals.failed(str(A))
    assert not known(gateway.signals.loads("ns/p")[str(A)], 0.0)


def test_a_subset_names_ports_and_ipv6() -> None:
    assert candidates((A, B, SIX), ("10.0.0.1:81",)) == [B]
    assert candidates((A, B, SIX), ("[fd00::1]:80",)) == [SIX]


def test_there_are_fallbacks() -> None:  # theirs: one endpoint unless told otherwise
    endpoints = [Endpoint("10.0.0.1", 8000 + i) for i in range(4)]
    found = Gateway(*endpoints).send("1")
    assert isinstance(found, Decision)
    assert len(set(found.endpoints)) == 3


def test_a_popular_prefix_does_not_pile_up_on_one_endpoint() -> None:
    """None of the answers ends: a second copy of the prefix is cheaper than a place among many."""
    endpoints = [Endpoint("10.0.0.1", 8000 + i) for i in range(4)]
    gateway = Gateway(*endpoints)
    sent = [gateway.send(str(number), b"x" * 4000) for number in range(40)]
    firsts = [one.endpoints[0] for one in sent if isinstance(one, Decision)]
    assert len(firsts) == 40
    assert max(map(firsts.count, firsts)) <= 25
    assert len(set(firsts)) > 1


def served(ids: Mapping[str, str], gateway: Gateway) -> None:
    for id_, endpoint in ids.items():
        gateway.signals.finished(LogEntry(id=id_, endpoint=endpoint, status=200, details="via_upstream", duration=0.1))


def test_counts_come_back_down() -> None:  # in-flight that leaks makes an endpoint look busy for ever
    gateway = Gateway(A, B)
    found = {str(i): gateway.send(str(i)) for i in range(20)}
    served({id_: one.endpoints[0] for id_, one in found.items() if isinstance(one, Decision)}, gateway)
    assert all(load.inflight == 0 for load in gateway.signals.loads("ns/p").values())


# --- the protocol ------------------------------------------------------------------------------------------------------

CHAT = {":method": "POST", ":path": "/v1/chat/completions", "authorization": "Bearer s", "x-custom": "c"}
BODY = b'{"z": 9007199254740993, "model": "m", "a": 1.0, "messages": [{"role": "user", "content": "\\u00e9"}]}'


def asked(gateway: Gateway, *events: Event, max_body: int = 1 << 20) -> list[pb.ProcessingResponse]:
    """What Envoy reads."""
    session = ExtProcSession(gateway.picker, "ns/p", "id", max_body)
    replies = [reply for event in events for reply in session.receive(event, 0.0, 0.0)]
    return [pb.ProcessingResponse.FromString(encode(reply)) for reply in replies]


def test_who_is_not_admitted_gets_429_and_not_500() -> None:
    gateway = Gateway(A)
    config = {"plugins": [{"type": "probabilistic-admitter"}]}
    pool = Pool(REF, Backend("pool/ns/p", REF, pool=True), (A,), (Objective("batch", -1),), config=config)
    gateway.picker.update({"ns/p": pool})
    gateway.signals.scraped(str(A), Load(waiting=500, kv_usage=1.0, scraped=0.0), 0.0)
    headers = CHAT | {"x-llm-d-inference-objective": "batch"}
    (_, reply) = asked(gateway, RequestHeaders(headers), RequestBody(BODY, True))
    assert reply.immediate_response.status.code == 429  # and the status is one, not a header of that name
    assert "status" not in {each.header.key for each in reply.immediate_response.headers.set_headers}
    assert orjson.loads(reply.immediate_response.body)["error"]["code"] == "shed_priority"
    assert any(each.header.key == "retry-after" for each in reply.immediate_response.headers.set_headers)


def test_a_request_without_a_body_is_scheduled_like_any_other() -> None:
    """Theirs goes anywhere: no subset, no scheduler, addresses of IPv6 without brackets, and 500 where there is nobody."""
    get = {":method": "GET", ":path": "/v1/models"}
    (reply,) = asked(Gateway(A, B, SIX), RequestHeaders(get, True, subset=("[fd00::1]:80",)))
    (header,) = reply.request_headers.response.header_mutation.set_headers
    assert (header.header.key, header.header.raw_value) == ("x-gateway-destination-endpoint", b"[fd00::1]:80")
    (reply,) = asked(Gateway(A), RequestHeaders(get, True, subset=()))
    assert reply.immediate_response.status.code == 503


def test_a_body_has_a_largest_size() -> None:
    replies = asked(Gateway(A), RequestHeaders(CHAT, mode="duplex"), *[RequestBody(b"x" * 60, False)] * 3, max_body=100)
    assert [each.immediate_response.status.code for each in replies] == [413]


@pytest.mark.parametrize("listed", [True, False])
def test_a_subset_is_a_list_or_a_text(listed: bool) -> None:
    message = pb.ProcessingRequest(request_headers=pb.HttpHeaders(end_of_stream=True))
    fields = message.metadata_context.filter_metadata["envoy.lb.subset_hint"].fields
    hint = fields["x-gateway-destination-endpoint-subset"]
    (hint.list_value.values.add() if listed else hint).string_value = "10.0.0.1:81"
    event = decode(message.SerializeToString())
    assert isinstance(event, RequestHeaders)
    assert event.subset == ("10.0.0.1:81",)


# --- model rewrites ----------------------------------------------------------------------------------------------------


def rewriting(gateway: Gateway, *targets: tuple[str, int], names: tuple[str, ...] = ("w",)) -> None:
    rule = RewriteRule((), targets)
    rewrites = tuple(
        InferenceModelRewrite(Meta(ObjectRef("llm-d.ai", "InferenceModelRewrite", "ns", n)), REF, (rule,))
        for n in names
    )
    gateway.picker.update({"ns/p": Pool(REF, Backend("pool/ns/p", REF, pool=True), (A,), rewrites=rewrites)})


def test_a_rewrite_changes_no_other_byte_and_no_header() -> None:
    """Theirs writes the JSON anew (order of keys, integers beyond 2^53) and sets every header of the client's once more."""
    gateway = Gateway(A)
    rewriting(gateway, ("other", 1))
    (_, reply) = asked(gateway, RequestHeaders(CHAT | {"content-length": "9"}), RequestBody(BODY, True))
    found = reply.request_body.response
    assert found.body_mutation.body == BODY.replace(b'"m"', b'"other"')
    set_ = {each.header.key for each in found.header_mutation.set_headers}
    assert set_ == {"x-gateway-destination-endpoint", "content-length"}
    assert not found.header_mutation.remove_headers


def test_a_conversation_keeps_its_target() -> None:
    gateway = Gateway(A)
    rewriting(gateway, ("a", 1), ("b", 1))
    for session in range(8):
        turns = [gateway.send(f"{session}/{turn}", session_id=f"s{session}") for turn in range(10)]
        assert len({turn.target_model for turn in turns if isinstance(turn, Decision)}) == 1
    others = {one.target_model for n in range(50) if isinstance(one := gateway.send(str(n)), Decision)}
    assert others == {"a", "b"}


def test_targets_without_a_weight_have_one() -> None:
    document = {
        "apiVersion": "llm-d.ai/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": {"name": "w", "namespace": "ns"},
        "spec": {
            "poolRef": {"name": "p"},
            "rules": [{"targets": [{"modelRewrite": "a"}, {"modelRewrite": "b", "weight": 1}]}],
        },
    }
    found = parse_object(document)
    assert isinstance(found, InferenceModelRewrite)
    assert {target_model((found,), "m", str(key)) for key in range(50)} == {"a", "b"}


def test_rewrites_of_one_age_have_an_order() -> None:
    """By name: the same after each restart, and in each replica."""
    made = [
        InferenceModelRewrite(Meta(ObjectRef("llm-d.ai", "InferenceModelRewrite", "ns", name), created="2026"), REF, ())
        for name in "cab"
    ]
    for order in permutations(made):
        assert [each.meta.ref.name for each in ClusterState.of(order).all(InferenceModelRewrite)] == ["a", "b", "c"]
