"""The 14 conformance tests of Gateway API Inference Extension 1.6, each by its name there; `make conformance`.

Each docstring says what the original checks. Ours are stricter where we promise more: every answer is checked for the pool whose
picker was asked, and what the gateway reports as served comes from the response phase of the picker's stream only (the original
picker also lets the backend echo its own choice).
"""

import re
from collections import Counter

import pytest

from tests.conformance.endpoint_picker import ASKED_POOL, REPORTED, SELECTION
from tests.conformance.world import (
    NAMESPACE,
    PRIMARY,
    PRIMARY_POOL,
    PRIMARY_SERVERS,
    PROMPT,
    SECONDARY,
    SECONDARY_POOL,
    SECONDARY_SERVERS,
    Answer,
    Pod,
    Target,
    World,
    of_kind,
)

PRIMARY_HOST, SECONDARY_HOST = "primary.example.com", "secondary.example.com"


def test_epp_unavailable_fail_open(world: World) -> None:
    """EppUnAvailableFailOpen: a pool with failureMode FailOpen is served by the selected pod while its picker is there, and by
    any pod of the pool when it is not. The original takes away the endpoints of the *primary* pool's picker, which this pool
    does not use; we take away this pool's own.
    """
    with world.applied(*world.load("epp_unavailable_fail_open.yaml")):
        world.accepted("httproute-for-failopen-pool-gw", SECONDARY, SECONDARY_POOL)
        pods = world.pods(SECONDARY_SERVERS)
        target = world.target(
            SECONDARY, "/failopen-pool-test", host=SECONDARY_HOST, headers=selecting(pods[0].address), body=PROMPT
        )
        target.until(lambda answer: answer.pod == pods[0].name, f"an answer of {pods[0]}")
        with world.without_endpoints("secondary-endpoint-picker-svc"):
            target.until(lambda answer: not asked(answer) and answer.pod in names(pods), "any pod, without the picker")
        target.until(lambda answer: answer.pod == pods[0].name, "the picker's choice again")


def test_gateway_destination_endpoint_served(world: World) -> None:
    """GatewayDestinationEndpointServed: each pod in turn is selected, serves the request, and is what the gateway reports to
    the picker in metadata envoy.lb/x-gateway-destination-endpoint-served.
    """
    with world.applied(*world.load("gateway_destination_endpoint_served.yaml")):
        world.accepted("httproute-for-destination-endpoint-served", PRIMARY, PRIMARY_POOL)
        for pod in world.pods(PRIMARY_SERVERS):
            target = world.target(
                PRIMARY,
                "/destination-endpoint-served-test",
                host=PRIMARY_HOST,
                headers=selecting(pod.address),
                body=PROMPT,
            )
            answer = target.until(lambda answer, pod=pod: answer.pod == pod.name, f"an answer of {pod}")
            assert answer.headers.get(REPORTED) == f"{pod.address}:3000"
            assert asked(answer) == PRIMARY_POOL


@pytest.mark.parametrize("selected", [(2,), (0, 1), (0, 1, 2)], ids=["one", "two", "all"])
def test_gateway_following_epp_routing(world: World, selected: tuple[int, ...]) -> None:
    """GatewayFollowingEPPRouting: of 100 requests, 10 at a time, all are served by the pods that the picker may choose: one, two,
    all of them. We also ask that each of these serves some: the picker takes turns.
    """
    with world.applied(*world.load("gateway_following_epp_routing.yaml")):
        world.accepted("httproute-for-primary-gw", PRIMARY, PRIMARY_POOL)
        pods = world.pods(PRIMARY_SERVERS)
        chosen = [pods[number] for number in selected]
        headers = selecting(*(each.address for each in chosen))
        target = world.target(PRIMARY, "/primary-gateway-test", host=PRIMARY_HOST, headers=headers, body=PROMPT)
        target.until(lambda answer: answer.pod in names(chosen), f"an answer of {chosen}")
        assert served(target.send_many(100, at_once=10)) == names(chosen)


