"""The filter of answers: where it is, who lets the picker ask for what it hides, and what an Envoy without it takes."""

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.offline import envoy
from tests.test_golden import validate
from tests.xds_server.resolve_world import gateway, graph, pool, route, rule, service, thing
from xds_server.model.graph import EVERYTHING, Graph
from xds_server.snapshot import LDS, RDS
from xds_server.translate import DataPlane, translate

TO_POOL = [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"}]


def resources(found: Graph, kind: str) -> bytes:
    snapshot = translate(found, DataPlane())[EVERYTHING]
    return b"".join(each.body for each in snapshot.of_type(kind).values())


def rewrite(name: str) -> Any:
    return thing(
        "InferenceModelRewrite", "w", {"poolRef": {"name": name}, "rules": [{"targets": [{"modelRewrite": "b"}]}]}
    )


LEFT = {"penstock.dev/stream-usage": "client"}
ASK = b"x-penstock-usage"  # what lets the picker ask
READ = b"envoy_on_response"


def test_it_is_there_for_pools_whatever_they_want() -> None:
    to_pool = route("r", rule(to=TO_POOL))
    asks = graph(gateway(), pool(), to_pool)
    leaves = graph(gateway(), pool(annotations=LEFT), to_pool)
    rewrites = graph(gateway(), pool(), to_pool, rewrite("p"))
    assert [ASK in resources(each, RDS) for each in (asks, leaves, rewrites)] == [True, False, True]
    # What comes or goes changes routes, never listeners: those would end long streams.
    assert len({resources(each, LDS) for each in (asks, leaves, rewrites)}) == 1
    assert resources(asks, LDS).count(READ) == 1


def test_each_share_of_a_rule_says_it_for_itself() -> None:
    shares = [{**TO_POOL[0], "name": name, "weight": 1} for name in ("p", "q")]
    found = graph(gateway(), pool(), pool("q", annotations=LEFT), route("r", rule(to=shares)))
    assert resources(found, RDS).count(ASK) == 1


def test_a_pool_that_is_asked_apart_asks_and_hides_in_its_own_listener() -> None:
    apart = pool(annotations={"penstock.dev/failover": "q"})
    found = graph(gateway(), apart, pool("q", annotations=LEFT), route("r", rule(to=TO_POOL)))
    assert resources(found, LDS).count(ASK) == 1
    assert resources(found, LDS).count(READ) == 2


def test_pools_of_others_have_none() -> None:
    picker = pool(spec={"endpointPickerRef": {"name": "epp", "port": {"number": 9002}}})
    epp = service("epp", service_ports=[{"port": 9002}])
    found = graph(gateway(), picker, epp, route("r", rule(to=TO_POOL)), rewrite("p"), foreign_pickers=True)
    assert ASK not in resources(found, RDS) + resources(found, LDS)
    assert READ not in resources(found, LDS)


def without_lua(found: Any) -> Any:
    """The same configuration with an extension that no Envoy has in the place of Lua."""
    if isinstance(found, list):
        return [without_lua(each) for each in found]
    if not isinstance(found, dict):
        return found
    if "extensions.filters.http.lua" in found.get("@type", ""):
        return {
            "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
            "type_url": "type.googleapis.com/penstock.NoLua",
        }
    return {key.replace("http.lua", "http.nolua"): without_lua(each) for key, each in found.items()} | (
        {"name": "envoy.filters.http.nolua"} if found.get("name") == "envoy.filters.http.lua" else {}
    )


@pytest.mark.envoy
def test_an_envoy_without_lua_takes_the_same_configuration(tmp_path: Path) -> None:
    found = graph(gateway(), pool(), route("r", rule(to=TO_POOL)), rewrite("p"))
    resources_ = envoy(translate(found, DataPlane(bind="127.0.0.1"))[EVERYTHING])
    other = without_lua(resources_)
    assert str(other).count("NoLua") == 1
    validate(other, tmp_path)
    wanted = json.dumps(other).replace('"isOptional": true', '"isOptional": false')
    with pytest.raises(AssertionError, match="nolua"):  # it is this word that does it
        validate(json.loads(wanted), tmp_path)
