"""The filter of answers: where it is, who lets the picker ask for what it hides, what it writes into bodies, and what an Envoy without
it takes.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from lupa.luajit21 import LuaRuntime

from penstock.offline import envoy
from picker.splice import LARGE, changed, with_usage
from tests.test_golden import validate
from tests.xds_server.resolve_world import gateway, graph, pool, route, rule, service, thing
from xds_server.model.graph import EVERYTHING, Graph
from xds_server.model.names import INSERT, INSERT_AT
from xds_server.snapshot import LDS, RDS
from xds_server.translate import DataPlane, translate
from xds_server.translate.answer import SCRIPT

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
INSERTS = b"x-penstock-insert"
LUA = "envoy.filters.http.lua"


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


def chains(found: Graph) -> list[list[dict[str, Any]]]:
    """The HTTP filters of every listener that has Lua."""
    listeners = envoy(translate(found, DataPlane())[EVERYTHING])["listeners"]
    managers = [one["typedConfig"] for each in listeners for chain in each["filterChains"] for one in chain["filters"]]
    return [each["httpFilters"] for each in managers if LUA in str(each["httpFilters"])]


def test_it_stands_between_the_picker_and_the_server_and_the_listener_says_so() -> None:
    """A route may be newer than the listener that serves it: that it can ask is the route's word, how is the listener's."""
    apart = pool(annotations={"penstock.dev/failover": "q"})
    found = graph(gateway(), apart, pool("q"), route("r", rule(to=TO_POOL), rule(to=[{**TO_POOL[0], "name": "q"}])))
    assert INSERTS in resources(found, LDS)
    assert INSERTS not in resources(found, RDS)
    assert len(chains(found)) == 3
    for filters in chains(found):
        names = [each["name"] for each in filters]
        assert names[-3:] == ["envoy.filters.http.ext_proc", LUA, "envoy.filters.http.router"]
        assert INSERTS.decode() in str(filters[-3])


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


# --- what it writes into a body, as LuaJIT runs it ---------------------------------------------------------------------

# As much of Envoy's API as the script uses of a request; `body` nil: there is none.
ENVOY = b"""function(decision, body)
  local buffer = {
    length = function() return #body end,
    getBytes = function(_, at, length)
      assert(at >= 0 and length >= 0 and at + length <= #body)
      return string.sub(body, at + 1, at + length)
    end,
    setBytes = function(_, new) body = new end,
  }
  local metadata = { get = function(_, name) if name == "penstock" then return decision end end }
  local info = { dynamicMetadata = function() return metadata end }
  envoy_on_request({ streamInfo = function() return info end, body = function() return body and buffer end })
  return body
end"""


def machine(*, old: bool) -> Callable[[dict[str, Any] | None, bytes | None], bytes | None]:
    """What makes of a decision and a body the one that the server gets. `old`: LuaJIT without buffers."""
    found = LuaRuntime(encoding=None)
    if old:
        found.execute(b'package.preload["string.buffer"] = function() error("none") end')
    assert found.eval(b'(pcall(require, "string.buffer"))') is not old
    found.execute(SCRIPT.encode())
    asked = found.eval(ENVOY)

    def written(decision: dict[str, Any] | None, body: bytes | None) -> bytes | None:
        told = None if decision is None else found.table_from({key.encode(): decision[key] for key in decision})
        new: bytes | None = asked(told, body)
        return new

    return written


MACHINES = [machine(old=old) for old in (True, False)]


def written(body: bytes | None, decision: dict[str, Any] | None) -> bytes | None:
    found, other = (each(decision, body) for each in MACHINES)
    assert found == other
    return found


@given(
    st.sampled_from([b"{", b" {", b"\r\n\t{ "]), st.sampled_from([0, 1, 32766, 32767, 32768, 32769, 200_000, 5_000_000])
)
@settings(deadline=None)
def test_it_writes_what_the_picker_says(start: bytes, size: int) -> None:
    body = start + b'"model":"m","stream":true,"prompt":"' + b"\xc3\xbc\0" * (size // 3) + b"x" * (size % 3) + b'"}'
    insert = changed(body + b" " * LARGE, "", "silent", inserts=True).insert
    assert insert is not None
    told = {"id": b"i", INSERT_AT: float(insert[0]), INSERT: insert[1]}
    assert written(body, told) == with_usage(body, "silent")


@pytest.mark.parametrize("decision", [None, {}, {"id": b"i", "unasked_usage": True}])
def test_nothing_is_written_where_nothing_is_said(decision: dict[str, Any] | None) -> None:
    assert written(b'{"stream":true}', decision) == b'{"stream":true}'


@pytest.mark.parametrize("body", [None, b"", b" ", b"[{}]", b'"{', b"\x1f\x8b{"])
def test_a_body_that_is_not_what_the_picker_saw_is_left(body: bytes | None) -> None:
    for at in range(4):
        assert written(body, {INSERT_AT: at, INSERT: b'"a":1,'}) == body
