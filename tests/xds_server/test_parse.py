"""Every kind, good and bad; any JSON gives a value, None or InvalidObject; a Problem names a field that is there or missing."""

import copy
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, strategies as st
from ruamel.yaml import YAML

from tests.xds_server.parse_cases import (
    BAD,
    CLASS,
    CONFIG_MAP,
    GATEWAY,
    GATEWAY_DOCUMENT,
    GRANT,
    NAMESPACE,
    OBJECTIVE,
    OLD_POOL,
    POD,
    POOL,
    REWRITE,
    ROUTE,
    RULE,
    SECRET,
    SERVICE,
    SLICE,
    VALID,
)
from tests.xds_server.parse_gateway_cases import BAD as GATEWAY_BAD, VALID as GATEWAY_VALID
from xds_server.model import objects as model
from xds_server.model.objects import InvalidObject, ObjectRef, Problem
from xds_server.parse import KINDS, parse
from xds_server.parse.annotations import endpoint, pool_endpoints

SHARED = Path(os.environ.get("PENSTOCK_SHARED", Path(__file__).parents[3] / "shared"))
INFERENCE = "inference.networking.k8s.io"
INFERENCE_X = "inference.networking.x-k8s.io"


def refused(document: Any, **options: Any) -> Problem:
    with pytest.raises(InvalidObject) as caught:
        parse(document, **options)
    return caught.value.problem


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the field at `path` set, or removed where `value` is ...; keys with dots in brackets."""
    result = copy.deepcopy(document)
    steps = [int(index) if index else word for index, word in re.findall(r"\[(\d+)\]|([^.\[\]]+)", path)]
    inner: Any = result
    for step in steps[:-1]:
        inner = inner.setdefault(step, {}) if isinstance(inner, dict) else inner[step]
    if value is ...:
        del inner[steps[-1]]
    else:
        inner[steps[-1]] = value
    return result


# --- good -------------------------------------------------------------------------------------------------------------


def test_http_route() -> None:
    route = parse(ROUTE, "routes.yaml:1")
    assert isinstance(route, model.HTTPRoute)
    assert route.meta.ref == ObjectRef(GATEWAY, "HTTPRoute", "prod", "chat")
    assert (route.meta.generation, route.meta.labels, route.meta.source) == (3, {"team": "a"}, "routes.yaml:1")
    assert route.parents == (
        model.ParentRef(ObjectRef(GATEWAY, "Gateway", "prod", "public"), "https", 443),
        model.ParentRef(ObjectRef(GATEWAY, "Gateway", "infra", "inner")),
    )
    first, second = route.rules
    assert first.matches == (
        model.HTTPMatch(
            model.PathMatch("PathPrefix", "/v1"),
            (model.ValueMatch("x-team", "a.*", regex=True),),
            (model.ValueMatch("Model", "m"),),
            "POST",
        ),
    )
    assert first.filters == (
        model.HeaderFilter("request", (("a", "1"),), (("b", "2"),), ("c",)),
        model.RewriteFilter("inner.example.com", model.PathModifier("ReplacePrefixMatch", "/")),
        model.MirrorFilter(model.BackendRef(ObjectRef("", "Service", "prod", "copy"), 80), 1, 1000),
        model.CORSFilter(("*",)),
    )
    assert first.backends == (
        model.BackendRef(ObjectRef(INFERENCE, "InferencePool", "prod", "llama"), 0, 9),
        model.BackendRef(
            ObjectRef("", "Service", "prod", "plain"), 8080, 1, (model.HeaderFilter("response", remove=("server",)),)
        ),
    )
    assert first.timeouts == model.Timeouts(90.0, 0.5)
    assert first.retry == model.Retry((502, 503), 2, 0.1)
    assert second.filters == (model.RedirectFilter("https", port=443, status=301),)
    assert second.matches == (model.HTTPMatch(),)


def test_http_route_defaults() -> None:
    specs: list[dict[str, Any]] = [{}, {"rules": None}, {"rules": [{}]}, {"rules": [{"matches": []}]}]
    for spec in specs:
        route = parse({**ROUTE, "spec": spec})
        assert isinstance(route, model.HTTPRoute)
        assert route.rules == (model.HTTPRule(),)


def test_gateway() -> None:
    gateway = parse(GATEWAY_DOCUMENT)
    assert isinstance(gateway, model.Gateway)
    assert gateway.meta.namespace == "default"
    assert gateway.addresses == (("IPAddress", "10.0.0.1"), ("Hostname", "gw.example.com"), ("IPAddress", ""))
    assert gateway.listeners == (
        model.Listener("http", 80, "HTTP"),
        model.Listener(
            "https",
            443,
            "HTTPS",
            "*.example.com",
            model.ListenerTLS("Terminate", (ObjectRef("", "Secret", "certs", "cert"),)),
            model.AllowedRoutes(
                "Selector", model.LabelSelector({"a": "b"}, (("c", "In", ("d",)),)), ((GATEWAY, "HTTPRoute"),)
            ),
        ),
    )


def test_inference_kinds() -> None:
    pool = parse(POOL)
    assert isinstance(pool, model.InferencePool)
    assert (pool.selector, pool.target_ports, pool.app_protocol) == ({"app": "llama"}, (8000, 8001), "http")
    assert pool.picker == model.PickerRef(ObjectRef("", "Service", "default", "epp"), 9002, "FailOpen")
    assert pool_endpoints(pool.meta) == (("10.0.0.1", 8000), ("127.0.0.1", 8001), ("fd00::1", 8002))
    old = parse(OLD_POOL)
    assert isinstance(old, model.InferencePool)
    assert old.meta.ref == ObjectRef(INFERENCE, "InferencePool", "default", "llama") == pool.meta.ref
    assert (old.selector, old.target_ports) == ({"app": "llama"}, (8000,))
    assert old.picker == model.PickerRef(ObjectRef("", "Service", "default", "epp"), 9002, "FailClose")
    objective = parse(OBJECTIVE)
    assert isinstance(objective, model.InferenceObjective)
    assert (objective.pool, objective.priority, objective.models) == (pool.meta.ref, 10, ("a", "b"))
    rewrite = parse(REWRITE)
    assert isinstance(rewrite, model.InferenceModelRewrite)
    assert rewrite.meta.ref.group == "llm-d.ai"
    assert rewrite.rules == (model.RewriteRule(("gpt",), (("llama", 9), ("llama-next", 1))),)


@pytest.mark.parametrize("group", ["llm-d.ai", INFERENCE_X])
def test_endpoint_picker_config(group: str) -> None:
    content = {"apiVersion": f"{group}/v1alpha1", "kind": "EndpointPickerConfig", "anything": {"at": ["all"]}}
    for metadata, namespace, name in (({}, "", "default"), ({"metadata": {"name": "x"}}, "default", "x")):
        config = parse({**content, **metadata})
        assert isinstance(config, model.EndpointPickerConfig)
        assert config.meta.ref == ObjectRef("llm-d.ai", "EndpointPickerConfig", namespace, name)
        assert config.content == content


def test_grant_and_class() -> None:
    grant, gateway_class = parse(GRANT), parse(CLASS)
    assert isinstance(grant, model.ReferenceGrant)
    assert grant.sources == ((GATEWAY, "HTTPRoute", "a"),)
    assert grant.targets == (("", "Service", ""), (INFERENCE, "InferencePool", "llama"))
    assert isinstance(gateway_class, model.GatewayClass)
    assert gateway_class.meta.ref == ObjectRef(GATEWAY, "GatewayClass", "", "penstock")
    assert gateway_class.controller == "penstock.dev/gateway-controller"
    assert gateway_class.parameters == ObjectRef("a.b", "K", "", "n")


def test_kubernetes_kinds() -> None:
    service, found, config, namespace = parse(SERVICE), parse(SLICE), parse(CONFIG_MAP), parse(NAMESPACE)
    assert isinstance(service, model.Service)
    assert service.ports == (
        model.ServicePort(80, "http", "serving", "kubernetes.io/h2c"),
        model.ServicePort(81, "", 81),
    )
    assert isinstance(found, model.EndpointSlice)
    assert (found.service, found.ports) == ("web", (("http", 8080),))
    assert found.endpoints == (
        model.SliceEndpoint(("10.0.0.1",), zone="z", node="n", pod="web-a"),
        model.SliceEndpoint(("10.0.0.2",), ready=False, serving=False, terminating=True),
    )
    assert isinstance(config, model.ConfigMap)
    assert config.data == {"a": "b"}
    assert isinstance(namespace, model.Namespace)
    assert namespace.meta.labels == {"a": "b", "kubernetes.io/metadata.name": "prod"}


@pytest.mark.parametrize(
    ("status", "ip", "ready"),
    [
        ({}, "", False),
        ({"podIP": "10.0.0.1"}, "10.0.0.1", True),
        ({"podIPs": [{"ip": "fd00::1"}]}, "fd00::1", True),
        ({"podIP": "FD00:0::01"}, "fd00::1", True),
        ({"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "False"}]}, "10.0.0.1", False),
        ({"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}, "10.0.0.1", True),
        ({"podIP": "10.0.0.1", "conditions": [{"type": "Initialized", "status": "True"}]}, "10.0.0.1", False),
        ({"podIP": "10.0.0.1", "phase": "Failed"}, "10.0.0.1", False),
        ({"conditions": [{"type": "Ready", "status": "True"}]}, "", False),
    ],
)
def test_pod(status: dict[str, Any], ip: str, ready: bool) -> None:
    pod = parse({**POD, "status": status})
    assert isinstance(pod, model.Pod)
    assert (pod.ip, pod.ready, pod.terminating, pod.node) == (ip, ready, False, "n")
    assert pod.ports == {"side": 9000, "serving": 8000}
    leaving = parse(changed(POD, "metadata.deletionTimestamp", "2026-01-01T00:00:00Z"))
    assert isinstance(leaving, model.Pod)
    assert leaving.terminating


def test_secret_never_shows_its_values() -> None:
    secret = parse(SECRET)
    assert isinstance(secret, model.Secret)
    assert secret.data == {"tls.key": b"key", "tls.crt": b"crt", "both": b"plain"}
    for broken in ({"data": "hunter2"}, {"data": {"k": "hunter2!"}}, {"stringData": {"k": ["hunter2"]}}, {"type": 7}):
        assert "hunter2" not in str(refused({**SECRET, **broken}))


@pytest.mark.parametrize("kind", ["apps/v1 Deployment", "v1 Node", "gateway.networking.x-k8s.io/v1alpha1 XMesh"])
def test_other_kinds_are_none(kind: str) -> None:
    version, name = kind.split()
    assert parse({"apiVersion": version, "kind": name, "spec": 7}) is None


# --- bad --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "path", "value", "field", "words"), BAD + GATEWAY_BAD, ids=lambda value: str(value)[:40]
)
def test_a_mistake_names_its_field_and_remedy(document: Any, path: str, value: Any, field: str, words: str) -> None:
    problem = refused(changed(document, path, value), source="a.yaml:3")
    assert problem.field == (field or path)
    assert words in problem.message
    assert problem.source == "a.yaml:3"
    unnamed = problem.field in ("kind", "metadata", "metadata.name", "metadata.namespace") or "for kind" in words
    assert (problem.ref is None) == unnamed


@pytest.mark.parametrize("text", ["web:80", "10.0.0.1", "10.0.0.1:0", "fd00::1:80", "[10.0.0.1]:80", "1.2.3.4:99999"])
def test_endpoints_are_addresses(text: str) -> None:
    with pytest.raises(ValueError):  # its words are the library's
        endpoint(text)
    problem = refused({**POOL, "metadata": {"name": "p", "annotations": {"penstock.dev/endpoints": text}}})
    assert problem.field == "metadata.annotations[penstock.dev/endpoints]"


def test_line_of_is_asked_for_the_field() -> None:
    problem = refused(changed(ROUTE, f"{RULE}.name", 1), source="a:1", line_of=lambda path: f"a:{path}")
    assert problem.source == "a:spec.rules[0].name"


def test_a_newer_schema_is_no_mistake_when_the_api_server_has_checked() -> None:
    newer = changed(ROUTE, f"{RULE}.fromTheFuture", {"a": 1})
    assert parse(newer, strict=False) == parse(ROUTE)
    refused(newer)


def test_keys_are_text() -> None:
    assert refused({**ROUTE, "spec": {1: 2}}).message == "key 1 must be text; write it in quotes"
    assert refused({**CONFIG_MAP, "data": {1: "2"}}).message == "key 1 must be text; write it in quotes"


def test_an_address_is_written_as_envoy_writes_it() -> None:
    found = parse(changed(changed(SLICE, "addressType", "IPv6"), "endpoints[0].addresses[0]", "FD00:0::01"))
    assert isinstance(found, model.EndpointSlice)
    assert found.endpoints[0].addresses == ("fd00::1",)


def test_names_of_an_fqdn_slice_are_kept() -> None:
    found = parse(changed(changed(SLICE, "addressType", "FQDN"), "endpoints[0].addresses[0]", "a.example"))
    assert isinstance(found, model.EndpointSlice)
    assert found.endpoints[0].addresses == ("a.example",)


def test_a_filter_of_the_future_is_unknown() -> None:
    route = parse(changed(ROUTE, f"{RULE}.filters[3]", {"type": "Teleport", "teleport": {}}))
    assert isinstance(route, model.HTTPRoute)
    assert route.rules[0].filters[3] == model.UnknownFilter("Teleport")


# --- any --------------------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None))


def json_values(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )


ANY_JSON = json_values(st.text(max_size=8))
NAMED_JSON = json_values(st.from_regex(r"[a-z]{1,8}", fullmatch=True))  # keys from which a path can be told apart


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path in a document but the root."""
    if isinstance(value, dict):
        inner = [place for key, item in value.items() for place in places(item, (*path, key))]
    elif isinstance(value, list):
        inner = [place for index, item in enumerate(value) for place in places(item, (*path, index))]
    else:
        inner = []
    return [path, *inner] if path else inner