@pytest.mark.parametrize(
    "selected",
    [{1: ()}, {0: (), 2: (3002,)}, {0: (), 1: (3000, 3004), 2: ()}],
    ids=["one pod", "two pods, one at a rank", "all, one at two ranks"],
)
def test_gateway_following_epp_routing_with_data_parallelism(
    world: World, selected: dict[int, tuple[int, ...]]
) -> None:
    """GatewayFollowingEPPRoutingWithDataParallelism: the same where each pod has three target ports (ranks); the picker may be
    bound to some of them. The port that answers is one of those.
    """
    ranks = (3000, 3002, 3004)
    with world.applied(*world.load("gateway_following_epp_routing_dp.yaml")):
        world.accepted("httproute-for-primary-gw-dp", PRIMARY, "dp-inference-pool")
        pods = world.pods("dp-inference-model-server")
        wanted = [
            f"{pods[number].address}:{port}" if ports else pods[number].address
            for number, ports in selected.items()
            for port in ports or ranks[:1]
        ]
        allowed = {(pods[number].name, str(port)) for number, ports in selected.items() for port in ports or ranks}
        target = world.target(
            PRIMARY, "/primary-gateway-dp-test", host=PRIMARY_HOST, headers=selecting(*wanted), body=PROMPT
        )
        target.until(lambda answer: rank(answer) in allowed, f"an answer of {allowed}")
        assert {rank(answer) for answer in target.send_many(100, at_once=10)} == allowed


def test_gateway_weighted_across_two_inference_pools(world: World) -> None:
    """GatewayWeightedAcrossTwoInferencePools: weights 70 and 30, 200 requests, 5 at a time; each is served by a pod of the pool
    that its share leads to, whose own picker was asked; the shares are within ten points.
    """
    with world.applied(*world.load("gateway_weighted_two_pools.yaml")):
        world.accepted("httproute-weighted-two-pools", PRIMARY, PRIMARY_POOL, SECONDARY_POOL)
        pods = {PRIMARY_POOL: world.pods(PRIMARY_SERVERS), SECONDARY_POOL: world.pods(SECONDARY_SERVERS)}
        headers = selecting(*(each.address for held in pods.values() for each in held))
        target = world.target(PRIMARY, "/weighted-two-pools-test", host=PRIMARY_HOST, headers=headers, body=PROMPT)
        target.until(lambda answer: answer.status == 200)
        shares: Counter[str] = Counter()
        for answer in target.send_many(200, at_once=5):
            assert answer.status == 200, answer
            shares[asked(answer)] += 1
            assert answer.pod in names(pods[asked(answer)]), answer
        assert abs(shares[PRIMARY_POOL] / 200 - 0.7) <= 0.1, shares


def test_httproute_invalid_inferencepool_ref(world: World) -> None:
    """HTTPRouteInvalidInferencePoolRef: a route to a pool that does not exist is accepted, with ResolvedRefs=False, reason
    BackendNotFound. A request gets 500 (Gateway API, HTTPBackendRef).
    """
    route = "httproute-to-non-existent-pool"
    with world.applied(*world.load("httproute_invalid_inferencepool_ref.yaml")):
        world.condition("httproute", route, PRIMARY, "Accepted=True/Accepted")
        world.condition("httproute", route, PRIMARY, "ResolvedRefs=False/BackendNotFound")
        world.target(PRIMARY, "/test-non-existent-pool").until(lambda answer: answer.status == 500)


def test_httproute_multiple_gateways_different_pools(world: World) -> None:
    """HTTPRouteMultipleGatewaysDifferentPools: a route and a pool for each of two Gateways; each pool is accepted for its Gateway
    and served there.
    """
    with world.applied(*world.load("httproute_multiple_gateways_different_pools.yaml")):
        for gateway, pool, host in ((PRIMARY, PRIMARY_POOL, PRIMARY_HOST), (SECONDARY, SECONDARY_POOL, SECONDARY_HOST)):
            name = gateway.removeprefix("conformance-")
            world.accepted(f"route-for-{name}-gateway", gateway, pool)
            target = world.target(gateway, f"/test-{name}-gateway", host=host)
            from_pool(world, target, pool)


