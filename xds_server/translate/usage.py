"""What answers tell of usage: where it is, and for streams the Lua that reads it and hides it where nobody asked. Run by `answer.py`.

A stream passes chunk by chunk, and only events with the word `usage` are taken apart: sse_to_metadata of Envoy does the same and reads
every event as JSON, once for each place below, which is five times what all else of a stream costs. What is found becomes dynamic
metadata (`ai`), which the access log has; of several events the last one counts.

Where the decision says so (`penstock`: unasked_usage), the events that OpenAI's completions add for `include_usage` are taken away: one
line of data, whose object has no choices and a usage. Held back is the beginning of an event, only while it may become one of these,
and no more than 8 KB of it. Who sends what, and what it costs: docs/decisions/0018-usage.md. Cases:
tests/xds_server/test_translate_usage.py.
"""

# Where an answer, or an event of its stream, tells what was used: OpenAI's completions; its responses, whose stream ends with the
# response as a whole; Anthropic's messages, whose stream begins with a message and corrects it. picker/completions.py reads it.
_TOKENS = {
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_creation_tokens",
}
_DETAILS = ("prompt_tokens_details", "input_tokens_details")  # objects with `cached_tokens`
_HOLDERS = ("response", "message")  # objects that hold a usage in place of the answer itself

PLACES: tuple[tuple[str, tuple[str, ...]], ...] = (
    *((name, ("usage", key)) for key, name in _TOKENS.items()),
    *(("cached_tokens", ("usage", details, "cached_tokens")) for details in _DETAILS),
)  # of a JSON answer: (name in the metadata, path)


def _table(values: dict[str, str]) -> str:
    return "{ " + ", ".join(f'{key} = "{value}"' for key, value in values.items()) + " }"


def _list(values: tuple[str, ...]) -> str:
    return "{ " + ", ".join(f'"{value}"' for value in values) + " }"