def known(document: Any, field: str) -> bool:
    """Whether `field` is in the document, or its parent is, so that the field is one that is missing."""
    if not field:
        return True
    inner = document
    rest = field
    while rest:
        if isinstance(inner, list):
            found = re.match(r"\[(\d+)\]", rest)
            if not found or int(found[1]) >= len(inner):
                return False
            inner, rest = inner[int(found[1])], rest[found.end() :]
            continue
        if not isinstance(inner, dict):
            return False
        for key in sorted(map(str, inner), key=len, reverse=True):
            written = next((w for w in (f".{key}", f"[{key}]", key) if key and rest.startswith(w)), None)
            if written and rest[len(written) :][:1] in ("", ".", "["):
                inner, rest = inner[key], rest[len(written) :]
                break
        else:
            return rest.lstrip(".").isidentifier()
    return True


@given(
    st.sampled_from(sorted(KINDS)), st.dictionaries(st.sampled_from(["spec", "data", "status", "metadata"]), ANY_JSON)
)
@example(("", "ConfigMap"), {"metadata": {"name": "a"}, "data": {"a": 10**5000}})
@example(("", "ConfigMap"), {"metadata": {"name": "a"}, "data": {"a": "\ud800"}})
def test_any_json_is_a_value_or_refused(kind: tuple[str, str], body: dict[str, Any]) -> None:
    version = f"{kind[0]}/{KINDS[kind].versions[0]}".removeprefix("/")
    for document in (body, {"apiVersion": version, "kind": kind[1], **body}):
        with suppress(InvalidObject):
            parse(document)


