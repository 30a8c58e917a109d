"""AdsSession's rules one by one; test_ads_machine.py has them all at once."""

import pytest

from tests.xds_server.model_envoy import ANY, Peer, one, resource
from xds_server.facts import Acked, Nacked, Overdue, Pushed, Request
from xds_server.snapshot import CDS, EDS, LDS, RDS, SDS, Snapshot


def serving(cluster: str, *, delta: bool = True) -> Peer:
    """A client that has everything of `one(cluster)`."""
    peer = Peer(delta=delta)
    peer.update(one(cluster))
    assert peer.ask(CDS) == [(CDS, [cluster], [])]
    assert peer.ask(EDS, cluster) == [(EDS, [cluster], [])]
    assert peer.ack(EDS) == []
    assert peer.ask(LDS) == []
    assert peer.ack(CDS) == [(LDS, ["l"], [])]
    assert peer.ack(LDS) == []
    assert peer.ask(RDS, "r") == [(RDS, ["r"], [])]
    assert peer.ack(RDS) == []
    return peer


def test_make_before_break() -> None:
    peer = serving("a")
    assert peer.update(one("b")) == [(CDS, ["b"], [])]
    assert peer.ask(EDS, "b") == [(EDS, ["b"], [])]
    assert peer.ack(EDS) == []
    assert peer.ack(CDS) == [(RDS, ["r"], [])]
    assert peer.ack(RDS) == []
    assert peer.wait(0.9) == []
    assert peer.wait(0.2) == [(CDS, [], ["a"])]
    assert peer.ack(CDS) == []
    assert peer.session.deadline() == peer.now + 1.0  # the endpoints of a, as this client still asks for them


@pytest.mark.parametrize("delta", [True, False])
def test_a_cluster_that_is_wanted_again_as_it_is_about_to_go_stays(delta: bool) -> None:
    """The timer of an event loop may be late: its route would answer 500 until the next change of any cluster."""
    peer = serving("a", delta=delta)
    peer.update(one("b"))
    peer.ask(EDS, "b", nonce=peer.last[EDS].nonce)
    peer.ack(EDS)
    peer.ack(CDS)
    peer.ack(RDS)
    peer.now += 1.0
    assert peer.update(one("a")) == [(RDS, ["r"], [])]


def test_sotw_sends_the_union_then_the_new_set() -> None:
    peer = serving("a", delta=False)
    assert peer.update(one("b")) == [(CDS, ["a", "b"], [])]
    assert peer.ask(EDS, "a", "b", nonce=peer.last[EDS].nonce) == [(EDS, ["b"], [])]
    peer.ack(EDS)
    assert peer.ack(CDS) == [(RDS, ["r"], [])]
    peer.ack(RDS)
    assert peer.wait(1.0) == [(CDS, ["b"], [])]


def test_endpoints_wait_for_nothing() -> None:
    peer = serving("a")
    peer.update(one("b"))
    both = Snapshot({**one("b").resources, EDS: {name: resource(name, 7) for name in ("a", "b")}})
    assert peer.update(both) == [(EDS, ["a"], [])]


def test_the_newest_snapshot_replaces_what_was_not_sent() -> None:
    peer = serving("a")
    peer.update(one("b"))
    assert peer.update(one("c")) == []
    assert peer.update(one("d")) == []
    assert peer.ack(CDS) == [(CDS, ["d"], []), (RDS, ["r"], [])]  # b is warm: its route need not wait for d
    assert peer.session.status().types[0].state == "PENDING"


def test_the_gate_opens_at_its_deadline_and_the_proxy_is_degraded() -> None:
    peer = serving("a")
    peer.update(one("b"))
    assert peer.session.deadline() == 15.0
    assert peer.wait(15.0) == [(RDS, ["r"], [])]
    assert peer.session.degraded
    assert [fact for fact in peer.session.facts() if isinstance(fact, Overdue)] == [Overdue(ANY, CDS, 15.0)]
    peer.ack(CDS)
    assert not peer.session.degraded


