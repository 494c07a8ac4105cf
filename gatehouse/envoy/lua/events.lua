-- Reads Server-Sent Events (WHATWG HTML, section 9.2) of a model server: counts tokens, and hides unwanted usage.
--
-- The bytes of an event are passed on unchanged, unless usage that the client did not ask for is cut out. Only what may
-- have to be cut is held back, and only to the event's end.

local events = {}

local find, sub, match, byte = string.find, string.sub, string.match, string.byte
local MOST_EVENT = 10 * 1024 * 1024 -- bytes; a `response.completed` has the whole answer. Larger events are not read.
local BYTES_PER_TOKEN = 4
local RETURN = byte("\r")

-- The stream of one answer. `hide`: "all" usage, only "running" usage, or nil. `tell(stream, key, value)` is called
-- with counts as they become known; `now(stream)` is the time in milliseconds.
function events.new(hide, per_choice, tell, now)
  return {
    hide = hide,
    per_choice = per_choice,
    tell = tell,
    now = now,
    parts = {},
    size = 0,
    tail = "",
    running = {},
    produced = 0,
    text = json.whole(""),
  }
end

-- Counting ----------------------------------------------------------------------------------------------------------

local function produce(e, tokens)
  if e.produced == 0 then e.tell(e, "first_event_ms", e.now(e)) end
  e.produced = e.produced + tokens
  if not e.counts_output then e.tell(e, "produced", e.produced) end
end

-- Whether a choice has output: text, reasoning, a tool call, speech.
local CARRIERS = { '"content"', '"text"', '"reasoning_content"', '"reasoning"', '"arguments"', '"refusal"', '"data"', '"name"' }
local function carries(choices)
  for _, name in ipairs(CARRIERS) do
    local _, stop = find(choices, name, 1, true)
    while stop do
      if find(choices, '^%s*:%s*"[^"]', stop + 1) then return true end
      _, stop = find(choices, name, stop + 1, true)
    end
  end
  return false
end

-- Sums the choices, if each is counted separately.
local INDEX = { index = "text" }
local function note_index(member, found)
  found.index = member.text
end
local function index_of(text, _, _, found)
  json.members(json.whole(text), INDEX, note_index, found)
end

local function over_choices(e, choices, output)
  local found = {}
  json.elements(json.whole(choices), index_of, found)
  if found.index == nil then return output end
  e.running[found.index] = output
  local sum = 0
  for _, each in pairs(e.running) do sum = sum + each end
  return sum
end

local function count_output(e, output)
  if output > 0 then
    if e.produced == 0 then produce(e, 1) end
    e.counts_output = true
  end
  e.tell(e, "output_tokens", output)
end

local function count(e, text, choices)
  local counts = usage.counts(text)
  if counts.input and counts.input >= (e.input or 0) then -- some servers leave out cached tokens at the end
    e.input = counts.input
    e.tell(e, "input_tokens", counts.input)
  end
  if counts.cached then e.tell(e, "cached_tokens", counts.cached) end
  if counts.output == nil then return end
  local output = counts.output
  if e.per_choice and choices and not find(choices, "^%[%s*%]$") then output = over_choices(e, choices, output) end
  if e.starts then return e.tell(e, "output_tokens", output) end
  count_output(e, output)
end

local NESTED = { usage = "text", error = "text" }
local function tally_nested(member, e)
  if member.name == "error" then
    local code = usage.error_code(member.text)
    if code then e.tell(e, "error", code) end
  elseif usage.is_object(member.text) then
    count(e, member.text)
  end
end
local function count_nested(e, text)
  json.members(json.whole(text), NESTED, tally_nested, e)
end
local function count_in_choice(text, _, _, e)
  count_nested(e, text)
end

