"""Candidates under the gateway's hint, and the order of the pick."""

import pytest
from hypothesis import given, strategies as st

from picker.errors import NoEndpoint
from picker.load import Load
from picker.profile import DEFAULT, read
from picker.request import InferenceRequest
from picker.schedule import pick
from picker.scorers import View
from picker.stage import Profile
from tests.picker._views import candidates
from xds_server.model.graph import Endpoint

A, B, A2, SIX = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80), Endpoint("10.0.0.1", 81), Endpoint("fd00::1", 80)
GONE = Endpoint("10.0.0.3", 80, draining=True)


@pytest.mark.parametrize(
    ("hint", "found"),
    [
        (None, [A, B, A2, SIX]),
        (("10.0.0.1:80",), [A]),
        (("10.0.0.1",), [A, A2]),
        ((" 10.0.0.2:80 ", "9.9.9.9:1"), [B]),
        (("[fd00::1]:80",), [SIX]),
        (("fd00::1",), [SIX]),
        (("[fd00::1]",), [SIX]),
        (("10.0.0.3",), [GONE]),
    ],
)
def test_the_subset_hint(hint: tuple[str, ...] | None, found: list[Endpoint]) -> None:
    assert candidates((A, B, A2, SIX, GONE), hint) == found


@pytest.mark.parametrize(("endpoints", "hint"), [((), None), ((A,), ()), ((A,), ("9.9.9.9",)), ((A,), ("10.0.0.1:9",))])
def test_nothing_is_left(endpoints: tuple[Endpoint, ...], hint: tuple[str, ...] | None) -> None:
    with pytest.raises(NoEndpoint):
        candidates(endpoints, hint)


def test_who_drains_serves_only_when_nobody_else_does() -> None:
    assert candidates((GONE,), None) == [GONE]


def view(loads: dict[Endpoint, Load], matched: dict[Endpoint, int] | None = None, cacheable: int = 4) -> View:
    found = list(loads)
    matches = [(matched or {}).get(one, 0) for one in found]
    return View(
        InferenceRequest("/x"), "m", found, list(map(str, found)), list(loads.values()), matches, cacheable, 1.0
    )


def test_the_cached_prefix_wins_among_equals_and_loses_to_a_long_queue() -> None:
    idle, busy = Load(scraped=1.0), Load(scraped=1.0, waiting=50, kv_usage=0.99, inflight=50, inflight_at_scrape=50)
    found = pick(view({A: idle, B: idle}, {B: 4}), DEFAULT, "id")
    assert (found.endpoints[0], found.matched, found.candidates) == (str(B), 4, 2)
    assert pick(view({A: idle, B: busy}, {B: 2}), DEFAULT, "id").endpoints[0] == str(A)


def test_a_filter_that_lets_nobody_pass_is_named() -> None:
    config = {
        "plugins": [{"type": "label-selector-filter", "name": "gpu", "parameters": {"matchLabels": {"gpu": "h100"}}}]
    }
    with pytest.raises(NoEndpoint, match="gpu"):
        pick(view({A: Load()}), read(config), "id")


@given(st.permutations([A, B, A2, SIX]), st.text(max_size=4))
def test_equal_inputs_give_equal_picks(order: list[Endpoint], request_id: str) -> None:
    loads = dict.fromkeys(order, Load(scraped=1.0))
    found = pick(view(loads), DEFAULT, request_id)
    assert found == pick(view(dict.fromkeys([A, B, A2, SIX], Load(scraped=1.0))), DEFAULT, request_id)
    assert len(set(found.endpoints)) == 3


def test_without_scorers_everybody_is_equal() -> None:
    assert pick(view({A: Load(), B: Load()}), Profile(), "id").candidates == 2
