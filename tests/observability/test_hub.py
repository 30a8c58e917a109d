"""Who is told, in which order, and what becomes of an error."""

import pytest

from observability.hub import Hub


class Fact:
    pass


class Special(Fact):
    pass


def test_a_fact_is_told_to_those_who_asked_for_its_type_in_their_order() -> None:
    hub, told = Hub(), list[tuple[str, object]]()
    hub.on(Fact, lambda fact: told.append(("first", fact)))
    hub.on(str, lambda fact: told.append(("text", fact)))
    hub.on(object, lambda fact: told.append(("all", fact)))
    hub.on(Fact, lambda fact: told.append(("last", fact)))
    fact, special = Fact(), Special()
    for each in (fact, special, 1):
        hub.tell(each)
    assert told == [
        *[("first", fact), ("all", fact), ("last", fact)],
        *[("first", special), ("all", special), ("last", special)],
        ("all", 1),
    ]


def test_whoever_comes_later_is_told_of_what_comes_after() -> None:
    hub, told = Hub(), list[object]()
    hub.tell(1)
    hub.on(int, told.append)
    hub.tell(2)
    assert told == [2]


def test_a_handler_may_subscribe_another() -> None:
    hub, told = Hub(), list[int]()
    hub.on(int, lambda _: hub.on(int, told.append))
    hub.tell(1)
    assert not told
    hub.tell(2)
    assert told == [2]


def test_an_error_reaches_the_teller_and_ends_nothing_else() -> None:
    hub, told = Hub(), list[object]()
    hub.on(str, lambda text: {}[text])
    hub.on(str, told.append)
    for _ in range(2):
        with pytest.raises(KeyError):
            hub.tell("unheard of")
    hub.on(object, told.append)
    hub.tell(1)
    assert told == [1]