-- Responses and Messages send text as `delta`; its tokens are estimated, since only the end has counts.
local function count_delta(e, kind, delta)
  if not (find(kind, '%.delta"$') or kind == '"content_block_delta"') then return end
  local text = match(delta, '^"(.*)"$') or match(delta, '"text"%s*:%s*"(.*)"') or match(delta, '"thinking"%s*:%s*"(.*)"') or ""
  produce(e, math.max(1, math.ceil(#text / BYTES_PER_TOKEN)))
end

local READ = {
  usage = "text",
  choices = "text",
  error = "text",
  type = "text",
  response = "text",
  message = "text",
  delta = "text",
}

local function note(member, found)
  found[member.name] = member.text
  if member.name == "usage" then found.spans[#found.spans + 1] = member end
  if member.name == "choices" then found.choices_at = member end
end

-- The members of an event that are read; nil when its data is not a JSON object.
local function read(e, data)
  local found = { spans = {}, data = data }
  json.again(e.text, data)
  return pcall(json.members, e.text, READ, note, found) and found or nil
end

local function tally(e, found)
  local code = usage.error_code(found.error)
  if code == nil and found.type == '"error"' then code = "error" end
  if code == nil and found.message and not found.choices and find(found.data, '"object"%s*:%s*"error"') then -- older vLLM
    code = usage.error_code(found.data)
  end
  if code then e.tell(e, "error", code) end
  if usage.is_object(found.usage) then count(e, found.usage, found.choices) end
  if usage.is_object(found.response) then count_nested(e, found.response) end
  if usage.is_object(found.message) then -- of Messages, whose first event counts output that is yet to come
    e.starts = true
    count_nested(e, found.message)
    e.starts = false
  end
  if found.delta and found.type then count_delta(e, found.type, found.delta) end
  if found.choices and not e.counts_output then
    if carries(found.choices) then produce(e, 1) end
    if find(found.choices, '"usage"', 1, true) then
      pcall(json.elements, json.whole(found.choices), count_in_choice, e)
    end
  end
end

-- Hiding ------------------------------------------------------------------------------------------------------------

-- `data` without its members `usage` that are objects or null.
local function without(data, spans)
  local edits = {}
  for _, member in ipairs(spans) do
    local first = byte(member.text or "")
    if first == 0x7B or member.text == "null" then
      local to = member.to
      if member.first then to = to + #match(data, "^%s*,?%s*", to + 1) end
      edits[#edits + 1] = { from = member.start, to = to, text = "" }
    end
  end
  return #edits > 0 and body.edited(data, 0, edits) or data
end

local USAGE = { usage = "text" }
local function append(member, spans)
  spans[#spans + 1] = member
end

local function usages_in(text)
  local spans = {}
  pcall(json.members, json.whole(text), USAGE, append, spans)
  return spans
end

local function edit_choice(text, from, to, edits)
  edits[#edits + 1] = { from = from, to = to, text = without(text, usages_in(text)) }
end

local function without_nested(choices)
  local edits = {}
  json.elements(json.whole(choices), edit_choice, edits)
  return body.edited(choices, 0, edits)
end

-- The members of an event without choices that has nothing but usage.
local STANDARD = {}
for _, name in ipairs({ "id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier" }) do
  STANDARD[name] = true
end
local EVERY = setmetatable({}, { __index = function() return "skim" end })
local function note_other(member, found)
  found.other = found.other or not STANDARD[member.name]
end

local function only_usage(data)
  local found = {}
  json.members(json.whole(data), EVERY, note_other, found)
  return not found.other
end

-- The data of an event as the client gets it; nil when it gets none.
local function shown(e, data, found)
  local counts, is_last = usage.is_object(found.usage), found.choices and find(found.choices, "^%[%s*%]$")
  if counts and is_last then
    if e.hide == "running" then
      e.shown = true
      return data
    end
    if only_usage(data) then return nil end
  end
  if counts then e.last = data end
  if found.choices and find(found.choices, '"usage"', 1, true) then
    local at = found.choices_at
    data = body.edited(data, 0, { { from = at.from, to = at.to, text = without_nested(found.choices) } })
    found = read(e, data)
  end
  return without(data, found.spans)
end

-- The usage event that the client asked for, if the server sent usage only in its last chunk.
local function owed(e)
  if e.hide ~= "running" or e.shown or e.last == nil then return "" end
  local found = read(e, e.last)
  local at = found and found.choices_at
  if not at then return "" end
  e.shown = true
  return "data: " .. body.edited(e.last, 0, { { from = at.from, to = at.to, text = "[]" } }) .. "\n\n"
end

-- Framing -----------------------------------------------------------------------------------------------------------

-- The data of an event, its lines joined; and, if it is one line, the offset at which it begins.
local function data_of(event)
  local _, at = find(event, "^data: ?")
  if at == nil then _, at = find(event, "[\r\n]data: ?") end
  if at == nil then return nil end
  local stop = find(event, "[\r\n]", at + 1)
  if stop == nil then return sub(event, at + 1), at end
  if not find(event, "[\r\n]data:", stop) then return sub(event, at + 1, stop - 1), at end
  local lines = {}
  for line in string.gmatch(event, "[^\r\n]+") do
    lines[#lines + 1] = match(line, "^data: ?(.*)")
  end
  return table.concat(lines, "\n")
end

-- `event` with other data; `at` is where its one line of data begins.
local function with_data(event, old, new, at)
  if at then return sub(event, 1, at) .. new .. sub(event, at + #old + 1) end
  local ending = match(event, "\r\n") or match(event, "[\r\n]") or "\n"
  local lines = {}
  for line in string.gmatch(event, "[^\r\n]+") do
    if not find(line, "^data:") then lines[#lines + 1] = line end
  end
  for line in string.gmatch(new, "[^\n]+") do lines[#lines + 1] = "data: " .. line end
  return table.concat(lines, ending) .. ending .. ending
end

-- Fast path for the usual event, whose last member is its usage: the end of the data follows, so the member is at the
-- top level; and it is not within a string, where quotes are escaped. vLLM and SGLang write the total in the middle,
-- other servers at the end. Returns nil for every other event.
local RUNNING = '^,"usage":{"prompt_tokens":(%d+),"total_tokens":%d+,"completion_tokens":(%d+)()'
local TOTAL_LAST = '^,"usage":{"prompt_tokens":(%d+),"completion_tokens":(%d+),"total_tokens":%d+()'
local ENDS = { ["}}\n\n"] = true, [',"completion_tokens_details":null}}\n\n'] = true }
local function pass_running(e, event)
  local at = find(event, '"usage"', 1, true)
  if at == nil or e.per_choice then return nil end
  local input, output, stop = match(event, RUNNING, at - 1)
  if input == nil then input, output, stop = match(event, TOTAL_LAST, at - 1) end
  if input == nil or not ENDS[sub(event, stop)] or sub(event, 1, 7) ~= "data: {" or find(event, '"choices":[]', 1, true) then return nil end
  e.input = math.max(e.input or 0, tonumber(input))
  e.tell(e, "input_tokens", e.input)
  count_output(e, tonumber(output))
  if e.hide == nil then return event end
  e.last = sub(event, 7, -3)
  return sub(event, 1, at - 2) .. "}\n\n"
end

-- One event as the client gets it.
local function pass(e, event)
  local running = pass_running(e, event)
  if running then return running end
  local data, at = data_of(event)
  if data == nil then return event end
  if sub(data, 1, 6) == "[DONE]" then return owed(e) .. event end
  local found = byte(data) ~= nil and read(e, data)
  if not found then return event end
  pcall(tally, e, found)
  if e.hide == nil then return event end
  local ok, new = pcall(shown, e, data, found)
  if not ok or new == data then return event end
  return new and with_data(event, data, new, at) or ""
end

-- Where the first event of `bytes` ends, from `from` on: after an empty line, with any line ending. The second byte of
-- a two-byte ending must have arrived.
local function end_of_event(bytes, from, has_return)
  if not has_return then
    local _, stop = find(bytes, "\n\n", from, true)
    return stop
  end
  local at, ending = from, 1
  while true do
    local line = find(bytes, "[\r\n]", at)
    if line == nil or (ending == 2 and line == #bytes and byte(bytes, line) == RETURN) then return nil end
    ending = sub(bytes, line, line + 1) == "\r\n" and 2 or 1
    if line == at then return line + ending - 1 end
    at = line + ending
  end
end

-- How many bytes at the beginning of an unfinished event can be sent at once: comments, and empty lines.
local function free_bytes(bytes)
  local at = 1
  while true do
    local _, stop = find(bytes, "^:[^\r\n]*[\r\n]+", at)
    if stop == nil then _, stop = find(bytes, "^[\r\n]+", at) end
    if stop == nil then return at - 1 end
    at = stop + 1
  end
end

-- Whether `bytes` may have an empty line: two line endings in a row; "\r\n" alone is one.
local function may_end(bytes)
  return find(bytes, "\n\n", 1, true) or find(bytes, "\r\r", 1, true) or find(bytes, "\n\r", 1, true)
end

local function put_off(e, bytes)
  e.parts[#e.parts + 1] = bytes
  e.size = e.size + #bytes
  e.tail = sub(e.tail .. bytes, -3)
end

local function take_all(e, bytes)
  e.parts[#e.parts + 1] = bytes
  local all = #e.parts == 1 and bytes or table.concat(e.parts)
  e.parts, e.size, e.tail = {}, 0, ""
  return all
end

-- The bytes of one chunk as the client gets them: the same string if nothing changed.
function events.feed(e, bytes)
  if e.given_up then return bytes end
  if e.size > 0 and e.size + #bytes > MOST_EVENT then
    e.given_up = true
    local all = take_all(e, bytes)
    return e.hide and all or bytes
  end
  if e.size > 0 and not may_end(e.tail .. bytes) then
    put_off(e, bytes)
    return e.hide and "" or bytes
  end
  local all = take_all(e, bytes)
  local has_return = find(all, "\r", 1, true) ~= nil
  local free = free_bytes(all)
  local out, from = { sub(all, 1, free) }, free + 1
  while true do
    local stop = end_of_event(all, from, has_return)
    if stop == nil then break end
    out[#out + 1] = pass(e, sub(all, from, stop))
    from = stop + 1
  end
  local rest = sub(all, from)
  free = free_bytes(rest)
  if free > 0 then out[#out + 1], rest = sub(rest, 1, free), sub(rest, free + 1) end
  if rest ~= "" then put_off(e, rest) end
  if e.hide == nil then return bytes end
  return table.concat(out)
end

-- The end of the stream: an event whose empty line never came, as the client gets it, and a usage event that is due.
function events.finish(e)
  if e.given_up then return "" end
  local last = take_all(e, "")
  local seen = last ~= "" and pass(e, last) or ""
  if e.hide == nil then return "" end
  return seen .. owed(e)
end

return events
