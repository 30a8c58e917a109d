"""A problem that `resolve` found gets the line of its field: in a document, in an item of a List, or stays as it is."""

from pathlib import Path

import pytest

from xds_server.model.objects import ObjectRef, Problem
from xds_server.resolve import resolve
from xds_server.sources.files import located, read

ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: NAME}
spec:
  parentRefs:
  - name: gw
  rules:
  - backendRefs:
    - name: nowhere
      port: 80
"""
GATEWAY = """\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: penstock}
spec: {controllerName: penstock.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw}
spec: {gatewayClassName: penstock, listeners: [{name: http, port: 80, protocol: HTTP}]}
"""


def items(*documents: str) -> str:
    indented = ["- " + document.replace("\n", "\n  ").rstrip(" ") for document in documents]
    return "apiVersion: v1\nkind: List\nitems:\n" + "".join(indented)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (ROUTE.replace("NAME", "one"), {"one": 9}),
        ("# a comment\n---\n" + ROUTE.replace("NAME", "one") + "---\n" + ROUTE.replace("NAME", "two"), {"one": 11, "two": 22}),
        (items(ROUTE.replace("NAME", "one"), ROUTE.replace("NAME", "two")), {"one": 12, "two": 22}),
    ],
    ids=["a document", "the second document", "items of a List"],
)  # fmt: skip
def test_the_line_of_the_field_is_found(text: str, lines: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(GATEWAY)
    (tmp_path / "routes.yaml").write_text(text)
    problems = [located(each, tmp_path) for each in resolve(read(tmp_path).state).problems]
    assert {each.ref.name: each.source for each in problems if each.ref} == {
        k: f"routes.yaml:{n}" for k, n in lines.items()
    }


@pytest.mark.parametrize("source", ["", "gone.yaml:3", "routes.yaml:99", "routes.yaml"])
def test_what_cannot_be_found_keeps_its_place(source: str, tmp_path: Path) -> None:
    (tmp_path / "routes.yaml").write_text("")
    problem = Problem(ObjectRef("", "Service", "default", "a"), "spec.ports", "InvalidObject", "wrong", source)
    assert located(problem, tmp_path) == problem
