"""external.metrics.k8s.io as an API server's aggregator and a HorizontalPodAutoscaler ask for it, over real HTTP."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from observability.autoscaling.external_metrics import ROOT, Refused, application, quantity, selector
from observability.autoscaling.signals import INFLIGHT, SIGNALS, Readings, Signal, Unavailable, UnknownPool, read
from tests.picker.test_demand import demand, figures

AT = 1_800_000_000.0
BUSY = demand(figures(waiting=4.0, age=3.0), queued=2)


class Pools:
    """What the gateway knows."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.known = {"ns/vllm": BUSY}
        self.counted: list[str] = []

    async def read(self, pool: str, labels: Mapping[str, str]) -> Readings:
        self.asked.append((pool, labels))
        if pool == "ns/away":
            raise Unavailable("replica 10.0.0.7:9090 does not say what it holds")
        if pool not in self.known:
            raise UnknownPool(f"there is no InferencePool {pool}")
        return read(self.known[pool])

    @asynccontextmanager
    async def serving(self, **more: Any) -> AsyncIterator[TestClient]:
        app = application(self.read, count=self.counted.append, clock=lambda: AT, **more)
        async with TestClient(TestServer(app)) as client:
            yield client

    async def get(self, path: str, **query: str) -> tuple[int, Any]:
        async with self.serving() as client:
            answer = await client.get(path, params=query)
            return answer.status, await answer.json()


def metric(name: str, namespace: str = "ns") -> str:
    return f"{ROOT}/namespaces/{namespace}/{name}"


async def test_a_figure_is_a_list_of_one_item() -> None:
    status, found = await (pools := Pools()).get(metric("penstock_pool_waiting_requests"), labelSelector="pool=vllm")
    assert status == 200
    assert found == {
        "kind": "ExternalMetricValueList",
        "apiVersion": "external.metrics.k8s.io/v1beta1",
        "metadata": {},
        "items": [
            {
                "metricName": "penstock_pool_waiting_requests",
                "metricLabels": {"pool": "vllm"},
                "timestamp": "2027-01-15T07:59:57Z",  # three seconds before: so old the oldest figure is
                "value": "6",
            }
        ],
    }
    assert pools.counted == ["ok"]


async def test_other_labels_narrow_the_pool() -> None:
    pools = Pools()
    await pools.get(metric("penstock_pool_saturation"), labelSelector="llm-d.ai/role in (decode),pool=vllm")
    assert pools.asked == [("ns/vllm", {"llm-d.ai/role": "decode"})]


@pytest.mark.parametrize(
    ("name", "text", "code", "message"),
    [
        ("penstock_pool_saturation", "pool=away", 503, "replica 10.0.0.7:9090"),
        ("penstock_pool_saturation", "pool=other", 404, "there is no InferencePool ns/other"),
        ("penstock_pool_saturation", "", 400, "matchLabels: {pool: NAME}"),
        ("penstock_pool_saturation", "pool!=vllm", 400, "only equality"),
        ("nonesuch", "pool=vllm", 404, "penstock_pool_token_backlog_seconds"),
    ],
)
async def test_what_is_not_known_is_an_error_and_never_zero(name: str, text: str, code: int, message: str) -> None:
    pools = Pools()
    status, found = await pools.get(metric(name), labelSelector=text)
    assert (status, found["kind"], found["status"], found["code"]) == (code, "Status", "Failure", code)
    assert message in found["message"]
    assert pools.counted == ["unknown" if code == 503 else "refused"]


@pytest.mark.parametrize("signal", SIGNALS.values(), ids=SIGNALS)
async def test_stale_figures_are_503(signal: Signal) -> None:
    pools = Pools()
    pools.known["ns/vllm"] = demand(figures(known=False, age=99.0))
    status, found = await pools.get(metric(signal.metric.name), labelSelector="pool=vllm")
    assert (status, found.get("reason")) == ((200, None) if signal is INFLIGHT else (503, "ServiceUnavailable"))


async def test_discovery_names_every_metric() -> None:
    _, found = await Pools().get(ROOT)
    assert [each["name"] for each in found["resources"]] == [signal.metric.name for signal in SIGNALS.values()]
    assert {(each["namespaced"], tuple(each["verbs"])) for each in found["resources"]} == {(True, ("get",))}
    _, groups = await Pools().get("/apis")
    _, group = await Pools().get("/apis/external.metrics.k8s.io")
    assert groups["groups"][0]["preferredVersion"] == group["preferredVersion"]
    for path in ("/openapi/v2", "/openapi/v3"):
        assert (await Pools().get(path))[0] == 200


async def test_what_is_not_there_is_a_status_too() -> None:
    status, found = await Pools().get("/apis/else")
    assert (status, found["kind"], found["reason"]) == (404, "Status", "NotFound")


async def test_who_is_not_admitted_gets_nothing() -> None:
    def refuse(_: Any) -> None:
        raise Refused(401, "ask through the API server")

    pools = Pools()
    async with pools.serving(admit=refuse) as client:
        answer = await client.get(metric("penstock_pool_saturation"), params={"labelSelector": "pool=vllm"})
        assert (answer.status, (await answer.json())["reason"]) == (401, "Unauthorized")
    assert pools.asked == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (3.0, "3"), (1.3, "1300m"), (0.0001, "1m"), (12345.6789, "12345679m"), (2.0004, "2001m")],
)
def test_quantities(value: float, text: str) -> None:
    assert quantity(value) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("a=b", {"a": "b"}),
        ("a==b, c.d/e = f", {"a": "b", "c.d/e": "f"}),
        ("a in (b),c=d", {"a": "b", "c": "d"}),
        ("a=", {"a": ""}),
    ],
)
def test_selectors(text: str, found: dict[str, str]) -> None:
    assert selector(text) == found


@pytest.mark.parametrize("text", ["a", "!a", "a!=b", "a in (b,c)", "a notin (b)", "a=b c", ",a=b", "a=b;c=d"])
def test_selectors_that_are_not_understood_are_refused(text: str) -> None:
    with pytest.raises(Refused, match="only equality"):
        selector(text)
