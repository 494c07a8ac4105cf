-- Envoy's side of reading an answer: token counts become metadata as they pass.

local LLM = "llm"

-- Sets metadata of an answer, if it has changed.
local function tell(answer, key, value)
  if answer.told[key] == value then return end
  answer.told[key] = value
  answer.handle:streamInfo():dynamicMetadata():set(LLM, key, value)
end

local function now(answer)
  return answer.handle:timestamp()
end

local function answer_of(handle)
  return { handle = handle, told = {} }
end

local function tell_counts(answer, text)
  local counts = usage.counts(text)
  if counts.input then tell(answer, "input_tokens", counts.input) end
  if counts.output then tell(answer, "output_tokens", counts.output) end
  if counts.cached then tell(answer, "cached_tokens", counts.cached) end
end

local ANSWER = { usage = "text", error = "text" }

local function tell_member(member, answer)
  if member.name == "error" then
    local code = usage.error_code(member.text)
    if code then tell(answer, "error", code) end
  elseif usage.is_object(member.text) then
    tell_counts(answer, member.text)
  end
end

local function read_json(handle)
  local s = json.text(body.more, body.new(handle:bodyChunks()))
  pcall(json.members, s, ANSWER, tell_member, answer_of(handle))
end

local function read_events(handle)
  local asked = handle:streamInfo():dynamicMetadata():get(LLM) or {}
  local e = events.new(asked["hide"], asked["per_choice"], tell, now)
  e.handle, e.told = handle, {}
  if e.hide then handle:headers():remove("content-length") end
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
  if string.byte(headers:get(":status")) ~= 0x32 then return end -- 2xx
  local kind = string.lower(headers:get("content-type") or "")
  if string.sub(kind, 1, 17) == "text/event-stream" then
    read_events(handle)
  elseif string.sub(kind, 1, 16) == "application/json" then
    read_json(handle)
  elseif headers:get("metadata") then -- vLLM's embeddings as bytes
    pcall(json.members, json.whole(headers:get("metadata")), ANSWER, tell_member, answer_of(handle))
  end
end
