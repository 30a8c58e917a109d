"""W3C trace context: what is read, who is sampled, what the server is told."""

import string

import pytest
from hypothesis import given, strategies as st

from picker.trace import NO_TRACE, REQUEST, UNTRACED, UPSTREAM, Trace, Tracing, parent, span

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{CLIENT}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{CLIENT}-00"}
ALL, NONE = Tracing(1.0), Tracing(0.0)


def test_a_parent_is_read() -> None:
    assert parent(SAMPLED) == Trace(TRACE, CLIENT, CLIENT, sampled=True)
    assert parent(UNSAMPLED) == Trace(TRACE, CLIENT, CLIENT, sampled=False)
    assert parent({"traceparent": f"cc-{TRACE}-{CLIENT}-03-what-comes-later"}).sampled
    assert parent({}) == NO_TRACE


@pytest.mark.parametrize(
    "text",
    [
        f"00-{TRACE.upper()}-{CLIENT}-01",
        f"00-{'0' * 32}-{CLIENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{CLIENT}-01",
        f"00-{TRACE}-{CLIENT}-01-more",
        f"00-{TRACE}-{CLIENT}-01\n",
        f"00-{TRACE[:-1]}-{CLIENT}-01",
        f"00-{TRACE}-{CLIENT}-1",
        f"cc-{TRACE}-{CLIENT}-01-" + "x" * 300,
        "00-a secret-of the client-01",
    ],
)
def test_what_is_no_trace_context_is_none(text: str) -> None:
    assert parent({"traceparent": text}) == NO_TRACE


@given(st.text(string.hexdigits + "-00fx", max_size=80))
def test_nothing_but_ids_comes_through(text: str) -> None:
    found = parent({"traceparent": text})
    assert found == NO_TRACE or (len(found.trace_id), len(found.span_id)) == (32, 16)


def test_by_default_the_header_passes_untouched() -> None:
    assert UNTRACED.of("id", SAMPLED) == parent(SAMPLED)
    assert UNTRACED.of("id", {}) == NO_TRACE


def test_a_sampled_request_is_ours_and_the_server_continues_it() -> None:
    found = NONE.of("id", SAMPLED)
    assert found == Trace(
        TRACE, span("id", REQUEST), CLIENT, sampled=True, header=f"00-{TRACE}-{span('id', UPSTREAM)}-01"
    )
    assert parent({"traceparent": found.header}).span_id == span("id", UPSTREAM)


def test_a_parent_that_is_not_sampled_decides_for_us_too() -> None:
    assert ALL.of("id", UNSAMPLED) == parent(UNSAMPLED)


def test_without_a_parent_a_share_begins_a_trace_of_its_own() -> None:
    assert NONE.of("id", {}) == NO_TRACE
    found = ALL.of("id", {})
    assert (found.parent_id, found.sampled) == ("", True)
    assert parent({"traceparent": found.header}).trace_id == found.trace_id
    third = Tracing(1 / 3)
    sampled = sum(third.of(str(number), {}).sampled for number in range(3000))
    assert 900 < sampled < 1100


def test_where_parents_do_not_decide_the_server_is_told_what_we_did() -> None:
    ratio = Tracing(0.0, parent_based=False)
    found = ratio.of("id", SAMPLED)
    assert (found.sampled, found.header) == (False, f"00-{TRACE}-{CLIENT}-00")
    assert Tracing(1.0, parent_based=False).of("id", UNSAMPLED).sampled


@given(st.text(max_size=30), st.text(max_size=30))
def test_ids_are_those_of_the_decision_and_of_nothing_else(one: str, other: str) -> None:
    assert (ALL.of(one, {}) == ALL.of(other, {})) == (one == other)
    assert len({span(one, name) for name in ("a", "b", "c", "d")}) == 4


def test_an_envoy_that_traces_decides_and_tells_the_server_itself() -> None:
    envoys = f"00-{TRACE}-{'a' * 16}-01"
    found = ALL.beneath(envoys).of("id", {"traceparent": f"00-{'b' * 32}-{CLIENT}-00"})
    assert found == Trace(TRACE, "a" * 16, "", sampled=True, header="")
    assert not ALL.beneath(envoys.removesuffix("1") + "0").of("id", {}).sampled
    assert ALL.beneath("no trace context") is ALL


def test_a_trace_that_begins_here_takes_the_state_of_another_away() -> None:
    begun, continued = ALL.of("id", {"tracestate": "vendor=1"}), ALL.of("id", SAMPLED)
    assert begun.headers == (("traceparent", begun.header), ("tracestate", ""))
    assert continued.headers == (("traceparent", continued.header),)
    assert UNTRACED.of("id", SAMPLED).headers == ()
