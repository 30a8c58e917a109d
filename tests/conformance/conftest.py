"""The Inference Extension's base resources, once for all tests; without PENSTOCK_CONFORMANCE=1 the tests are skipped."""

import os
from collections.abc import Iterator

import pytest

from tests.conformance.bench import Bench
from tests.conformance.world import INFRA, MANIFESTS, NAMESPACE, PRIMARY, SECONDARY, World, of_kind


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    if os.environ.get("PENSTOCK_CONFORMANCE") != "1":
        pytest.skip("needs a cluster with Penstock: python -m tests.conformance.inference")
    if not MANIFESTS.exists():
        pytest.skip(f"no manifests in {MANIFESTS}: set PENSTOCK_SHARED")
    found = World(
        Bench(()),
        os.environ.get("PENSTOCK_GATEWAY_CLASS", "penstock"),
        os.environ.get("PENSTOCK_TEST_PICKER_IMAGE", ""),
    )
    base = found.load("base.yaml")
    found.apply(*of_kind(base, "Namespace"))
    found.apply(*[each for each in base if each["kind"] != "Namespace"])
    try:
        found.rolled_out(*(each["metadata"]["name"] for each in of_kind(base, "Deployment")))
        for gateway in (PRIMARY, SECONDARY):
            found.bench.wait("gateway", gateway, "-n", INFRA, "--for=condition=Programmed")
        yield found
    finally:
        if os.environ.get("PENSTOCK_CONFORMANCE_KEEP") != "1":
            found.bench.kubectl("delete", "namespace", INFRA, NAMESPACE, "--ignore-not-found", "--timeout=180s")