_NAMES = f"""local TOKENS = {_table(_TOKENS)}
local DETAILS, HOLDERS = {_list(_DETAILS)}, {_list(_HOLDERS)}
"""
# Texts are searched for words before they are taken apart: that is one call in C, and nearly all events have none of them.
USAGE = (
    _NAMES
    + r"""local NEWLINE, RETURN = 10, 13
local LONGEST = 1048576 -- bytes of an event that is read: the last one of OpenAI's responses has the whole answer
local LONGEST_HELD = 8192 -- of one that is held back: vLLM's usage has a few hundred
local byte, find, gsub, match, max, sub = string.byte, string.find, string.gsub, string.match, math.max, string.sub
local concat = table.concat

-- A JSON object's own members, and the objects in it, each of which has its number in the members in its place.
local function members(object)
  local inner, n = {}, 0
  local own = gsub(sub(object, 2, -2), "%b{}", function(each)
    n = n + 1
    inner[n] = each
    return "{" .. n .. "}"
  end)
  return own, inner
end

-- The object that an object has under a key.
local function object_of(own, inner, key)
  return inner[tonumber(match(own, '"' .. key .. '"%s*:%s*{(%d+)}'))]
end

local function number_of(own, key)
  return tonumber(match(own, '"' .. key .. '"%s*:%s*(%d+)'))
end

local function tell_usage(usage, tell)
  local own, inner = members(usage)
  for key, name in pairs(TOKENS) do
    local found = number_of(own, key)
    if found ~= nil then tell(name, found) end
  end
  for _, key in ipairs(DETAILS) do
    local details = object_of(own, inner, key)
    local found = details ~= nil and number_of(members(details), "cached_tokens")
    if found then tell("cached_tokens", found) end
  end
end

-- Tells what an event tells; true where that is all it does. Strings are emptied first, but for names: then brackets are brackets.
local function read(event, tell)
  local json = match("\n" .. event, "\ndata: ?([^\n]*)")
  if json == nil then return false end
  json = gsub(gsub(json, "\\.", "-"), '"([^"]*)"', function(word)
    if find(word, "^[%a_]+$") == nil then return '""' end
  end)
  local object = match(json, "^%s*(%b{})%s*$")
  if object == nil then return false end
  local own, inner = members(object)
  local usage = object_of(own, inner, "usage")
  if usage ~= nil then tell_usage(usage, tell) end
  for _, key in ipairs(HOLDERS) do
    local holder = object_of(own, inner, key)
    if holder ~= nil then
      local its_own, its_inner = members(holder)
      local held = object_of(its_own, its_inner, "usage")
      if held ~= nil then tell_usage(held, tell) end
    end
  end
  return usage ~= nil and find(own, '"choices"%s*:%s*%[%s*%]') ~= nil
end

-- Whether the beginning of an event, or all of it, has choices.
local function has_choices(event)
  return find(event, '"choices":[{', 1, true) ~= nil or find(event, '"choices"%s*:%s*%[%s*[^%s%]]') ~= nil
end

-- Whether an event may become one that has nothing but usage, which begins so: one line of data, without choices.
local function may_be_usage(event)
  if #event > LONGEST_HELD or has_choices(event) then return false end
  if event == sub("data: {", 1, #event) or event == sub("data:{", 1, #event) or event == "\r" then return true end
  return find(event, "^data: ?{[^\n]*\n?\r?\n?$") ~= nil
end

-- Where the event ends that begins, or goes on, at `i`: with its blank line.
local function ending(text, i)
  while true do
    local newline = find(text, "\n", i, true)
    if newline == nil then return nil end
    local c, d = byte(text, newline + 1, newline + 2)
    if c == NEWLINE then return newline + 1 end
    if c == RETURN and d == NEWLINE then return newline + 2 end
    i = newline + 1
  end
end

-- Two functions: one takes a stream chunk by chunk and gives what to send instead, one gives what it still holds at the end.
-- `tell` is called with each name and number; `hides`: events that have nothing else are taken away.
function usage_reader(tell, hides)
  -- Of an event whose end has not come: what is held back; or what was sent, in parts, and its last two bytes, as its end may be cut.
  local held, parts, count, length, tail = "", {}, 0, 0, ""

  local function pass(part)
    length = length + #part
    if length > LONGEST then
      parts, count = {}, 0
    else
      count = count + 1
      parts[count] = part
    end
  end

  -- Whether an event is to be taken away; `passed`: its beginning was sent.
  local function unasked(event, passed)
    if passed then
      pass(event)
      event = length > LONGEST and "" or concat(parts, "", 1, count)
      parts, count, length = {}, 0, 0
    end
    if #event > LONGEST or find(event, '"usage"', 1, true) == nil then return false end
    return read(event, tell) and hides and not passed and may_be_usage(event)
  end

  local function feed(chunk)
    local size = #chunk
    if held == "" and tail == "" and byte(chunk, size) == NEWLINE and find(chunk, '"usage"', 1, true) == nil then
      local c, d = byte(chunk, size - 2, size - 1)
      if d == NEWLINE or (d == RETURN and c == NEWLINE) then return chunk end -- whole events, none with usage
    end
    local passed = tail ~= ""
    local text, sent = held .. tail .. chunk, #tail
    local out, n, from = {}, 0, sent + 1 -- `from`: what is to come after the `n` pieces of `out`
    local i, last = 1, #text
    while i <= last do
      local c, d = byte(text, i, i + 1)
      local stop
      if c == NEWLINE and not passed then
        stop = i
      elseif c == RETURN and d == NEWLINE and not passed then
        stop = i + 1
      else
        stop = ending(text, i)
        if stop == nil then break end
        if unasked(sub(text, passed and sent + 1 or i, stop), passed) then
          out[n + 1], n, from = sub(text, from, i - 1), n + 1, stop + 1
        end
      end
      i, passed = stop + 1, false
    end
    local unchanged = held == "" and n == 0
    held, tail = "", ""
    if i <= last then
      local rest = sub(text, i)
      if hides and not passed and may_be_usage(rest) then
        held, last, unchanged = rest, i - 1, false
      else
        pass(passed and chunk or rest)
        tail = sub(text, max(i, last - 1))
      end
    end
    if unchanged then return chunk end
    out[n + 1] = sub(text, from, last)
    return concat(out)
  end

  return feed, function() return held end
end
"""
)
