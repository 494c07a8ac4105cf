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

-- Inside JSON text a quote is escaped, so `"usage":` and `"choices":` never match within what the model wrote.
local function shown(event, keep_final)
  if not string.find(event, '"usage"', 1, true) then return event end
  if string.find(event, '"choices"%s*:%s*%[%s*%]') and string.find(event, '"usage"%s*:%s*{') then
    return keep_final and event or ""
  end
  for _, value in ipairs({ "%b{}", "null" }) do
    local usage = '%s*"usage"%s*:%s*' .. value
    event = string.gsub(event, "," .. usage, "", 1)
    event = string.gsub(event, "(data:%s*{)" .. usage .. "%s*,?%s*", "%1", 1)
  end
  return event
end

-- The bytes of one chunk as the client sees them, and the beginning of an event whose end has not come yet.
local function cut(bytes, keep_final)
  local out, from = {}, 1
  while true do
    local _, stop = string.find(bytes, "\r?\n\r?\n", from)
    if stop == nil then break end
    out[#out + 1] = shown(string.sub(bytes, from, stop), keep_final)
    from = stop + 1
  end
  return table.concat(out), string.sub(bytes, from)
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
