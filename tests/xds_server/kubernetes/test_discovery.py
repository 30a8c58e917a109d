"""Discovery: kinds come and go with their CRDs, and with nothing else."""

from tests.xds_server.kubernetes.fake_api import FakeApi, Refused
from xds_server.kubernetes.discovery import Discovery, ask

GROUP = "gateway.networking.k8s.io"
PLACE = (GROUP, "v1")
ROUTE = {"name": "httproutes", "kind": "HTTPRoute", "namespaced": True, "verbs": ["list"]}


def test_nothing_is_known_before_every_group_has_answered_once() -> None:
    discovery = Discovery()
    discovery.update({PLACE: [ROUTE], ("", "v1"): None})
    assert discovery.kinds is None
    discovery.update({PLACE: None, ("", "v1"): []})
    assert discovery.kinds and set(discovery.kinds) == {(GROUP, "HTTPRoute")}


def test_a_kind_goes_when_it_is_missing_twice_and_not_because_a_question_failed() -> None:
    discovery = Discovery()
    discovery.update({PLACE: [ROUTE]})
    for answers in ({PLACE: None}, {PLACE: []}, {PLACE: [ROUTE]}, {PLACE: []}):
        discovery.update(answers)
        assert discovery.kinds
    discovery.update({PLACE: []})
    assert discovery.kinds == {}


async def test_a_missing_group_is_no_error() -> None:
    fake = FakeApi()
    async with fake.serve() as api:
        found = await ask(api)
        assert found["llm-d.ai", "v1alpha2"] == [] and len(found[PLACE] or ()) == 3
        fake.fail(1, Refused(503, "ServiceUnavailable"), "discover", plural=f"{GROUP}/v1")
        assert (await ask(api))[PLACE] is None