def test_inferencepool_accepted(world: World) -> None:
    """InferencePoolAccepted: a pool that an accepted route names has Accepted=True for the route's Gateway. Also, from a later
    version of the suite: the parent status tells its controller.
    """
    with world.applied(*world.load("inferencepool_accepted.yaml")):
        world.condition("inferencepool", PRIMARY_POOL, PRIMARY, "Accepted=True")
        world.condition("inferencepool", PRIMARY_POOL, PRIMARY, "ResolvedRefs=True")
        for parent in world.get("inferencepool", PRIMARY_POOL)["status"]["parents"]:
            assert parent["controllerName"] == "penstock.dev/gateway-controller"


@pytest.mark.parametrize(
    ("kind", "pool", "servers", "port", "protocol"),
    [
        ("h2c", "appprotocol-h2c-inference-pool", "appprotocol-inference-model-server", 3001, "HTTP/2.0"),
        ("http", "appprotocol-http-inference-pool", "appprotocol-inference-model-server", 3000, "HTTP/1.1"),
        ("default", PRIMARY_POOL, PRIMARY_SERVERS, 3000, "HTTP/1.1"),
    ],
    ids=["h2c", "http", "default"],
)
def test_inferencepool_app_protocol(world: World, kind: str, pool: str, servers: str, port: int, protocol: str) -> None:
    """InferencePoolAppProtocol: HTTP/2 in cleartext where appProtocol is kubernetes.io/h2c, HTTP/1.1 where it is http or nothing;
    each pod in turn is selected, serves and is reported.
    """
    with world.applied(*world.load("inferencepool_appprotocol.yaml")):
        world.accepted(f"httproute-for-inferencepool-appprotocol-{kind}", PRIMARY, pool)
        for pod in world.pods(servers):
            endpoint = f"{pod.address}:{port}"
            path, host = f"/inferencepool-app-protocol-{kind}", f"appprotocol-{kind}.example.com"
            target = world.target(PRIMARY, path, host=host, headers=selecting(endpoint), body=PROMPT)
            answer = target.until(lambda answer, pod=pod: answer.pod == pod.name, f"an answer of {pod}")
            assert (answer.headers.get(REPORTED), answer.echo["proto"]) == (endpoint, protocol)


@pytest.mark.parametrize("scenario", ["unspecified", "matching", "non-matching"])
def test_inferencepool_httproute_port_validation(world: World, scenario: str) -> None:
    """InferencePoolHTTPRoutePortValidation: the port of a backendRef to a pool may be missing, be the pool's, or be another: it is
    ignored, the route is resolved and served.
    """
    with world.applied(*world.load("inferencepool_httproute_port_validation.yaml")):
        world.accepted(f"httproute-pool-port-{scenario}", PRIMARY, PRIMARY_POOL)
        target = world.target(PRIMARY, f"/test-port-{scenario}", host=f"port-{scenario}.example.com")
        from_pool(world, target, PRIMARY_POOL)