def test_sotw_hears_that_a_name_was_dropped_while_a_response_was_on_its_way() -> None:
    """Two listeners that change in turn drop a route and take it up again: its listener would wait for it for ever."""
    peer = Peer(delta=False)
    before, after = (Snapshot.of(routes=[resource("r", version), resource("s")]) for version in (0, 1))
    peer.update(before)
    assert peer.ask(RDS, "r", "s") == [(RDS, ["r", "s"], [])]
    peer.ack(RDS)
    old = peer.last[RDS].nonce
    assert peer.update(after) == [(RDS, ["r"], [])]
    for names in (("r",), ("r", "s")):  # said before that arrived
        assert peer.took(peer.session.receive(Request(RDS, old, names=names), peer.now)) == []
    assert peer.ack(RDS) == [(RDS, ["s"], [])]


@pytest.mark.parametrize("delta", [True, False])
def test_a_refusal_that_comes_too_late_is_of_what_it_names(delta: bool) -> None:
    """Envoy answers one response after the other, also those that nobody waits for any more."""
    peer = Peer(delta=delta)
    clusters = [resource(name) for name in ("a", "b", "c")]
    error = "Error adding/updating cluster(s) a: is bad"
    peer.update(Snapshot.of(clusters=clusters[:1]))
    peer.ask(CDS)
    first = peer.last[CDS]
    peer.wait(15.0)
    assert peer.update(Snapshot.of(clusters=clusters[:2])) == [(CDS, ["b"] if delta else ["a", "b"], [])]
    assert peer.took(peer.session.receive(Request(CDS, first.nonce, error), peer.now)) == []
    assert peer.ack(CDS, None if delta else error) == []  # in the state of the world it is said twice
    (status,) = peer.session.status().types
    assert (status.state, status.errors) == ("NACKED", {"a": error})
    assert peer.update(Snapshot.of(clusters=clusters)) == [(CDS, ["c"] if delta else ["b", "c"], [])]


def test_nothing_is_removed_while_routes_are_overdue() -> None:
    peer = serving("a")
    peer.update(one("b"))
    peer.ack(CDS)
    assert peer.wait(15.0) == []
    assert peer.wait(100.0) == []
    peer.ack(RDS)
    assert peer.wait(1.0) == [(CDS, [], ["a"])]


def test_a_refused_route_keeps_its_cluster_until_a_later_ack() -> None:
    peer = serving("a")
    peer.update(one("b"))
    peer.ack(CDS)
    assert peer.ack(RDS, "missing ]: [") == []
    assert peer.wait(100.0) == []
    status = {found.type_url: found for found in peer.session.status().types}
    assert (status[RDS].state, status[RDS].errors) == ("NACKED", {"r": "missing ]: ["})
    assert peer.update(one("c")) == [(CDS, ["c"], [])]
    peer.ack(CDS)
    peer.ack(RDS)
    assert peer.wait(1.0) == [(CDS, [], ["a", "b"])]


def test_a_nack_that_names_no_one_is_narrowed_down() -> None:
    peer = Peer()
    peer.update(Snapshot.of(routes=[resource("r"), resource("s")]))
    assert peer.ask(RDS, "r", "s") == [(RDS, ["r", "s"], [])]
    assert peer.ack(RDS, "bad regex") == [(RDS, ["r"], [])]
    assert peer.ack(RDS) == [(RDS, ["s"], [])]
    assert peer.ack(RDS, "bad regex") == []
    blamed = [fact.blamed for fact in peer.session.facts() if isinstance(fact, Nacked)]
    assert blamed == [("r", "s"), ("s",)]


