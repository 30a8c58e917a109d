"""Resources: paths, selectors, and which version of a kind is read."""

import pytest

from xds_server.kubernetes.resources import BUNDLE, Query, Resource, choose, group_versions, selector
from xds_server.model.objects import INFERENCE_GROUP, INFERENCE_X_GROUP, ObjectRef

ROUTES = Resource("gateway.networking.k8s.io", "HTTPRoute", "v1", "httproutes")
PODS = Resource("", "Pod", "v1", "pods")
CLASSES = Resource("gateway.networking.k8s.io", "GatewayClass", "v1", "gatewayclasses", namespaced=False)


@pytest.mark.parametrize(
    ("resource", "namespace", "name", "path"),
    [
        (ROUTES, "", "", "/apis/gateway.networking.k8s.io/v1/httproutes"),
        (ROUTES, "a", "b", "/apis/gateway.networking.k8s.io/v1/namespaces/a/httproutes/b"),
        (CLASSES, "a", "b", "/apis/gateway.networking.k8s.io/v1/gatewayclasses/b"),
        (PODS, "a", "", "/api/v1/namespaces/a/pods"),
    ],
)
def test_paths(resource: Resource, namespace: str, name: str, path: str) -> None:
    assert resource.path(namespace, name) == path


def test_a_query_selects_and_says_what_it_is() -> None:
    pods = Query(PODS, "a", labels=selector({"b": "2", "a": "1"}))
    assert pods.selectors == {"labelSelector": "a=1,b=2"} and str(pods) == "pods a/a=1,b=2"
    assert Query(PODS, "a", name="x").selectors == {"fieldSelector": "metadata.name=x"}
    assert str(Query(ROUTES)) == "httproutes.gateway.networking.k8s.io"


def test_a_moved_kind_has_the_identity_of_the_newer_group() -> None:
    old = Resource(INFERENCE_X_GROUP, "InferencePool", "v1alpha2", "inferencepools")
    assert old.ref("a", "b") == ObjectRef(INFERENCE_GROUP, "InferencePool", "a", "b")


def test_the_best_version_that_can_be_listed_is_chosen() -> None:
    group = "gateway.networking.k8s.io"
    route = {"name": "httproutes", "kind": "HTTPRoute", "namespaced": True, "verbs": ["list"]}
    both = {(group, "v1beta1"): [route], (group, "v1"): [{"name": "httproutes/status", "kind": "HTTPRoute"}, route]}
    assert choose(both) == {(group, "HTTPRoute"): ROUTES}
    assert choose({(group, "v1beta1"): [route]})[group, "HTTPRoute"].version == "v1beta1"
    assert not choose({(group, "v1"): [route | {"verbs": ["create"]}], (group, "v2"): [route]})


def test_bundles_are_known_and_no_place_is_asked_twice() -> None:
    places = group_versions()
    assert len(places) == len(set(places)) and (BUNDLE[0], "v1beta1") in places
