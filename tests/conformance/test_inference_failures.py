"""A pool's failureMode with a picker that is not ours: gone, aborting, slow, hung, refusing, or answering nonsense.

Sources: InferencePool 1.6 `endpointPickerRef.failureMode`, endpoint-picker protocol 004. The primary pool fails closed, the secondary one open.
"""

from collections.abc import Iterator

import pytest

from tests.conformance.endpoint_picker import ASKED_MODE, ASKED_POOL, BEHAVIOUR, REPORTED, SELECTION
from tests.conformance.world import (
    NAMESPACE,
    PRIMARY,
    PRIMARY_POOL,
    PRIMARY_SERVERS,
    PROMPT,
    SECONDARY_POOL,
    SECONDARY_SERVERS,
    Object,
    Target,
    World,
    changed,
)

MISBEHAVIOURS = ("abort", "hang", "slow=20")
NOBODY = "10.244.255.254"  # an address of the cluster's network that no pod has


@pytest.fixture(scope="module")
def routed(world: World) -> Iterator[World]:
    with world.applied(*world.load("inferencepool_multiple_rules_different_pools.yaml")):
        world.accepted("httproute-multiple-rules-different-pools", PRIMARY, PRIMARY_POOL, SECONDARY_POOL)
        yield world


def closed(world: World, *headers: tuple[str, str]) -> Target:
    return world.target(PRIMARY, "/primary", headers=headers, body=PROMPT)


def opened(world: World, *headers: tuple[str, str]) -> Target:
    return world.target(PRIMARY, "/secondary", headers=headers, body=PROMPT)


def works(target: Target, pool: str) -> None:
    target.until(lambda answer: answer.seen(ASKED_POOL) == pool, f"a choice of the picker of {pool}")


def test_fail_closed_without_a_picker_is_503(routed: World) -> None:
    works(closed(routed), PRIMARY_POOL)
    with routed.without_endpoints("primary-endpoint-picker-svc"):
        closed(routed).until(lambda answer: answer.status == 503)
        answers = closed(routed).send_many(20, at_once=5)
        assert {each.status for each in answers} == {503}
    works(closed(routed), PRIMARY_POOL)


def test_fail_open_without_a_picker_loses_no_request(routed: World) -> None:
    works(opened(routed), SECONDARY_POOL)
    with routed.without_endpoints("secondary-endpoint-picker-svc"):
        answers = opened(routed).send_many(50, at_once=5)
        assert {each.status for each in answers} == {200}, [each for each in answers if each.status != 200]
        assert {each.pod for each in answers} <= {each.name for each in routed.pods(SECONDARY_SERVERS)}
    works(opened(routed), SECONDARY_POOL)


@pytest.mark.parametrize("behaviour", MISBEHAVIOURS)
def test_fail_closed_with_a_misbehaving_picker_is_503(routed: World, behaviour: str) -> None:
    works(closed(routed), PRIMARY_POOL)
    answers = closed(routed, (BEHAVIOUR, behaviour)).send_many(4, at_once=4)
    assert {each.status for each in answers} == {503}, answers
    works(closed(routed), PRIMARY_POOL)  # one that misbehaves for some requests is still asked for others


@pytest.mark.parametrize("behaviour", MISBEHAVIOURS)
def test_fail_open_with_a_misbehaving_picker_is_served(routed: World, behaviour: str) -> None:
    works(opened(routed), SECONDARY_POOL)
    answers = opened(routed, (BEHAVIOUR, behaviour)).send_many(4, at_once=4)
    assert {each.status for each in answers} == {200}, answers
    assert {each.seen(ASKED_POOL) for each in answers} == {""}
    works(opened(routed), SECONDARY_POOL)


@pytest.mark.parametrize(("target", "pool"), [(closed, PRIMARY_POOL), (opened, SECONDARY_POOL)], ids=["closed", "open"])
def test_a_picker_that_takes_its_time_is_waited_for(routed: World, target: object, pool: str) -> None:
    servers = PRIMARY_SERVERS if pool == PRIMARY_POOL else SECONDARY_SERVERS
    pod = routed.pods(servers)[1]
    found = (closed if target is closed else opened)(routed, (SELECTION, pod.address), (BEHAVIOUR, "slow=1"))
    answer = found.until(lambda answer: answer.status == 200)
    assert (answer.seen(ASKED_POOL), answer.pod) == (pool, pod.name)


