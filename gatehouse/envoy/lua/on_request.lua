-- Envoy's side of reading a request. The filter passes the body on as it arrives; the next one holds it until complete.

local LLM = "llm"
local NOT_JSON = { code = "invalid_json", text = "The Content-Type says something else." }
local BOTH = { "include_usage", "continuous_usage_stats" }

-- The `stream_options` of a model's servers. Envoy's objects are valid until the script waits for the next chunk.
local function asks(settings, model)
  local route = settings.handle:metadata()
  return route:get("asks:" .. model) or route:get("asks") or BOTH
end

local function is_json(headers)
  local kind = headers:get("content-type")
  if kind == "application/json" then return true end
  return string.find(string.lower(kind or "") .. ";", "^application/json%s*;")
end

local function tell(handle, key, value)
  handle:streamInfo():dynamicMetadata():set(LLM, key, value)
end

local function tell_refusal(handle, problem)
  if type(problem) ~= "table" then
    handle:logErr("a request could not be read: " .. tostring(problem))
    problem = { code = "gateway_error", text = "Its log says why." }
  end
  tell(handle, "refused", problem.code)
  tell(handle, "problem", problem.text)
  if problem.param then tell(handle, "param", problem.param) end
end

local function tell_asked(handle, asked, s, b)
  tell(handle, "model", asked.model)
  tell(handle, "asks", request.asks(asked, s))
  if asked.stream then tell(handle, "stream", true) end
  if asked.hide then tell(handle, "hide", asked.hide) end
  if asked.per_choice then tell(handle, "per_choice", true) end
  if b.changed then tell(handle, "bytes", string.format("%.0f", s.base + s.i + b.added)) end
end

-- Settings are in the metadata of the route that is in effect while a body is read.
function envoy_on_request(handle)
  local headers = handle:headers()
  if not is_json(headers) then return tell_refusal(handle, NOT_JSON) end
  local route = handle:metadata()
  local settings = { handle = handle, default_model = route:get("default_model"), asks = asks }
  local b = body.new(handle:bodyChunks())
  local s = json.text(body.more, b, route:get("max_json_values"))
  local path = string.match(headers:get(":path"), "^[^?]*")
  local ok, asked = pcall(request.read, b, s, path, settings)
  if ok then tell_asked(handle, asked, s, b) else tell_refusal(handle, asked) end
end
