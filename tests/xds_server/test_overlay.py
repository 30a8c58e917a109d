"""Overlays: what merges how, what is refused, and that nothing which a user writes is a crash."""

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.xds_server.test_infrastructure import SETTINGS, gateway
from xds_server.infrastructure import manifests
from xds_server.model.objects import ConfigMap, InvalidObject, Meta, ObjectRef
from xds_server.overlay import KINDS, Overlays, read_overlays
from xds_server.sources import yaml

REF = ObjectRef("", "ConfigMap", "prod", "web-parameters")


def config(**data: str) -> ConfigMap:
    return ConfigMap(Meta(REF), data)


def merged(kind: str, text: str) -> dict[str, Any]:
    overlays = read_overlays(config(**{kind: text}))
    made = manifests(gateway(), [(80, "TCP")], SETTINGS, overlays=overlays)
    return next(each for each in made if each["kind"] == KINDS[kind])


def test_mappings_merge_deep_and_lists_by_name() -> None:
    found = merged(
        "deployment",
        """
        metadata: {labels: {team: a, gateway.networking.k8s.io/gateway-name: other}}
        spec:
          replicas: 5
          template:
            spec:
              tolerations: [{key: gpu}]
              containers:
              - {name: envoy, image: mirror/envoy:1, resources: {limits: {memory: 2Gi}}, env: [{name: TZ, value: UTC}]}
              - {name: beside, image: x}
              volumes: [{name: more, emptyDir: {}}]
        """,
    )
    assert found["metadata"]["labels"]["team"] == "a"
    assert found["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"] == "web"
    pod = found["spec"]["template"]["spec"]
    assert found["spec"]["replicas"] == 5
    assert [each["name"] for each in pod["containers"]] == ["envoy", "beside"]
    envoy = pod["containers"][0]
    assert (envoy["image"], envoy["resources"]["requests"]["cpu"]) == ("mirror/envoy:1", "100m")
    assert envoy["resources"]["limits"] == {"memory": "2Gi"}
    assert [each["name"] for each in envoy["env"]] == ["POD_NAME", "POD_NAMESPACE", "TZ"]
    assert envoy["args"][0] == "-c"
    assert [each["name"] for each in pod["volumes"]] == ["config", "token", "run", "more"]
    assert pod["tolerations"] == [{"key": "gpu"}]


def test_null_removes_and_a_plain_list_is_replaced() -> None:
    pod = merged(
        "deployment",
        "spec: {template: {metadata: null, spec: {securityContext: {runAsUser: null}, topologySpreadConstraints: []}}}",
    )["spec"]["template"]
    assert "runAsUser" not in pod["spec"]["securityContext"] and pod["spec"]["securityContext"]["runAsNonRoot"]
    assert pod["spec"]["topologySpreadConstraints"] == []
    assert pod["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "penstock"


def test_a_second_mount_of_a_volume_is_another_mount() -> None:
    mounts = "[{name: run, mountPath: /tmp}, {name: token, readOnly: false}]"
    found = merged(
        "deployment", f"spec: {{template: {{spec: {{containers: [{{name: envoy, volumeMounts: {mounts}}}]}}}}}}"
    )
    made = found["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert [each["mountPath"] for each in made] == ["/etc/envoy", "/run/secrets/penstock.dev", "/run/envoy", "/tmp"]
    assert made[1]["readOnly"] is False


def test_an_autoscaler_comes_only_where_it_is_asked_for_and_then_owns_the_replicas() -> None:
    plain = {each["kind"]: each for each in manifests(gateway(), [(80, "TCP")], SETTINGS)}
    assert "HorizontalPodAutoscaler" not in plain and plain["Deployment"]["spec"]["replicas"] == 2
    overlays = read_overlays(config(horizontalPodAutoscaler="spec: {maxReplicas: 20}"))
    scaled = {each["kind"]: each for each in manifests(gateway(), [(80, "TCP")], SETTINGS, overlays=overlays)}
    assert "replicas" not in scaled["Deployment"]["spec"]
    assert scaled["HorizontalPodAutoscaler"]["spec"]["maxReplicas"] == 20
    assert scaled["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "web-penstock"


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("deploymnt", "{}", "did you mean deployment"),
        ("ingress", "{}", "write one of deployment"),
        ("deployment", "a: [", "line 1 is not YAML"),
        ("deployment", "[1]", "must be a mapping"),
        ("deployment", "metadata: {annotations: {a: " + "b" * 70_000 + "}}", "shorten it"),
        ("deployment", "metadata: {name: x}", "must not set metadata.name"),
        ("deployment", "spec: null", "must not set spec.selector"),
        ("deployment", "spec: {template: {spec: {serviceAccountName: admin}}}", "serviceAccountName: Penstock does"),
        ("service", "spec: {selector: {app: other}}", "must not set spec.selector"),
        ("service", "spec: {externalIPs: [10.96.0.1]}", "must not set spec.externalIPs"),
        ("service", "metadata: {ownerReferences: []}", "must not set metadata.ownerReferences"),
        ("deployment", "spec: {template: {spec: {containers: 5}}}", r"spec\.template\.spec\.containers must be a list"),
        ("deployment", "spec: {template: 5}", r"spec\.template must be a mapping"),
        ("deployment", "spec: {replicas: 99999999999999999999}", "no JSON form"),
        ("service", "spec: {type: {}}", r"spec\.type must be a plain value"),
    ],
)
def test_a_bad_overlay_is_said_by_object_and_field(key: str, text: str, said: str) -> None:
    with pytest.raises(InvalidObject, match=said) as error:
        overlays = read_overlays(config(**{key: text}))
        manifests(gateway(), [(80, "TCP")], SETTINGS, overlays=overlays)
    assert (error.value.problem.ref, error.value.problem.field) == (REF, f"data[{key}]")


KEYS = st.sampled_from(
    ["spec", "template", "metadata", "labels", "annotations", "containers", "volumes", "name", "ports"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(sorted(KINDS)), st.dictionaries(KEYS, JSON, max_size=3), max_size=3))
def test_no_overlay_is_a_crash(parts: dict[str, Any]) -> None:
    try:
        overlays = read_overlays(config(**{key: json.dumps(part) for key, part in parts.items()}))
        found = manifests(gateway(), [(80, "TCP")], SETTINGS, overlays=overlays)
    except InvalidObject:
        return
    assert {each["metadata"]["name"] for each in found} == {"web-penstock"}
    assert all(each["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "penstock" for each in found)


def test_no_overlay_changes_nothing() -> None:
    assert Overlays().merged({"kind": "Service", "a": 1}) == {"kind": "Service", "a": 1}
    assert read_overlays(config(service="# later")).parts == {}


def test_it_is_read_once_however_often_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(text: str) -> dict[str, Any]:
        asked.append(text)
        return {"metadata": {}}

    monkeypatch.setattr(yaml, "load_yaml", load)
    for _ in range(3):
        read_overlays(config(service="# once"))
    assert asked == ["# once"]