@given(st.data())
def test_a_changed_document_is_a_value_or_names_the_field(data: st.DataObject) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from(VALID + GATEWAY_VALID)))
    path = data.draw(st.sampled_from(places(document)))
    parent: Any = document
    for step in path[:-1]:
        parent = parent[step]
    if data.draw(st.booleans()):
        parent[path[-1]] = data.draw(NAMED_JSON)
    elif isinstance(parent, dict):
        parent[data.draw(st.sampled_from(["x", f"{path[-1]}s", "name", "port"]))] = parent.pop(path[-1])
    try:
        parse(document)
    except InvalidObject as invalid:
        assert known(document, invalid.problem.field)
        assert invalid.problem.message
        str(invalid).encode(errors="surrogatepass")


# --- what others published --------------------------------------------------------------------------------------------

REFUSED = {  # filled in by the suite that owns the file
    "spec.controllerName: must be a domain and a path, got '{GATEWAY_CONTROLLER_NAME}'",
    "spec.addresses[1].value: must be an IPv4 or IPv6 address, got 'PLACEHOLDER_UNUSABLE_ADDRS'",
}


@pytest.mark.skipif(not (SHARED / "cluster").is_dir(), reason="no published manifests; set PENSTOCK_SHARED")
@pytest.mark.parametrize("folder", ["gateway-api-conformance", "gie-conformance"])
def test_conformance_manifests(folder: str) -> None:
    read = 0
    for path in sorted((SHARED / "cluster" / folder).glob("*.yaml")):
        for document in YAML(typ="safe", pure=True).load_all(path.read_text()):
            if document is None:
                continue
            try:
                read += parse(document) is not None
            except InvalidObject as invalid:
                assert any(text in str(invalid) for text in REFUSED), path.name
    assert read > 10
