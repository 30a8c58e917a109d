"""Subscription: the table of `xds_protocol.rst` for `*`, the legacy wildcard and re-subscription; and what a NACK says."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.xds_server.model_envoy import resource
from xds_server.blame import REMEMBERED, Refused, blame
from xds_server.snapshot import CDS, EDS, LDS, RDS
from xds_server.subscription import Change, Subscription

NAMES = st.lists(st.sampled_from(["a", "b", "c"]))


@pytest.mark.parametrize("url", [CDS, LDS])
def test_an_empty_first_request_is_a_wildcard(url: str) -> None:
    for change in (Subscription(url).delta(), Subscription(url).sotw([])):
        assert change == Change(opened=True)


def test_an_empty_first_request_of_another_type_is_nothing() -> None:
    subscription = Subscription(EDS)
    assert subscription.delta() == Change()
    assert not subscription.wildcard


def test_sotw_the_empty_list_is_no_wildcard_once_a_name_was_asked() -> None:
    subscription = Subscription(CDS)
    subscription.sotw([])
    subscription.sotw(["*", "a"])
    assert subscription.covers("b")
    assert subscription.sotw(["a"]) == Change(narrowed=True)
    assert subscription.sotw([]) == Change(forgotten=frozenset("a"))
    assert not subscription.covers("a")


def test_delta_the_legacy_wildcard_lasts_until_it_is_unsubscribed() -> None:
    subscription = Subscription(CDS)
    subscription.delta()
    assert subscription.delta(["a"]) == Change(asked=frozenset("a"), forgotten=frozenset("a"))
    assert subscription.covers("b")
    assert subscription.delta(unsubscribe=["*"]).narrowed
    assert subscription.delta() == Change()
    assert (subscription.covers("a"), subscription.covers("b")) == (True, False)


def test_delta_a_name_dropped_under_the_wildcard_is_answered() -> None:
    subscription = Subscription(CDS)
    subscription.delta(["*", "a"])
    assert subscription.delta(unsubscribe=["a"]) == Change(asked=frozenset("a"), forgotten=frozenset("a"))


def test_delta_a_name_dropped_without_the_wildcard_is_only_forgotten() -> None:
    subscription = Subscription(EDS)
    subscription.delta(["a"])
    assert subscription.delta(unsubscribe=["a"]) == Change(forgotten=frozenset("a"))


@given(st.lists(NAMES))
def test_sotw_the_last_list_is_the_subscription(lists: list[list[str]]) -> None:
    subscription = Subscription(EDS)
    for names in lists:
        change = subscription.sotw(names)
        assert change.asked <= set(names)
        assert not change.forgotten & set(names)
    assert subscription.names == set(lists[-1] if lists else [])


@given(st.lists(st.tuples(NAMES, NAMES)))
def test_delta_what_is_asked_is_covered(requests: list[tuple[list[str], list[str]]]) -> None:
    subscription = Subscription(EDS)
    for subscribe, unsubscribe in requests:
        change = subscription.delta(subscribe, unsubscribe)
        assert all(subscription.covers(name) for name in change.asked)


@pytest.mark.parametrize(
    ("url", "error", "blamed"),
    [
        (CDS, "Error adding/updating cluster(s) b: no, c: bad", ("b", "c")),
        (LDS, "Error adding/updating listener(s) b: cannot bind\nc: bad", ("b", "c")),
        (RDS, "missing ]: [", ()),
        (CDS, "something else", ()),
    ],
)
def test_blame(url: str, error: str, blamed: tuple[str, ...]) -> None:
    assert blame(url, error, ["a", "b", "c"]) == blamed


def test_refusals_are_forgotten_the_oldest_first() -> None:
    refused = Refused()
    versions = [resource("r", number) for number in range(REMEMBERED + 1)]
    for now, found in enumerate(versions):
        refused.add(found, f"error {now}", float(now))
    assert [found in refused for found in versions] == [False] + [True] * REMEMBERED
    assert refused.errors({"r": versions[3], "s": versions[4]}) == {"r": "error 3"}
    refused.forget(now=5.0, after=2.0)
    assert refused.oldest() == 4.0
    refused.forget(now=99.0)
    assert refused.oldest() is None
