-- Envoy's side of reading an answer: counts of tokens become metadata as they pass.

local LLM = "llm"

local function teller(handle)
  local told = {}
  return function(key, value)
    if told[key] == value then return end
    told[key] = value
    handle:streamInfo():dynamicMetadata():set(LLM, key, value)
  end
end

local function tell_counts(tell, text)
  local counts = usage.counts(text)
  if counts.input then tell("input_tokens", counts.input) end
  if counts.output then tell("output_tokens", counts.output) end
  if counts.cached then tell("cached_tokens", counts.cached) end
end

local ANSWER = { usage = "text", error = "text" }

local function read_json(handle, tell)
  local b = body.new(handle:bodyChunks())
  local s = json.text(function() return body.more(b) end)
  pcall(json.members, s, ANSWER, function(member)
    if member.name == "usage" then
      if usage.is_object(member.text) then tell_counts(tell, member.text) end
    elseif usage.error_code(member.text) then
      tell("error", usage.error_code(member.text))
    end
  end)
end

local function read_events(handle, tell)
  local asked = handle:streamInfo():dynamicMetadata():get(LLM) or {}
  local hide = asked["hide"]
  local e = events.new(hide, asked["per_choice"], tell, function() return handle:timestamp() end)
  if hide then handle:headers():remove("content-length") end
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if length > 0 then
      local bytes = chunk:getBytes(0, length)
      local seen = events.feed(e, bytes)
      if seen ~= bytes then chunk:setBytes(seen) end
    else
      local rest = events.finish(e)
      if rest ~= "" then chunk:setBytes(rest) end
    end
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  if string.sub(headers:get(":status"), 1, 1) ~= "2" then return end
  local kind = string.lower(headers:get("content-type") or "")
  local tell = teller(handle)
  if string.sub(kind, 1, 17) == "text/event-stream" then
    read_events(handle, tell)
  elseif string.sub(kind, 1, 16) == "application/json" then
    read_json(handle, tell)
  elseif headers:get("metadata") then -- vLLM's embeddings as bytes
    pcall(json.members, json.whole(headers:get("metadata")), { usage = "text" }, function(member)
      if usage.is_object(member.text) then tell_counts(tell, member.text) end
    end)
  end
end
