"""Defects of scheduling that llm-d's router publishes in its issues: one test each that this picker does not have them.

The numbers are those of the issues in llm-d/llm-d-inference-scheduler (R) and gateway-api-inference-extension (G) where there are any.
"""

from collections.abc import Mapping

import pytest

from picker.ask import Ask
from picker.facts import Decision
from picker.inflight import LogEntry
from picker.load import Load, parse
from picker.picker import Picker
from picker.prefix import BLOCK_BYTES, BLOCK_TOKENS, PrefixIndex, hash_blocks
from picker.request import InferenceRequest
from picker.schedule import candidates
from picker.scorers import STALE_ERRORS, known
from picker.signals import Signals
from xds_server.model.graph import Backend, Endpoint, Pool
from xds_server.model.objects import ObjectRef

REF = ObjectRef("inference.networking.k8s.io", "InferencePool", "ns", "p")
A, B, SIX = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.1", 81), Endpoint("fd00::1", 80)


def hashes(blocks: list[int]) -> list[int]:
    return hash_blocks(b"".join(bytes([block]) * BLOCK_BYTES for block in blocks), "m")


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
        prompt = bytes([number]) * (BLOCK_BYTES * 10)
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
