"""The Helm chart renders, and what it renders keeps its promises: no right and no privilege that is not needed."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from observability.autoscaling.external_metrics import API_SERVICE, GROUP
from observability.autoscaling.signals import BY_METRIC
from penstock import controller
from penstock.cli import parser
from penstock.cluster import AUTHORITY
from penstock.settings import Autoscaling, Kubernetes
from xds_server.authority import service_names
from xds_server.infrastructure import Infrastructure
from xds_server.sources.yaml import chunks, load_yaml
from xds_server.status import FIELDS

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy/charts/penstock"
SYSTEM = "penstock-system"
HELM = os.environ.get("PENSTOCK_HELM") or shutil.which("helm")
helm = pytest.mark.skipif(
    not HELM, reason="no helm: set PENSTOCK_HELM, or `go install helm.sh/helm/v3/cmd/helm@v3.22.0`"
)
VARIANTS = {
    "default": (),
    "namespaced": ("watchNamespaces={team-a,team-b}",),
    "own fleet": ("infrastructure.enabled=false", "gatewayClass.create=false"),
    "exporting": (
        *("export.cloudMonitoring.enabled=true", "export.cloudMonitoring.project=p", "export.otlp.enabled=true"),
        *("export.otlp.endpoint=http://collector:4318", "extraEnv[0].name=OTEL_SERVICE_NAME", "extraEnv[0].value=edge"),
    ),
    "autoscaling": (
        "autoscaling.externalMetrics.enabled=true",
        "autoscaling.keda.enabled=true",
        "autoscaling.keda.tls=true",
        "watchNamespaces={team-a}",
    ),
    "watching": ("rbac.secrets=watch", "replicas=1", "networkPolicy.enabled=false"),
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HELM), *arguments], capture_output=True, text=True, timeout=120, check=False)


def rendered(*values: str) -> list[dict[str, Any]]:
    sets = [part for value in values for part in ("--set", value)]
    done = run("template", "penstock", str(CHART), "-n", SYSTEM, "--kube-version", "1.34.0", *sets)
    assert done.returncode == 0, done.stderr
    return [load_yaml(chunk.text) for chunk in chunks(done.stdout)]


def rules(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [rule for each in found if each["kind"] == kind for rule in each["rules"]]


def verbs(found: list[dict[str, Any]], kind: str, resource: str) -> set[str]:
    return {verb for rule in rules(found, kind) if resource in rule["resources"] for verb in rule["verbs"]}


def one(found: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (only,) = [each for each in found if each["kind"] == kind]
    return only


@helm
def test_helm_finds_nothing_wrong() -> None:
    done = run("lint", "--strict", str(CHART), "--kube-version", "1.34.0")
    assert done.returncode == 0, done.stdout + done.stderr


@helm
@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_pods_have_no_privilege(values: tuple[str, ...]) -> None:
    for each in rendered(*values):
        if each["kind"] != "Deployment":
            continue
        pod = each["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True and security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"] and container["readinessProbe"]


@helm
@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_no_right_is_a_wildcard_and_no_status_is_updated(values: tuple[str, ...]) -> None:
    found = rendered(*values)
    for rule in rules(found, "ClusterRole") + rules(found, "Role"):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])
        if any(resource.endswith("/status") for resource in rule["resources"]):
            assert rule["verbs"] == ["patch"]


@helm
def test_every_status_that_is_written_may_be_written() -> None:
    found = rendered()
    for kind in FIELDS:
        plural = kind.lower().removesuffix("y") + "ies" if kind.endswith("Policy") else kind.lower() + "s"
        plural = plural.replace("classs", "classes")
        assert verbs(found, "ClusterRole", f"{plural}/status") == {"patch"}, kind


@helm
def test_secrets_are_read_by_name_only() -> None:
    found = rendered()
    assert verbs(found, "ClusterRole", "secrets") == {"get"}
    assert "list" not in verbs(found, "ClusterRole", "configmaps") | verbs(found, "Role", "secrets")
    assert verbs(rendered("rbac.secrets=watch"), "ClusterRole", "secrets") == {"get", "list", "watch"}
    refused = run("template", str(CHART), "--kube-version", "1.34.0", "--set", "rbac.secrets=all")
    assert refused.returncode and "rbac.secrets must be get or watch" in refused.stderr


@helm
def test_the_right_to_make_pods_is_there_only_where_envoys_are_made() -> None:
    made, own = rendered(), rendered("infrastructure.enabled=false")
    assert {"create", "patch", "delete"} <= verbs(made, "ClusterRole", "deployments")
    for resource in ("deployments", "serviceaccounts", "poddisruptionbudgets", "horizontalpodautoscalers"):
        assert not verbs(own, "ClusterRole", resource)
    for resource in ("services", "configmaps", "secrets"):
        assert verbs(own, "ClusterRole", resource) <= {"get", "list", "watch"}
    arguments = one(own, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--no-provision" in arguments and "--envoy-image" not in arguments


@helm
def test_namespaced_means_that_nothing_of_others_is_read() -> None:
    found = rendered("watchNamespaces={team-a,team-b}")
    cluster = {resource for rule in rules(found, "ClusterRole") for resource in rule["resources"]}
    assert cluster == {"gatewayclasses", "gatewayclasses/status", "namespaces", "clustertrustbundles", "tokenreviews"}
    roles = [each["metadata"]["namespace"] for each in found if each["kind"] == "Role"]
    bound = [each["metadata"]["namespace"] for each in found if each["kind"] == "RoleBinding"]
    assert sorted(roles) == sorted(bound) == [SYSTEM, "team-a", "team-b"]
    arguments = one(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--watch-namespace") :][:4] == [
        "--watch-namespace",
        "team-a",
        "--watch-namespace",
        "team-b",
    ]


@helm
@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_the_program_takes_its_arguments(values: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAMESPACE", SYSTEM)
    arguments = one(rendered(*values), "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    found = controller.settings(parser().parse_args(arguments)).kubernetes
    assert found and found.service == "penstock" and found.namespace == SYSTEM
    assert (found.xds_port, found.picker_port) == (18000, 9002)
    assert found.provision == ("infrastructure.enabled=false" not in values)
    assert found.infrastructure.image == Infrastructure("", "", "").image  # the chart's default is the program's
    assert found.infrastructure.drain == Infrastructure("", "", "").drain


@helm
def test_exporting_takes_options_and_no_right() -> None:
    found = rendered(*VARIANTS["exporting"])
    assert rules(found, "ClusterRole") == rules(rendered(), "ClusterRole")
    (container,) = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    export = controller.settings(parser().parse_args(container["args"])).export
    assert (export.doors, export.period, export.project) == (("cloud-monitoring", "otlp"), 60.0, "p")
    assert export.tracing.ratio == 0.05
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"
    assert environment["OTEL_SERVICE_NAME"] == "edge"
    nowhere = run("template", str(CHART), "--kube-version", "1.34.0", "--set", "export.otlp.enabled=true")
    assert nowhere.returncode and "name the collector" in nowhere.stderr


@helm
def test_the_one_secret_of_ours_is_the_one_that_may_be_read() -> None:
    own = [rule for rule in rules(rendered(), "Role") if rule["resources"] == ["secrets"] and "get" in rule["verbs"]]
    assert [rule["resourceNames"] for rule in own] == [[AUTHORITY]]


@helm
def test_the_replicas_have_the_name_that_envoys_are_given() -> None:
    names = {f"{each['metadata']['name']}.{SYSTEM}.svc" for each in rendered() if each["kind"] == "Service"}
    assert Kubernetes(service="penstock", namespace=SYSTEM).replicas in names


@helm
def test_the_parts_find_each_other() -> None:
    found = rendered()
    pod = one(found, "Deployment")["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    service, replicas = [each["spec"] for each in found if each["kind"] == "Service"]
    assert service["selector"].items() <= labels
    assert (replicas["clusterIP"], replicas["selector"]) == ("None", service["selector"])
    for kind in ("PodDisruptionBudget", "Deployment"):
        assert one(found, kind)["spec"]["selector"]["matchLabels"].items() <= labels
    assert one(found, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    assert ports == {"xds": 18000, "picker": 9002, "telemetry": 9090}
    assert {port["targetPort"] for port in service["ports"]} == set(ports)
    (tmp,) = pod["spec"]["volumes"]
    assert "emptyDir" in tmp
    assert one(found, "GatewayClass")["spec"]["controllerName"] == "penstock.dev/gateway-controller"
    account = one(found, "ServiceAccount")["metadata"]["name"]
    assert pod["spec"]["serviceAccountName"] == account
    for each in found:
        for subject in each.get("subjects", ()):
            assert (subject["name"], subject["namespace"]) == (account, SYSTEM)
    assert "APIService" not in {each["kind"] for each in found}
    assert "PodDisruptionBudget" not in {each["kind"] for each in rendered("replicas=1")}


AUTOSCALING = ("autoscaling.externalMetrics.enabled=true", "autoscaling.keda.enabled=true")


@helm
def test_autoscalers_find_us_where_they_may_ask() -> None:
    found = rendered(*AUTOSCALING)
    container = one(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    told = controller.settings(parser().parse_args(container["args"])).autoscaling
    assert told == Autoscaling("0.0.0.0:6443", "0.0.0.0:9095", scaler_tls=False)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (ports["ext-metrics"], ports["scaler"]) == (6443, 9095)
    service, replicas = [each["spec"] for each in found if each["kind"] == "Service"]
    assert {port["targetPort"] for port in service["ports"]} == set(ports)
    assert {port["targetPort"] for port in replicas["ports"]} == {"picker", "telemetry"}  # they ask each other
    spec = one(found, "APIService")["spec"]
    assert one(found, "APIService")["metadata"]["name"] == API_SERVICE
    assert spec["service"] == {"name": "penstock", "namespace": SYSTEM, "port": 443}
    assert 443 in {port["port"] for port in service["ports"] if port["targetPort"] == "ext-metrics"}
    assert f"penstock.{SYSTEM}.svc" in service_names(spec["service"]["name"], spec["service"]["namespace"])


@helm
def test_every_external_metric_may_be_read_by_who_scales() -> None:
    found = rendered(*AUTOSCALING)
    (rule,) = [each for each in rules(found, "ClusterRole") if each["apiGroups"] == [GROUP]]
    assert sorted(rule["resources"]) == sorted(BY_METRIC)
    (subject,) = [one for each in found for one in each.get("subjects", ()) if one["namespace"] != SYSTEM]
    assert (subject["name"], subject["namespace"]) == ("horizontal-pod-autoscaler", "kube-system")


@helm
def test_the_api_server_knows_us_by_our_authority_unless_it_is_not_to_ask() -> None:
    assert "insecureSkipTLSVerify" not in one(rendered(*AUTOSCALING), "APIService")["spec"]
    (rule,) = [each for each in rules(rendered(*AUTOSCALING), "ClusterRole") if "apiservices" in each["resources"]]
    assert (rule["resourceNames"], rule["verbs"]) == ([API_SERVICE], ["get", "patch"])
    skipped = rendered(*AUTOSCALING, "autoscaling.externalMetrics.insecureSkipTLSVerify=true")
    assert one(skipped, "APIService")["spec"]["insecureSkipTLSVerify"] is True
    assert not verbs(skipped, "ClusterRole", "apiservices")


@helm
def test_replicas_may_ask_each_other_whoever_may_scrape() -> None:
    found = rendered("networkPolicy.telemetryFrom[0].namespaceSelector.matchLabels.name=monitoring")
    rule = one(found, "NetworkPolicy")["spec"]["ingress"][1]
    assert [next(iter(peer)) for peer in rule["from"]] == ["podSelector", "namespaceSelector"]
    pod = one(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert rule["from"][0]["podSelector"]["matchLabels"].items() <= pod.items()


def test_the_image_runs_as_nobody_and_the_command_is_ours() -> None:
    lines = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8").splitlines()
    assert "USER 65532:65532" in lines and 'ENTRYPOINT ["penstock"]' in lines
    stages = [line for line in lines if line.startswith("FROM ")]
    assert all(line.startswith("FROM python:3.11-slim") for line in stages)
    assert YAML(typ="safe").load((CHART / "values.yaml").read_text(encoding="utf-8"))["rbac"]["secrets"] == "get"
