"""The model that the client asked for, back in the answer to a request whose model was rewritten: Lua, run by `answer.py`.

Dynamic metadata of the decision (`penstock`: asked, target) asks for it. It changes the value of the key `model` where the APIs have
it (of the answer, of each event, of an event's `message` or `response`), and only a value that is the target's name; everything
else passes as it came. Streams pass chunk by chunk: held back is at most the beginning of a name, until its end has come. Why, and
what it costs: docs/decisions/0014-model-rewrite.md. Cases: tests/xds_server/test_translate_restore.py.
"""

# Bytes are looked at in a loop, not by patterns: LuaJIT compiles the one and not the other.
RESTORE = r"""local byte, find, gsub, max, sub = string.byte, string.find, string.gsub, math.max, string.sub
local concat = table.concat

-- Where the text is: at the beginning of a line, in what is of no interest, in JSON, in a string of it, in a model's name.
local LINE, SKIP, JSON, STRING, NAME = 1, 2, 3, 4, 5
local NEWLINE, QUOTE, COMMA, COLON, BACKSLASH = 10, 34, 44, 58, 92
local DATA, LONGEST_KEY = "data:", 8
local HOLDS = { message = true, response = true } -- Anthropic's message_start; events of OpenAI's responses

-- Two functions: one takes a text chunk by chunk and gives what to send instead, one gives what it still holds at the end.
-- `asked` and the targets are JSON strings with their quotes; `events`: the text is server-sent events, not one JSON value.
function restorer(asked, target, escaped_target, events)
  local longest = 2 * max(#target, #escaped_target) -- of a name that may still be the target's: its slashes may be escaped
  local state, seen = events and LINE or JSON, 0 -- seen: how much of DATA
  local depth, outer, inner = 0, "", false -- open brackets; the key at depth 1; whether depth 2 may have a model
  local word, named, escaped = "", false, false -- the last string; after the key of a model; after a backslash
  local held = ""
  local head, new_head = nil, nil -- a line up to its model, as it came and as it went: in one answer most begin alike

  local function is_target(name)
    if name == target or name == escaped_target then return true end
    return find(name, "\\/", 1, true) ~= nil and gsub(name, "\\/", "/") == target
  end

  local function begin()
    state, seen, depth, outer, inner, word, named = JSON, 0, 0, "", false, "", false
  end

  local function structure(c)
    if c == COLON then
      named = word == "model" and (depth == 1 or (depth == 2 and inner))
      if depth == 1 then outer = word end
    elseif c == COMMA then
      word, named = "", false
    elseif c == 123 or c == 91 then -- { [
      depth, word, named = depth + 1, "", false
      if depth == 2 then inner = c == 123 and HOLDS[outer] == true end
    elseif c == 125 or c == 93 then -- } ]
      depth, word, named = depth - 1, "", false
      if depth <= 0 then state = SKIP end
    elseif c == NEWLINE and events then
      state, seen = LINE, 0
    end
  end

  -- Where the string ends that goes on at `i`: at a quote, or at the end of its line; nil where that has not come.
  local function closing(text, i, size)
    while i <= size do
      local c = byte(text, i)
      if c == NEWLINE and events then return i, c end
      if escaped then
        escaped = false
      elseif c == QUOTE then
        return i, c
      elseif c == BACKSLASH then
        escaped = true
      end
      i = i + 1
    end
  end

  -- A string up to `stop`; longer than any key of interest, it is as good as any other.
  local function spelled(text, start, stop)
    if stop - start > LONGEST_KEY or #word > LONGEST_KEY then return "another key" end
    return word .. sub(text, start, stop)
  end

  local function feed(text)
    local size, i = #text, 1
    if state == LINE and seen == 0 and byte(text, size) == NEWLINE and not find(text, '"model"', 1, true) then
      return text -- whole lines, none with a model
    end
    local from, out, n = 1, {}, 0 -- what is to come after the `n` pieces of `out`
    local mark, start = 1, nil -- where in this chunk the string began, or goes on; where its line began
    while i <= size do
      if state == SKIP then
        local stop = events and find(text, "\n", i, true)
        if not stop then break end
        i, state, seen = stop + 1, LINE, 0
      elseif state == LINE and seen == 0 and head ~= nil and sub(text, i, i + #head - 1) == head then
        out[n + 1], out[n + 2], n = sub(text, from, i - 1), new_head, n + 2
        from = i + #head
        i, state = from, SKIP
      elseif state == LINE then
        local c = byte(text, i)
        if seen == 0 then start = i end
        if c == byte(DATA, seen + 1) then
          seen = seen + 1
          if seen == #DATA then begin() end
        elseif c == NEWLINE then
          seen = 0
        else
          state = SKIP
        end
        i = i + 1
      elseif state == JSON then
        local c = byte(text, i)
        if c == QUOTE then
          state, word, escaped = named and NAME or STRING, "", false
          mark = named and i or i + 1
        else
          structure(c)
        end
        i = i + 1
      else
        local stop, c = closing(text, i, size)
        if state == STRING then
          word = spelled(text, mark, (stop or size + 1) - 1)
          if stop then state = JSON end
        elseif stop ~= nil or #held + size - mark >= longest then
          local name = held .. sub(text, mark, stop or size)
          local new = c == QUOTE and is_target(name) and asked or name
          if c == QUOTE and start ~= nil then head, new_head = sub(text, start, stop), sub(text, start, mark - 1) .. new end
          out[n + 1], out[n + 2], n = sub(text, from, mark - 1), new, n + 2
          held, from = "", (stop or size) + 1
          state, word = stop and SKIP or STRING, "another key"
        end
        if c == NEWLINE then state, seen = LINE, 0 end
        i = (stop or size) + 1
      end
    end
    if state == NAME then
      out[n + 1], n = sub(text, from, mark - 1), n + 1
      held, from = held .. sub(text, mark), size + 1
    end
    if n == 0 then return text end
    out[n + 1] = sub(text, from)
    return concat(out)
  end

  return feed, function() return held end
end
"""
