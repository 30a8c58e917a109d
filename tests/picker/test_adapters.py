"""Which adapters are in an endpoint's slots."""

from hypothesis import given, strategies as st

from picker.adapters import Adapters

A = "10.0.0.1:8000"


def test_the_least_recently_used_gives_its_slot_away() -> None:
    found = Adapters()
    for name in "abac":
        found.used(A, name, 2)
    assert list(found.loaded(A)) == ["a", "c"]
    assert not found.loaded("10.0.0.2:8000")


@given(st.lists(st.frozensets(st.sampled_from("abcdef"), max_size=3)), st.integers(1, 4))
def test_never_more_than_slots_and_always_the_latest(uses: list[frozenset[str]], slots: int) -> None:
    found = Adapters()
    for names in uses:
        found.used(A, names, slots)
        assert len(found.loaded(A)) <= slots
        assert len(names & set(found.loaded(A))) == min(len(names), slots)


def test_an_endpoint_that_is_gone_is_forgotten() -> None:
    found = Adapters()
    found.used(A, "a", 1)
    found.update([])
    assert not found.loaded(A)
