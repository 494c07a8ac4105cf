-- Reads what a request asks for, as its model server will read it, and edits it.
--
-- Most servers are written in Python with pydantic: of several members with one name the last counts, and numbers and
-- booleans may be strings. Ambiguous values are refused.

local request = {}

local MOST_MODEL = 16 * 1024 -- bytes of a name, as written
local MOST_COUNT = 999999999999
local NOTHING = {}

-- Each endpoint's own names: for how much a choice may generate (`most`: the first one present counts, or `default` if
-- none is; an endpoint without them generates nothing) and for the number of `choices`; whether a list of `prompts`
-- means as many answers, and whether it takes `stream_options`; what is `refused`. `counts` is false if no tokens are
-- used at all.
local CHOICES = { "n", "best_of" }
local ENDPOINTS = {
  ["/v1/chat/completions"] = { most = { "max_completion_tokens", "max_tokens" }, choices = CHOICES, options = true },
  ["/v1/completions"] = { most = { "max_tokens" }, default = 16, choices = CHOICES, options = true, prompts = true },
  ["/v1/responses"] = { most = { "max_output_tokens" }, refused = { "background" } },
  ["/v1/messages"] = { most = { "max_tokens" } },
  ["/v1/messages/count_tokens"] = { counts = false },
  ["/v1/embeddings"] = { refused = { "encoding_format" } },
  ["/tokenize"] = { counts = false },
  ["/detokenize"] = { counts = false },
}
local ANY_OTHER = {}

-- The members of a body that are read.
local function wanted_by(endpoint)
  local wanted = { model = "text" }
  if endpoint.most then wanted.stream = "text" end
  for _, names in ipairs({ endpoint.most or {}, endpoint.choices or {}, endpoint.refused or {} }) do
    for _, name in ipairs(names) do wanted[name] = "text" end
  end
  if endpoint.options then wanted.stream_options = "text" end
  if endpoint.prompts then wanted.prompt = "skim" end
  return wanted
end
for _, endpoint in pairs(ENDPOINTS) do endpoint.wanted = wanted_by(endpoint) end
ANY_OTHER.wanted = wanted_by(ANY_OTHER)

local function refuse(code, name, text, ...)
  error({ code = code, param = name, text = string.format(text, ...) }, 0)
end

-- The text of a JSON string; nil when `text` is not a string.
local function string_in(text)
  if string.byte(text) ~= 0x22 then return nil end
  return json.unescaped(string.sub(text, 2, -2)) or false
end

local FALSE, TRUE = { 0, "off", "f", "false", "n", "no", "0" }, { 1, "on", "t", "true", "y", "yes", "1" }
local BOOLEANS = {}
for at = 1, #FALSE do
  BOOLEANS[FALSE[at]], BOOLEANS[TRUE[at]] = false, true
end

-- A boolean as pydantic accepts it; nil for null and for a missing member.
local function boolean(member)
  if member == nil or member.text == "null" then return nil end
  local text = member.text or ""
  local plain = string_in(text)
  local value = BOOLEANS[string.lower(plain or text)]
  if value == nil and plain == nil then value = BOOLEANS[tonumber(text)] end
  if value == nil then refuse("invalid_value", member.name, "'%s' must be true or false.", member.name) end
  return value
end

-- A whole number as pydantic accepts it; nil for null, for a missing member, and below 0.
local function whole(member)
  if member == nil or member.text == "null" then return nil end
  local text = member.text or ""
  local plain = string_in(text)
  if plain then -- as Python's int(): signs, underscores between digits, surrounding white space
    plain = string.match(plain, "^%s*(.-)%s*$")
    local digits = string.match(plain, "^[+-]?(%d[%d_]*)$") or string.match(plain, "^[+-]?(%d[%d_]*)%.0*$")
    if digits == nil or string.find(digits, "__", 1, true) or string.sub(digits, -1) == "_" then plain = "" end
    text = string.gsub(string.gsub(plain, "_", ""), "^%+", "")
  end
  local value = text == "true" and 1 or text == "false" and 0 or tonumber(text)
  if value == nil or value ~= math.floor(value) then
    refuse("invalid_value", member.name, "'%s' must be a whole number.", member.name)
  end
  return value >= 0 and math.min(value, MOST_COUNT) or nil
end

local MISSING = "It must be a string that is not empty."

-- Whether a value of `model` names one.
local function names_a_model(text)
  return text ~= nil and string.byte(text) == 0x22 and text ~= '""'
end

local function model_in(member, default)
  if member == nil or member.text == "null" then
    if default == nil then refuse("missing_model", "model", MISSING) end
    return default, true
  end
  if member.text == nil or #member.text > MOST_MODEL then
    refuse("invalid_value", "model", "'model' is longer than %d bytes.", MOST_MODEL)
  end
  local name = string_in(member.text)
  if name == nil or name == "" then refuse("missing_model", "model", MISSING) end
  if name == false then refuse("invalid_value", "model", "'model' is not Unicode: it holds half a surrogate pair.") end
  if string.find(name, "\0", 1, true) then -- would end Envoy's metadata
    refuse("model_not_found", "model", "No name holds a NUL.")
  end
  return name, false
end

-- The most that one choice may generate: if the servers' preference is known, the first of the endpoint's names, else
-- the largest. nil if the body does not say.
local function most_of(seen, endpoint, settings, model)
  local first, other
  for _, name in ipairs(endpoint.most) do
    local value = whole(seen[name])
    if first == nil then first = value else other = value end
  end
  if first ~= nil and other == nil then return first end
  local known = #settings.asks(settings, model) > 1
  if first == nil then return known and endpoint.default or nil end
  return known and first or math.max(first, other)