def test_after_a_nack_that_names_no_one_nobody_knows_what_is_held() -> None:
    peer = Peer()
    old = Snapshot.of(routes=[resource("r"), resource("s")])
    peer.update(old)
    peer.ask(RDS, "r", "s")
    peer.ack(RDS)
    peer.update(Snapshot.of(routes=[resource("r", 1), resource("s", 1)]))
    assert peer.ack(RDS, "bad regex") == [(RDS, ["r"], [])]
    peer.update(old)
    assert peer.ack(RDS) == [(RDS, ["r"], [])]
    assert peer.ack(RDS) == [(RDS, ["s"], [])]


def test_a_refused_route_is_not_sent_to_who_asks_for_it() -> None:
    peer = serving("a")
    peer.update(Snapshot({**one("a").resources, RDS: {"r": resource("r", 2)}}))
    peer.ack(RDS, "missing ]: [")
    assert peer.update(Snapshot.of(clusters=[resource("b")])) == [(CDS, ["b"], [])]
    assert peer.ask(RDS, "r") == []


@pytest.mark.parametrize("error", [None, "Error adding/updating listener(s) l: is bad"])
def test_a_cluster_stays_as_long_as_a_listener_of_before_may_use_it(error: str | None) -> None:
    peer = serving("a")
    assert peer.update(Snapshot()) == []
    changed = Snapshot.of(listeners=[resource("l", 1, refs=["r"])], routes=[resource("r", 1)])
    assert peer.update(changed) == [(LDS, ["l"], [])]  # before the old one was removed
    assert peer.wait(5.0) == []
    assert peer.ack(LDS, error) == [(RDS, ["r"], [])]
    assert peer.ack(RDS) == []
    assert peer.wait(1.0) == ([(CDS, [], ["a"])] if error is None else [])


def test_a_listener_whose_port_was_taken_is_tried_again_once_the_port_is_free() -> None:
    peer = serving("a")
    renamed = Snapshot({**one("a").resources, LDS: {"m": resource("m", refs=["r"])}})
    assert peer.update(renamed) == [(LDS, ["m"], [])]
    assert peer.ack(LDS, "Error adding/updating listener(s) m: has duplicate address") == []
    assert peer.wait(1.0) == [(LDS, [], ["l"])]
    assert peer.ack(LDS) == [(LDS, ["m"], [])]


@pytest.mark.parametrize("delta", [True, False])
def test_a_refused_listener_is_tried_again_every_thirty_seconds(delta: bool) -> None:
    peer = Peer(delta=delta)
    peer.update(Snapshot.of(listeners=[resource("l"), resource("m")]))
    assert peer.ask(CDS) == [(CDS, [], [])]
    peer.ask(LDS)
    assert peer.ack(CDS) == [(LDS, ["l", "m"], [])]
    again = [(LDS, ["m"] if delta else ["l", "m"], [])]
    for _ in range(2):
        assert peer.ack(LDS, "Error adding/updating listener(s) m: cannot bind") == []
        assert peer.session.deadline() == peer.now + 30.0
        assert peer.wait(29.9) == []
        assert peer.wait(0.1) == again
    assert peer.ack(LDS) == []
    assert {found.state for found in peer.session.status().types} == {"ACKED"}
    assert peer.wait(100.0) == []


def test_a_refused_cluster_is_not_tried_again() -> None:
    peer = Peer()
    peer.update(one("a"))
    peer.ask(CDS)
    peer.ack(CDS, "Error adding/updating cluster(s) a: is bad")
    assert peer.session.deadline() is None
    assert peer.wait(100.0) == []


def test_delta_says_that_a_name_does_not_exist_and_answers_a_second_subscription() -> None:
    peer = Peer()
    peer.update(one("a"))
    assert peer.ask(EDS, "nobody", "a") == [(EDS, ["a"], ["nobody"])]
    peer.ack(EDS)
    assert peer.ask(EDS, "a") == [(EDS, ["a"], [])]
    peer.ack(EDS)
    assert peer.ask(EDS, "nobody") == [(EDS, [], ["nobody"])]


