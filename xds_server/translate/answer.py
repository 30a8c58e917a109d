"""What is read of an answer on its way out, and what is changed: a Lua filter, for usage (`usage.py`) and the model's name (`restore.py`).

The usage of every stream is read. Dynamic metadata of the decision says what is changed: without any, nothing is. A JSON answer with a
model to restore is held until it is whole, as json_to_metadata, which comes next, would hold it. On the way in, behind ext_proc, the filter
writes into a large body what the decision says (`insert`), so that the body need not come back from the picker. It is optional: an
Envoy without Lua serves the same routes, reads no usage of streams and changes nothing. Cases:
tests/xds_server/test_translate_answer.py; with a real Envoy: tests/e2e.
"""

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter

from xds_server.model.names import AI_NAMESPACE, LUA
from xds_server.translate.encode import pack
from xds_server.translate.restore import RESTORE
from xds_server.translate.usage import USAGE


def answers() -> HttpFilter:
    """The filter of a listener: one script for all routes, since each source is a machine of its own in every worker."""
    return HttpFilter(
        name=LUA, typed_config=pack(Lua(default_source_code=DataSource(inline_string=SCRIPT))), is_optional=True
    )


_MAIN = r"""
-- Strings above 128 KB are new memory from the system each time, which costs more than the copy. So a body is joined of pieces, in a
-- buffer that stays, one for each worker, unless it has become large. LuaJIT has such buffers since 2021.
local PIECE, KEPT = 32768, 4194304 -- bytes
local known, buffers = pcall(require, "string.buffer")
local buffer = known and buffers.new() or nil

local function written(body, head, text)
  local at, size = #head, body:length()
  if buffer == nil then return head .. text .. body:getBytes(at, size - at) end
  buffer:reset():put(head, text)
  while at < size do
    local length = math.min(PIECE, size - at)
    buffer:put(body:getBytes(at, length))
    at = at + length
  end
  local new = buffer:get()
  if size > KEPT then buffer:free() end
  return new
end

-- A body that ext_proc has let through is whole. One that is not what the picker saw is left as it is.
function envoy_on_request(handle)
  local found = handle:streamInfo():dynamicMetadata():get("penstock")
  if found == nil or found.insert == nil then return end
  local body, at = handle:body(), found.insert_at
  if body == nil or at > body:length() then return end
  local head = body:getBytes(0, at)
  if string.find(head, "^%s*{$") == nil then return end
  body:setBytes(written(body, head, found.insert)) -- and the content-length
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local kind = string.match(string.lower(headers:get("content-type") or ""), "^[^;%s]*")
  local events = kind == "text/event-stream"
  if (not events and kind ~= "application/json") or headers:get("content-encoding") ~= nil then return end
  local found = handle:streamInfo():dynamicMetadata():get("penstock") or {}
  local restore, restored
  if found.target ~= nil then
    restore, restored = restorer(found.asked, found.target, found.escaped_target or found.target, events)
  end
  if not events then
    local body = restore ~= nil and handle:body() or nil
    if body == nil then return end
    local text = body:getBytes(0, body:length())
    local new = restore(text) .. restored()
    if new ~= text then body:setBytes(new) end -- and the content-length
    return
  end
  local function tell(name, number) handle:streamInfo():dynamicMetadata():set("AI_NAMESPACE", name, number) end
  local read, rest = usage_reader(tell, found.unasked_usage)
  if restore ~= nil or found.unasked_usage then headers:remove("content-length") end
  local last, sent
  for chunk in handle:bodyChunks() do
    local text = chunk:getBytes(0, chunk:length())
    last, sent = chunk, read(text)
    if restore ~= nil then sent = restore(sent) end
    if sent ~= text then chunk:setBytes(sent) end
  end
  local left = rest()
  if restore ~= nil then left = restore(left) .. restored() end
  if left ~= "" then -- it broke off within what is held; where trailers follow, the last chunk has gone
    pcall(last.setBytes, last, sent .. left)
  end
end
"""
# A block for each: their names are their own.
SCRIPT = f"do\n{RESTORE}end\ndo\n{USAGE}end\n{_MAIN.replace('AI_NAMESPACE', AI_NAMESPACE)}"
