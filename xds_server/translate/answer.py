"""What is changed of an answer on its way out: a Lua filter, for the model's name (`restore.py`) and for usage (`hide.py`).

Dynamic metadata of the decision says what; without any, or on a route that does not wake it, nothing is looked at. Both the filter
and what wakes it are optional: an Envoy without Lua serves the same routes and changes nothing. JSON answers are whole here anyway,
since json_to_metadata has read their usage. Cases: tests/xds_server/test_translate_answer.py; with a real Envoy: tests/e2e.
"""

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.route.v3 import FilterConfig
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua, LuaPerRoute
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.google.protobuf import Any as AnyMessage

from xds_server.model.names import LUA
from xds_server.translate.encode import pack
from xds_server.translate.hide import HIDE
from xds_server.translate.restore import RESTORE

NAME = "penstock.answer"  # of the script, which all routes share: each source of its own is a machine of its own in every worker


def sleeping() -> HttpFilter:
    """The filter of a listener: it does nothing on routes that do not wake it."""
    config = Lua(source_codes={NAME: DataSource(inline_string=SCRIPT)})
    return HttpFilter(name=LUA, typed_config=pack(config), is_optional=True)


def awake() -> HttpFilter:
    """The filter where there is one route only."""
    return HttpFilter(
        name=LUA, typed_config=pack(Lua(default_source_code=DataSource(inline_string=SCRIPT))), is_optional=True
    )


def on_route() -> dict[str, AnyMessage]:
    """What wakes it for a route, or for a share of one."""
    return {LUA: pack(FilterConfig(config=pack(LuaPerRoute(name=NAME)), is_optional=True))}


_MAIN = r"""
function envoy_on_response(handle)
  local found = handle:streamInfo():dynamicMetadata():get("penstock")
  if found == nil or (found.target == nil and found.unasked_usage == nil) then return end
  local headers = handle:headers()
  if headers:get("content-encoding") ~= nil then return end
  local kind = string.match(string.lower(headers:get("content-type") or ""), "^[^;%s]*")
  local events = kind == "text/event-stream"
  if not events and (kind ~= "application/json" or found.target == nil) then return end
  local restore, restored, hide, hidden
  if found.target ~= nil then
    restore, restored = restorer(found.asked, found.target, found.escaped_target or found.target, events)
  end
  if not events then
    local body = handle:body()
    if body == nil then return end
    local text = body:getBytes(0, body:length())
    local new = restore(text) .. restored()
    if new ~= text then body:setBytes(new) end -- and the content-length
    return
  end
  if found.unasked_usage then hide, hidden = hider() end
  headers:remove("content-length")
  local last, sent
  for chunk in handle:bodyChunks() do
    local text = chunk:getBytes(0, chunk:length())
    last, sent = chunk, text
    if hide ~= nil then sent = hide(sent) end
    if restore ~= nil then sent = restore(sent) end
    if sent ~= text then chunk:setBytes(sent) end
  end
  local rest = hide ~= nil and hidden() or ""
  if restore ~= nil then rest = restore(rest) .. restored() end
  if rest ~= "" then -- it broke off within what is held; where trailers follow, the last chunk has gone
    pcall(last.setBytes, last, sent .. rest)
  end
end
"""
# A block for each: their names are their own.
SCRIPT = f"do\n{RESTORE}end\ndo\n{HIDE}end\n{_MAIN}"
