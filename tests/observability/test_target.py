"""Who we are to Cloud Monitoring: what is given, then the environment, then a metadata server."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from observability.exporters.target import Given, UnknownTarget, target

NOBODY = "127.0.0.1:1"
ANSWERS = {
    "/computeMetadata/v1/project/project-id": "p-1",
    "/computeMetadata/v1/instance/attributes/cluster-name": "prod",
    "/computeMetadata/v1/instance/attributes/cluster-location": "europe-west4",
    "/computeMetadata/v1/instance/zone": "projects/123/zones/europe-west4-b",
}


@pytest.fixture
async def machine() -> AsyncIterator[tuple[str, dict[str, str]]]:
    """The address of a metadata server, and what it knows."""
    known = dict(ANSWERS)

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Metadata-Flavor"] == "Google"
        found = known.get(request.path)
        return web.Response(status=200 if found else 404, text=found, headers={"Metadata-Flavor": "Google"})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    yield f"{host}:{port}", known
    await runner.cleanup()


async def test_a_cluster_tells_who_it_is(machine: tuple[str, dict[str, str]]) -> None:
    environment = {"GCE_METADATA_HOST": machine[0], "POD_NAME": "penstock-0", "POD_NAMESPACE": "gateways"}
    assert await target(Given(), environment) == {
        "project_id": "p-1",
        "location": "europe-west4",
        "cluster": "prod",
        "namespace": "gateways",
        "job": "penstock",
        "instance": "penstock-0",
    }


async def test_a_machine_is_where_its_zone_is(machine: tuple[str, dict[str, str]]) -> None:
    host, known = machine
    for name in ("cluster-name", "cluster-location"):
        del known[f"/computeMetadata/v1/instance/attributes/{name}"]
    found = await target(Given(), {"GCE_METADATA_HOST": host})
    assert (found["location"], found["cluster"], found["namespace"]) == ("europe-west4-b", "__gce__", "default")


async def test_what_is_given_goes_first(machine: tuple[str, dict[str, str]]) -> None:
    environment = {"GCE_METADATA_HOST": machine[0], "GOOGLE_CLOUD_PROJECT": "p-2", "POD_NAMESPACE": "x"}
    found = await target(Given(location="here", namespace="ns", instance="gw:9090"), environment)
    assert (found["project_id"], found["location"], found["cluster"]) == ("p-2", "here", "prod")
    assert (found["namespace"], found["instance"]) == ("ns", "gw:9090")


async def test_elsewhere_the_options_say_it() -> None:
    environment = {"GCE_METADATA_HOST": NOBODY}
    found = await target(Given("p", "on-premises"), environment)
    assert (found["project_id"], found["location"], found["cluster"]) == ("p", "on-premises", "none")
    with pytest.raises(UnknownTarget, match="set --project"):
        await target(Given(location="here"), environment)
    with pytest.raises(UnknownTarget, match="set --location"):
        await target(Given("p"), environment)