end

local function choices_of(seen, endpoint)
  local choices = 1
  for _, name in ipairs(endpoint.choices or NOTHING) do choices = math.max(choices, whole(seen[name]) or 1) end
  local prompts = seen.prompt and seen.prompt.elements or 1
  return math.min(choices * prompts, MOST_COUNT)
end

local function refuse_uncountable(seen)
  if boolean(seen.background) then
    refuse("not_allowed_here", "background", "'background' must be false: an answer that nobody waits for is not counted.")
  end
  local format = seen.encoding_format
  if format and format.text and string_in(format.text) == "bytes_only" then
    refuse("not_allowed_here", "encoding_format", "'encoding_format' must not be 'bytes_only': its answer does not say what it used.")
  end
end

local function by_place(a, b)
  return a.from < b.from
end

local function note(member, found)
  found[member.name] = member
end

-- The object in `text` with these members true, and no other byte changed.
local function options_with(text, asked)
  local found, edits = {}, {}
  local s = json.whole(text)
  local wanted = {}
  for _, name in ipairs(asked) do wanted[name] = "text" end
  local close, filled = json.members(s, wanted, note, found)
  local missing = {}
  for _, name in ipairs(asked) do
    local member = found[name]
    if member == nil then
      missing[#missing + 1] = '"' .. name .. '":true'
    elseif boolean(member) ~= true then
      edits[#edits + 1] = { from = member.from, to = member.to, text = "true" }
    end
  end
  table.sort(edits, by_place)
  if #missing > 0 then
    edits[#edits + 1] = { from = close, to = close, text = (filled and "," or "") .. table.concat(missing, ",") }
  end
  return body.edited(text, 0, edits)
end

local OPTIONS = { include_usage = "text", continuous_usage_stats = "text" }

-- The client's own options of a stream: whether it wants usage at the end, and in every event.
local function options_in(member)
  if member == nil or member.text == "null" then return false, false end
  if member.text == nil or string.byte(member.text) ~= 0x7B then
    refuse("invalid_value", "stream_options", "'stream_options' must be an object of at most %d bytes.", json.MOST_VALUE)
  end
  local found = {}
  json.members(json.whole(member.text), OPTIONS, note, found)
  local final = boolean(found.include_usage) == true
  return final, final and boolean(found.continuous_usage_stats) == true
end

-- Replaces the member's value in place, or adds the member at the end.
local function put(edits, added, member, name, text)
  if member == nil then
    added[#added + 1] = '"' .. name .. '":' .. text
  elseif member.text ~= text then
    edits[#edits + 1] = { from = member.from, to = member.to, text = text }
  end
end

local function ask_for_usage(asked, seen, asks, edits, added)
  local final, running = options_in(seen.stream_options)
  asked.per_choice = #asks > 1 and asked.choices > 1
  if final and (running or #asks < 2) then return end
  if not final then asked.hide = "all" else asked.hide = "running" end
  if #asks == 0 then return end
  local text = seen.stream_options and seen.stream_options.text
  if text == "null" then text = nil end
  put(edits, added, seen.stream_options, "stream_options", options_with(text or "{}", asks))
end

-- Holds the body back from a member that may have to change; `after` releases it if a model is named.
local function before(name, from, reading)
  if name == "model" or name == "stream_options" then body.hold(reading.body, from) end
end

local function after(member, reading)
  local seen = reading.seen
  seen[member.name] = member
  if member.name == "model" and names_a_model(member.text) and seen.stream_options == nil then
    body.write(reading.body, NOTHING)
  end
end

-- Reads the body `b`, whose text is `s`, at `path`, and applies the edits it needs. `settings` has `default_model` (or
-- nil) and `asks(settings, model)`: the `stream_options` that the model's servers support.
function request.read(b, s, path, settings)
  local endpoint = ENDPOINTS[path] or ANY_OTHER
  local seen = {}
  json.skip_mark(s)
  local close, filled = json.members(s, endpoint.wanted, after, { body = b, seen = seen }, before)
  local asked, edits, added = {}, {}, {}
  local is_default
  asked.model, is_default = model_in(seen.model, settings.default_model)
  asked.choices = choices_of(seen, endpoint)
  asked.stream = boolean(seen.stream) == true
  refuse_uncountable(seen)
  asked.most = endpoint.most == nil and 0 or most_of(seen, endpoint, settings, asked.model)
  if asked.most == 0 and endpoint.most then asked.most = 1 end -- 0 is for endpoints that generate nothing
  if is_default then put(edits, added, seen.model, "model", json.quoted(asked.model)) end
  if asked.stream and endpoint.options then
    ask_for_usage(asked, seen, settings.asks(settings, asked.model), edits, added)
    table.sort(edits, by_place)
  end
  if #added > 0 then
    edits[#edits + 1] = { from = close, to = close, text = (filled and "," or "") .. table.concat(added, ",") }
  end
  body.write(b, edits)
  json.finish(s)
  asked.uses = endpoint.counts ~= false
  return asked
end

-- What the limits depend on, in one text: `MAX_TOKENS/CHOICES/PROMPT_BYTES/IMAGES`.
function request.asks(asked, s)
  if not asked.uses then return "0/1/0/0" end
  local most = asked.most and string.format("%.0f", asked.most) or "-"
  return string.format("%s/%.0f/%.0f/%.0f", most, asked.choices, s.base + s.i - s.media_bytes, s.media)
end

return request