@pytest.mark.parametrize("make", [closed, opened], ids=["closed", "open"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_is_the_clients_answer_whatever_the_failure_mode(routed: World, make: object, status: int) -> None:
    found = (closed if make is closed else opened)(routed, (BEHAVIOUR, f"refuse={status}"))
    assert found.until(lambda answer: answer.status == status).status == status


def test_the_second_endpoint_serves_when_the_first_cannot(routed: World) -> None:
    pod = routed.pods(PRIMARY_SERVERS)[2]
    selection = f"{NOBODY}:3000,{pod.address}:3000"
    answer = closed(routed, (SELECTION, selection), (BEHAVIOUR, "list")).until(lambda answer: answer.status == 200)
    assert (answer.pod, answer.headers.get(REPORTED)) == (pod.name, f"{pod.address}:3000")


def test_an_endpoint_outside_the_pool_is_never_dialled(routed: World) -> None:
    """A picker must not make the gateway reach what its pool does not hold: here a server of another pool."""
    stranger, own = routed.pods(SECONDARY_SERVERS)[0], {each.name for each in routed.pods(PRIMARY_SERVERS)}
    found = closed(routed, (SELECTION, f"{stranger.address}:3000"), (BEHAVIOUR, "list"))
    for answer in found.send_many(20, at_once=5):
        assert answer.status == 503 or answer.pod in own, answer


def test_a_client_cannot_choose_for_the_picker(routed: World) -> None:
    one, other, _ = routed.pods(PRIMARY_SERVERS)
    header = ("x-gateway-destination-endpoint", f"{other.address}:3000")
    for answer in closed(routed, (SELECTION, one.address), header).send_many(10, at_once=5):
        assert (answer.status, answer.pod) == (200, one.name), answer


@pytest.mark.parametrize("size", [0, 1, 100_000, 1_000_000])
def test_bodies_of_any_size_pass_the_picker(routed: World, size: int) -> None:
    pod = routed.pods(PRIMARY_SERVERS)[0]
    found = Target(routed.address(PRIMARY), "/primary", headers=((SELECTION, pod.address),), body="x" * size)
    answer = found.until(lambda answer: answer.status == 200)
    assert (answer.pod, answer.headers.get(REPORTED)) == (pod.name, f"{pod.address}:3000")
    assert answer.seen(ASKED_MODE) in ("FULL_DUPLEX_STREAMED", "BUFFERED")


def test_a_picker_without_tls_is_asked_in_cleartext(routed: World) -> None:
    """The default is TLS with a certificate that nobody vouches for; appProtocol kubernetes.io/h2c of the Service is without."""
    objects = [*_plain(routed, "plain"), _route("plain")]
    with routed.applied(*objects):
        routed.rolled_out("plain-picker")
        routed.accepted("plain", PRIMARY, "plain")
        pod = routed.pods(PRIMARY_SERVERS)[1]
        found = routed.target(PRIMARY, "/plain", headers=((SELECTION, pod.address),), body=PROMPT)
        answer = found.until(lambda answer: answer.status == 200)
        assert (answer.seen(ASKED_POOL), answer.pod) == ("plain", pod.name)


def _plain(world: World, name: str) -> list[Object]:
    """The primary pool, its picker's Service and Deployment once more, without TLS."""
    held = {(each["kind"], each["metadata"]["name"]): each for each in world.load("base.yaml")}
    labels = {"app": f"{name}-picker"}
    pool, service = held["InferencePool", PRIMARY_POOL], held["Service", "primary-endpoint-picker-svc"]
    deployment = held["Deployment", "primary-app-endpoint-picker"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    args = ["--pool-name", name, "--pool-namespace", NAMESPACE, "--secure-serving=false"]
    port = service["spec"]["ports"][0] | {"appProtocol": "kubernetes.io/h2c"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container | {"args": args}]}}
    picker = {"name": f"{name}-picker", "port": {"number": 9002}}
    return [
        _named(changed(pool, endpointPickerRef=picker), name),
        _named(changed(service, selector=labels, ports=[port]), f"{name}-picker"),
        _named(changed(deployment, selector={"matchLabels": labels}, template=template), f"{name}-picker"),
    ]


def _named(found: Object, name: str) -> Object:
    return found | {"metadata": {"name": name, "namespace": NAMESPACE}}


def _route(name: str) -> Object:
    backend = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name}
    rule = {"matches": [{"path": {"type": "PathPrefix", "value": f"/{name}"}}], "backendRefs": [backend]}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"parentRefs": [{"name": PRIMARY, "namespace": "inference-conformance-infra"}], "rules": [rule]},
    }
