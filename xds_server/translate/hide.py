"""The usage that a stream tells because the picker asked for it, hidden from the client that did not: Lua, run by `answer.py`.

Dynamic metadata of the decision (`penstock`: unasked_usage) wakes it. It takes away the events that OpenAI's completions add for
`include_usage`: one line of data, whose object has no choices and a usage. Everything else passes as it came, chunk by chunk: held
back is the beginning of an event only while it may become one of these, and no more than LONGEST of it. sse_to_metadata has read
the usage before. Who sends what, and what it costs: docs/decisions/0018-usage.md. Cases: tests/xds_server/test_translate_hide.py.
"""

# Texts are searched for words before they are taken apart: that is one call in C, and nearly all events have none of them.
HIDE = r"""local NEWLINE, RETURN = 10, 13
local LONGEST = 8192 -- bytes of an event that is worth a look: the usage of vLLM has a few hundred
local KEPT = { choices = '"choices"', usage = '"usage"' }
local byte, find, gsub, match, max, sub = string.byte, string.find, string.gsub, string.match, math.max, string.sub
local concat = table.concat

-- Whether a JSON object has, of its own, no choices and a usage. Its strings are emptied first, so that brackets are brackets.
local function tells_usage_only(json)
  local bare = gsub(gsub(json, "\\.", "-"), '"([^"]*)"', function(word) return KEPT[word] or '""' end)
  local members = match(bare, "^%s*{(.*)}%s*$")
  if members == nil then return false end
  members = gsub(members, "%b{}", "{}")
  return find(members, '"choices"%s*:%s*%[%s*%]') ~= nil and find(members, '"usage"%s*:%s*{}') ~= nil
end

-- Whether the beginning of an event, or all of it, has choices.
local function has_choices(event)
  return find(event, '"choices":[{', 1, true) ~= nil or find(event, '"choices"%s*:%s*%[%s*[^%s%]]') ~= nil
end

-- Whether an event, with its blank line, is to be taken away.
local function unasked(event)
  if #event > LONGEST or find(event, '"usage"', 1, true) == nil or has_choices(event) then return false end
  local json = match(event, "^data: ?([^\n]*)\r?\n\r?\n$")
  return json ~= nil and tells_usage_only(json)
end

-- Whether an event may become one of these that begins so.
local function may_be_unasked(event)
  if #event > LONGEST or has_choices(event) then return false end
  if event == sub("data: {", 1, #event) or event == sub("data:{", 1, #event) or event == "\r" then return true end
  return find(event, "^data: ?{[^\n]*\n?\r?$") ~= nil
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
function hider()
  local held = "" -- the beginning of an event; of one that passes, its last two bytes, since its end may be cut
  local passes = false

  local function feed(chunk)
    local size = #chunk
    if held == "" and byte(chunk, size) == NEWLINE and find(chunk, '"usage"', 1, true) == nil then
      local c, d = byte(chunk, size - 2, size - 1)
      if d == NEWLINE or (d == RETURN and c == NEWLINE) then return chunk end -- whole events, none with usage
    end
    local text = held .. chunk
    local out, n, from = {}, 0, passes and #held + 1 or 1 -- `from`: what is to come after the `n` pieces of `out`
    local i, last = 1, #text
    while i <= last do
      local c, d = byte(text, i, i + 1)
      local stop = nil
      if passes then
        stop = ending(text, i)
      elseif c == NEWLINE then
        stop = i
      elseif c == RETURN and d == NEWLINE then
        stop = i + 1
      else
        stop = ending(text, i)
        if stop ~= nil and unasked(sub(text, i, stop)) then
          out[n + 1], n, from = sub(text, from, i - 1), n + 1, stop + 1
        end
      end
      if stop == nil then break end
      i, passes = stop + 1, false
    end
    if i > last then
      held = ""
    elseif not passes and may_be_unasked(sub(text, i)) then
      held, last = sub(text, i), i - 1
    else
      held, passes = sub(text, max(i, last - 1)), true
    end
    if n == 0 and from == 1 and last == #chunk and #text == size then return chunk end
    out[n + 1] = sub(text, from, last)
    return concat(out)
  end

  return feed, function() return passes and "" or held end
end
"""