def test_a_known_cluster_without_endpoints_gets_an_empty_assignment() -> None:
    peer = Peer()
    peer.update(Snapshot.of(clusters=[resource("a")]))
    assert peer.ask(EDS, "a") == [(EDS, ["a"], [])]
    assert peer.last[EDS].resources[0].body == b"\n\x01a"


def test_secrets_are_sent_and_rotated_at_once() -> None:
    peer = Peer()
    peer.update(Snapshot.of(secrets=[resource("s")], clusters=[resource("a")]))
    peer.ask(CDS)
    assert peer.ask(SDS, "s") == [(SDS, ["s"], [])]
    peer.ack(SDS)
    assert peer.update(Snapshot.of(secrets=[resource("s", 2)], clusters=[resource("b")])) == [(SDS, ["s"], [])]


@pytest.mark.parametrize("delta", [True, False])
def test_the_first_wildcard_is_answered_even_with_nothing(delta: bool) -> None:
    peer = Peer(delta=delta)
    peer.update(Snapshot())
    assert peer.ask(CDS) == [(CDS, [], [])]


def test_a_stale_nonce_is_ignored_in_sotw_and_only_its_ack_is_in_delta() -> None:
    sotw, delta = serving("a", delta=False), serving("a")
    sotw.update(one("b"))
    assert sotw.ask(EDS, "a", "b", nonce="0") == []
    delta.update(one("b"))
    assert delta.ask(EDS, "b", nonce="0", error="old") == [(EDS, ["b"], [])]


def test_a_reconnect_keeps_what_its_old_routes_use_until_they_are_replaced() -> None:
    peer = Peer()
    old, new = one("a"), one("b")
    peer.update(new)

    def held(url: str) -> dict[str, str]:
        return {name: found.version for name, found in old.of_type(url).items()}

    assert peer.ask(CDS, initial=held(CDS)) == [(CDS, ["b"], [])]
    assert peer.ask(LDS, initial=held(LDS)) == []
    assert peer.ask(RDS, "r", initial=held(RDS)) == []
    assert peer.ack(CDS) == [(RDS, ["r"], [])]
    assert peer.wait(5.0) == []
    peer.ack(RDS)
    assert peer.wait(1.0) == [(CDS, [], ["a"])]


def test_after_a_reconnect_nothing_goes_before_the_routes_are_known() -> None:
    peer = Peer()
    peer.update(one("b"))
    peer.ask(CDS, initial={found.name: found.version for found in (resource("a"), resource("b"))})
    peer.ask(LDS, initial={"l": resource("l", refs=["r"]).version})
    assert peer.wait(5.0) == []
    assert peer.ask(RDS, "r", initial={"r": resource("r", refs=["a"]).version}) == [(RDS, ["r"], [])]
    peer.ack(RDS)
    assert peer.wait(1.0) == [(CDS, [], ["a"])]


def test_a_changed_cluster_gets_its_endpoints_again() -> None:
    peer = serving("a")
    changed = Snapshot({**one("a").resources, CDS: {"a": resource("a", 2)}})
    assert peer.update(changed) == [(CDS, ["a"], []), (EDS, ["a"], [])]


def test_a_type_that_nobody_knows_is_answered_too() -> None:
    peer = Peer()
    peer.update(one("a"))
    assert peer.ask("type.example/Unknown", "x") == [("type.example/Unknown", [], ["x"])]


def test_facts_say_what_happened() -> None:
    peer = Peer()
    peer.update(one("a"))
    peer.ask(CDS)
    peer.now = 2.0
    peer.ack(CDS)
    pushed, acked = peer.session.facts()
    version = resource("a").version
    assert isinstance(pushed, Pushed)
    assert (pushed.node, pushed.resources) == (ANY, {"a": version})
    assert acked == Acked(ANY, CDS, one("a").version(CDS), {"a": version}, 2.0)
    assert peer.session.facts() == []
