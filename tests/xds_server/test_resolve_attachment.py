"""Attachment: parentRefs, allowedRoutes, hostnames; and the route's status."""

from dataclasses import replace
from typing import Any

import pytest

from tests.xds_server.resolve_world import (
    ask,
    gateway,
    graph,
    http,
    parent,
    reasons,
    route,
    rule,
    service,
    status,
    thing,
)
from xds_server.model.objects import HTTPRoute, ParentRef

ACCEPTED = ("True", "Accepted")


def refused(reason: str) -> tuple[str, str]:
    return "False", reason


def from_(which: str, **more: Any) -> Any:
    return {"allowedRoutes": {"namespaces": {"from": which, **more}}}


SELECTOR = {"selector": {"matchLabels": {"team": "a"}}}
BY_NAME = {"selector": {"matchLabels": {"kubernetes.io/metadata.name": "team"}}}


@pytest.mark.parametrize(
    ("listeners", "parents", "hostnames", "expected"),
    [
        ([http()], {}, [], ACCEPTED),
        ([http()], {"sectionName": "http", "port": 80}, [], ACCEPTED),
        ([http()], {"sectionName": "other"}, [], refused("NoMatchingParent")),
        ([http()], {"port": 81}, [], refused("NoMatchingParent")),
        ([http()], {"sectionName": "http", "port": 81}, [], refused("NoMatchingParent")),
        ([http(hostname="a.com")], {}, ["b.com"], refused("NoMatchingListenerHostname")),
        ([http(hostname="a.com")], {}, ["b.com", "a.com"], ACCEPTED),
        ([http(hostname="*.a.com")], {}, ["a.com"], refused("NoMatchingListenerHostname")),
        ([http(hostname="*.a.com")], {}, ["x.y.a.com"], ACCEPTED),
        ([http(hostname="x.a.com")], {}, ["*.a.com"], ACCEPTED),
        ([http(hostname="*.x.a.com")], {}, ["*.a.com"], ACCEPTED),
        ([http(allowedRoutes={"kinds": [{"kind": "TLSRoute"}]})], {}, [], refused("NotAllowedByListeners")),
        (
            [{"name": "t", "port": 443, "protocol": "TLS", "tls": {"mode": "Passthrough"}}],
            {},
            [],
            refused("NotAllowedByListeners"),
        ),
    ],
)
def test_a_parent_ref(listeners: Any, parents: Any, hostnames: Any, expected: Any) -> None:
    found = graph(
        gateway("gw", *listeners), route("r", parents=[{"name": "gw", **parents}], hostnames=hostnames), service()
    )
    assert parent(found, "r")["Accepted"] == expected
    attached = sum(each.attached_routes for each in status(found, "Gateway", "gw").listeners)
    assert attached == (expected == ACCEPTED)
    assert any(each.field == "spec.parentRefs[0]" for each in found.problems) == (expected != ACCEPTED)


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ({}, refused("NotAllowedByListeners")),
        (from_("Same"), refused("NotAllowedByListeners")),
        (from_("All"), ACCEPTED),
        (from_("Selector", **SELECTOR), ACCEPTED),
        (from_("Selector", **BY_NAME), ACCEPTED),
        (from_("Selector", selector={"matchLabels": {"team": "b"}}), refused("NotAllowedByListeners")),
    ],
)
def test_allowed_namespaces(allowed: Any, expected: Any) -> None:
    team = thing("Namespace", "team", None, labels={"team": "a"})
    there = route("r", parents=[{"name": "gw", "namespace": "d"}], ns="team")
    found = graph(gateway("gw", http(**allowed)), there, service(ns="team"), team)
    assert parent(found, "r", ns="team")["Accepted"] == expected


def test_each_parent_has_its_own_word() -> None:
    parents = [{"name": "gw", "sectionName": "a"}, {"name": "gw", "sectionName": "nothing"}]
    found = graph(gateway("gw", http("a")), route("r", parents=parents), service())
    assert [parent(found, "r", at)["Accepted"] for at in (0, 1)] == [ACCEPTED, refused("NoMatchingParent")]


def test_two_parent_refs_to_one_listener_attach_once() -> None:
    one = route("r", parents=[{"name": "gw", "sectionName": "http"}])
    assert isinstance(one, HTTPRoute)
    both = replace(one, parents=(*one.parents, ParentRef(one.parents[0].ref, port=80)))
    found = graph(gateway(), both, service())
    assert status(found, "Gateway", "gw").listeners[0].attached_routes == 1
    assert len(found.ports[0].chains[0].hosts[0].routes) == 1


def test_a_gateway_that_is_not_ours_is_not_talked_about() -> None:
    other = thing("GatewayClass", "other", {"controllerName": "example.com/other"})
    objects = [other, gateway("gw", spec={"gatewayClassName": "other"}), route("r"), service()]
    found = graph(*objects)
    assert status(found, "HTTPRoute", "r").parents == ()
    assert not found.ports
    assert not found.problems


def test_a_gateway_that_does_not_exist_is_a_problem() -> None:
    found = graph(route("r", parents=[{"name": "nowhere"}]))
    assert [(each.field, each.reason) for each in found.problems] == [("spec.parentRefs[0]", "NoMatchingParent")]


def test_a_route_attaches_to_a_listener_that_is_not_programmed() -> None:
    broken = {"name": "tls", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "none"}]}}
    found = graph(gateway("gw", broken), route("r"), service())
    assert parent(found, "r")["Accepted"] == ACCEPTED
    assert status(found, "Gateway", "gw").listeners[0].attached_routes == 1
    assert not found.ports
    assert not found.backends


def test_every_condition_carries_the_generation() -> None:
    found = graph(gateway(generation=7), route("r", rule(to="none"), generation=9))
    gateway_status = status(found, "Gateway", "gw")
    listed = [*gateway_status.conditions, *gateway_status.listeners[0].conditions]
    assert {each.generation for each in listed} == {7}
    conditions = status(found, "HTTPRoute", "r").parents[0].conditions
    assert {each.generation for each in conditions} == {9}
    assert set(reasons(conditions)) == {"Accepted", "ResolvedRefs"}


def test_hostnames_are_compared_without_case() -> None:
    found = graph(gateway("gw", http(hostname="a.com")), route("r", hostnames=["a.com"]), service())
    assert ask(found, "a.com") is not None