def test_inferencepool_invalid_epp_service(world: World) -> None:
    """InferencePoolInvalidEPPService: where the picker's Service does not exist, the route is accepted, the pool has
    ResolvedRefs=False, and requests get some 5xx. Ours: the pool's reason is InvalidExtensionRef, the route's BackendNotFound.
    """
    route, pool = "httproute-for-invalid-epp-pool", "pool-with-invalid-epp"
    with world.applied(*world.load("inferencepool_invalid_epp_service.yaml")):
        world.condition("httproute", route, PRIMARY, "Accepted=True/Accepted")
        world.condition("httproute", route, PRIMARY, "ResolvedRefs=False/BackendNotFound")
        world.condition("inferencepool", pool, PRIMARY, "ResolvedRefs=False/InvalidExtensionRef")
        world.target(PRIMARY, "/invalid-epp-test").until(lambda answer: answer.status // 100 == 5)


def test_inferencepool_missing_epp_ref(world: World) -> None:
    """InferencePoolMissingEPPRef: a route to a pool without endpointPickerRef is accepted; the pool is accepted, or not with reason
    EndpointPickerRefMissing. With Penstock it is the better of the two: the co-located picker picks, and the pool is served.
    """
    pool = "pool-with-missing-epp-ref"
    with world.applied(*world.load("inferencepool_missing_epp_ref.yaml")):
        world.accepted("httproute-for-missing-epp-ref-pool", PRIMARY, pool)
        found = world.condition("inferencepool", pool, PRIMARY, "ResolvedRefs=True")
        assert "co-located" in found["message"]
        target = world.target(PRIMARY, "/missing-epp-ref-test", body=PROMPT)
        answer = target.until(lambda answer: answer.pod in names(world.pods(PRIMARY_SERVERS)))
        assert not asked(answer)
        assert served(target.send_many(100, at_once=10)) == names(world.pods(PRIMARY_SERVERS))


def test_httproute_multiple_rules_different_pools(world: World) -> None:
    """HTTPRouteMultipleRulesDifferentPools: two rules of one route lead to two pools; both are accepted, each path is served by
    its pool.
    """
    with world.applied(*world.load("inferencepool_multiple_rules_different_pools.yaml")):
        world.accepted("httproute-multiple-rules-different-pools", PRIMARY, PRIMARY_POOL, SECONDARY_POOL)
        from_pool(world, world.target(PRIMARY, "/primary"), PRIMARY_POOL)
        from_pool(world, world.target(PRIMARY, "/secondary"), SECONDARY_POOL)


def test_inferencepool_resolved_refs_condition(world: World) -> None:
    """InferencePoolResolvedRefsCondition: a pool that routes of two Gateways name is accepted for both and served by both; when
    the first route is deleted it stays so for the second, and the first answers 404; when both are gone the pool has no parent
    status, and the second answers 404. Ours: the parent status of the first Gateway goes with its route.
    """
    objects = world.load("inferencepool_resolvedrefs_condition.yaml")
    routes = {each["metadata"]["name"]: each for each in of_kind(objects, "HTTPRoute")}
    one, two = "httproute-for-primary-gw", "httproute-for-secondary-gw"
    first = world.target(PRIMARY, "/primary-gateway-test", host=PRIMARY_HOST)
    second = world.target(SECONDARY, "/secondary-gateway-test", host=SECONDARY_HOST)
    with world.applied(*objects):
        world.accepted(one, PRIMARY, PRIMARY_POOL)
        world.accepted(two, SECONDARY, PRIMARY_POOL)
        from_pool(world, first, PRIMARY_POOL)
        from_pool(world, second, PRIMARY_POOL)
        world.delete(routes[one])
        world.parents(PRIMARY_POOL, SECONDARY)
        from_pool(world, second, PRIMARY_POOL)
        first.until(lambda answer: answer.status == 404)
        world.delete(routes[two])
        world.parents(PRIMARY_POOL)
        second.until(lambda answer: answer.status == 404)


def selecting(*addresses: str) -> tuple[tuple[str, str], ...]:
    return ((SELECTION, ",".join(addresses)),)


def names(pods: list[Pod]) -> set[str]:
    return {each.name for each in pods}


def asked(answer: Answer) -> str:
    """The pool whose picker was asked; empty if none was."""
    return answer.seen(ASKED_POOL)


def served(answers: list[Answer]) -> set[str]:
    assert {each.status for each in answers} == {200}, [each for each in answers if each.status != 200]
    return {each.pod for each in answers}


def rank(answer: Answer) -> tuple[str, str]:
    return answer.pod, str(answer.echo.get("httpPort"))


def from_pool(world: World, target: Target, pool: str) -> None:
    """Requests are served by pods of the pool, by the choice of its picker."""
    servers = re.sub("-pool$", "-model-server", pool)
    answer = target.until(
        lambda answer: answer.pod.startswith(servers) and answer.echo["namespace"] == NAMESPACE, f"a pod of {servers}"
    )
    assert asked(answer) == pool, answer
