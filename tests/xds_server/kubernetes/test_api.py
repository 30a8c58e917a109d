"""Api: what is sent, and how each kind of refusal comes back."""

import asyncio
import dataclasses

import pytest

from tests.xds_server.kubernetes.fake_api import FakeApi, Refused
from xds_server.kubernetes.access import anonymous
from xds_server.kubernetes.api import Api, ApiError, connect

SERVICES = "/api/v1/namespaces/default/services"
REFUSED = Refused(429, "TooManyRequests", "slow down", retry_after=7)


async def test_objects_are_created_read_patched_and_deleted() -> None:
    fake = FakeApi()
    async with fake.serve() as api:
        await api.create(SERVICES, {"metadata": {"name": "a"}, "spec": {"x": [1], "y": 1}})
        await api.patch(f"{SERVICES}/a", {"spec": {"x": [2], "y": None}}, "penstock")
        assert (await api.get(f"{SERVICES}/a"))["spec"] == {"x": [2]}
        await api.apply(f"{SERVICES}/a", {"spec": {"z": 1}}, "penstock")
        await api.delete(f"{SERVICES}/a")
    verbs = [(each.verb, each.query) for each in fake.asked]
    manager = {"fieldManager": "penstock"}
    assert verbs == [
        ("create", {}),
        ("patch", manager),
        ("get", {}),
        ("patch", {**manager, "force": "true"}),
        ("delete", {}),
    ]


async def test_a_refusal_says_why_and_when() -> None:
    fake = FakeApi()
    fake.fail(1, REFUSED, "get", plural="services")
    async with fake.serve() as api:
        with pytest.raises(ApiError) as raised:
            await api.get(f"{SERVICES}/a")
        found = raised.value
        assert (found.code, found.reason, found.message) == (429, "TooManyRequests", "slow down")
        assert found.retry_after == 7.0
        with pytest.raises(ApiError, match="404 NotFound: services a not found"):
            await api.get(f"{SERVICES}/a")


async def test_a_server_that_is_not_there_or_silent_is_code_0() -> None:
    fake = FakeApi()
    async with fake.serve(timeout=0.05) as api:
        fake.hang("get", plural="services")
        with pytest.raises(ApiError, match="Unreachable") as raised:
            await api.get(f"{SERVICES}/a")
        assert raised.value.code == 0
    async with connect(anonymous("http://127.0.0.1:1")) as api:
        with pytest.raises(ApiError, match="Unreachable"):
            await api.get("/api/v1")


async def test_requests_are_bounded_and_watches_are_not_counted() -> None:
    fake = FakeApi()
    async with fake.serve() as plain:
        api = Api(plain._access, plain._session, concurrency=1, timeout=30.0)
        watching = api.watch("/api/v1/services", {"sendInitialEvents": "true"}, 30.0)
        await anext(watching)
        released = fake.hang("get", plural="services")
        async with asyncio.TaskGroup() as tasks:
            for name in "ab":
                tasks.create_task(api.get(f"{SERVICES}/{name}")).add_done_callback(lambda task: task.exception())
                fake.put("services", name)
            await fake.until(lambda: fake.count("get", "services"))
            assert (await anext(watching))["object"]["metadata"]["name"] == "a"
            assert fake.count("get", "services") == 1
            released.set()
        assert fake.count("get", "services") == 2
        await watching.aclose()


async def test_a_refused_token_is_renewed_once() -> None:
    fake = FakeApi()
    fake.put("services", "a")
    asked: list[bool] = []

    async def token(refused: bool) -> str:
        asked.append(refused)
        return f"Bearer {len(asked)}"

    fake.fail(1, Refused(401, "Unauthorized"), "get", plural="services")
    async with fake.serve() as plain:
        access = dataclasses.replace(plain._access, token=token)
        api = Api(access, plain._session, concurrency=1, timeout=30.0)
        assert (await api.get(f"{SERVICES}/a"))["metadata"]["name"] == "a"
        fake.fail(9, Refused(401, "Unauthorized"), "get", plural="services")
        with pytest.raises(ApiError, match="401"):
            await api.get(f"{SERVICES}/a")
    assert asked == [False, True, False, True]


async def test_a_token_that_is_not_to_be_had_is_an_answer_that_did_not_come() -> None:
    """An exec plugin may fail for a moment, as whatever it asks; who calls is ready for an API server that does."""

    async def token(refused: bool) -> str:
        raise RuntimeError("exec: process returned 1")

    fake = FakeApi()
    async with fake.serve() as plain, connect(dataclasses.replace(plain._access, token=token)) as api:
        for asked in (api.get("/api/v1/namespaces"), anext(api.watch("/api/v1/namespaces", {}, 1.0))):
            with pytest.raises(ApiError, match="exec: process returned 1") as caught:
                await asked
            assert (caught.value.code, caught.value.reason) == (0, "NoToken")
