-- Streams of chat and completions carry token counts only on request, so Gatehouse asks: it appends `stream_options` to
-- the body, leaving every byte the client sent as it was (of two members with one name the last one counts). On the way
-- back, whatever the client itself did not ask for is taken out of the events again.

local ASKED = ',"stream_options":{"include_usage":true,"continuous_usage_stats":true}}'
local STREAMING = { ["/v1/chat/completions"] = true, ["/v1/completions"] = true }
local NOTE = "gatehouse.usage"

function envoy_on_request(handle)
  local llm = handle:streamInfo():dynamicMetadata():get("llm")
  if llm == nil or llm["stream"] ~= true then return end
  if llm["include_usage"] == true and llm["continuous_usage_stats"] == true then return end
  if not STREAMING[string.match(handle:headers():get(":path"), "^[^?]*")] then return end
  local body = handle:body()
  if body == nil then return end
  local object = string.match(body:getBytes(0, body:length()), "^(.*)}%s*$")
  if object == nil then return end
  handle:headers():replace("content-length", body:setBytes(object .. ASKED))
  handle:streamInfo():dynamicMetadata():set(NOTE, "keep_final", llm["include_usage"] == true)
end

-- Every event passes here, so patterns are matched only at the places that a plain search has found.
local byte, find, gsub, sub = string.byte, string.find, string.gsub, string.sub
local COMMA, SPACE = byte(","), byte(" ")

-- Where, from `from` on, a member `"name":` with a value such as `value` stands. Inside JSON text a quote is escaped, so
-- nothing is found within what the model wrote.
local function member(event, name, value, from)
  local start, stop = find(event, name, from, true)
  while start ~= nil do
    local _, last = find(event, value, stop + 1)
    if last ~= nil then return start, last end
    start, stop = find(event, name, stop + 1, true)
  end
end

-- `event` without its members `usage` with such a value; the comma before each goes too, or the one after the first.
local function without(event, value)
  local start, stop = member(event, '"usage"', value, 1)
  while start ~= nil do
    local from, before = stop + 1, start - 1
    while before > 0 and byte(event, before) <= SPACE do before = before - 1 end
    if byte(event, before) == COMMA then
      event, from = sub(event, 1, before - 1) .. sub(event, stop + 1), before
    elseif find(sub(event, 1, before), "data:%s*{$") then
      event, from = sub(event, 1, before) .. gsub(sub(event, stop + 1), "^%s*,?%s*", ""), before + 1
    end
    start, stop = member(event, '"usage"', value, from)
  end
  return event
end

local OBJECT, OPENED, NULL, EMPTY = "^%s*:%s*%b{}", "^%s*:%s*{", "^%s*:%s*null", "^%s*:%s*%[%s*%]"

local function shown(event, keep_final)
  if not find(event, '"usage"', 1, true) then return event end
  if member(event, '"choices"', EMPTY, 1) and member(event, '"usage"', OPENED, 1) then
    return keep_final and event or ""
  end
  return without(without(event, OBJECT), NULL)
end

-- The bytes of one chunk as the client sees them, and the beginning of an event whose end has not come yet.
local function cut(bytes, keep_final)
  local out, from = {}, 1
  local blank_line = find(bytes, "\r", 1, true) and "\n\r?\n" or "\n\n"
  while true do
    local _, stop = find(bytes, blank_line, from)
    if stop == nil then break end
    out[#out + 1] = shown(sub(bytes, from, stop), keep_final)
    from = stop + 1
  end
  return table.concat(out), sub(bytes, from)
end

function envoy_on_response(handle)
  local kind = handle:headers():get("content-type")
  if kind == nil or string.sub(kind, 1, 17) ~= "text/event-stream" then return end
  local note = handle:streamInfo():dynamicMetadata():get(NOTE)
  local keep_final = note and note["keep_final"]
  if note ~= nil then handle:headers():remove("content-length") end
  local first, rest = true, ""
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if first and length > 0 then -- model servers send headers before they have a token
      handle:streamInfo():dynamicMetadata():set(NOTE, "first_event_ms", handle:timestamp())
      first = false
    end
    if not first and note == nil then return end -- nothing to hide: what follows passes by
    if length > 0 then
      local bytes
      bytes, rest = cut(rest .. chunk:getBytes(0, length), keep_final)
      chunk:setBytes(bytes)
    else
      chunk:setBytes(shown(rest, keep_final)) -- the end: an event whose blank line never came
    end
  end
end
