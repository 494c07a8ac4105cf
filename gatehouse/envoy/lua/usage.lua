-- Parses the usage that a model server reports, in any of the formats that servers send.
--
-- Chat, completions, embeddings and scores count `prompt_tokens` and `completion_tokens`; Responses and Messages count
-- `input_tokens` and `output_tokens`, and Messages leaves cached tokens out of the former. Some send only the total.

local usage = {}

local COUNTED = {
  prompt_tokens = "text",
  completion_tokens = "text",
  total_tokens = "text",
  input_tokens = "text",
  output_tokens = "text",
  cache_read_input_tokens = "text",
  cache_creation_input_tokens = "text",
  prompt_tokens_details = "text",
  input_tokens_details = "text",
}
local DETAILS = { cached_tokens = "text" }

local function note(member, found)
  found[member.name] = member.text
end

local function members(text, wanted)
  local found = {}
  json.members(json.whole(text), wanted, note, found)
  return found
end

local function count(text)
  local number = tonumber(text)
  return number and number >= 0 and number == number and math.floor(number) or nil
end

local function is_object(text)
  return text ~= nil and string.byte(text) == 0x7B
end
usage.is_object = is_object

-- `{input, output, cached}` of a usage object, each nil if missing.
function usage.counts(text)
  local found = members(text, COUNTED)
  local input, output = count(found.prompt_tokens or found.input_tokens), count(found.completion_tokens or found.output_tokens)
  local total = count(found.total_tokens)
  local read, written = count(found.cache_read_input_tokens), count(found.cache_creation_input_tokens)
  local details = found.prompt_tokens_details or found.input_tokens_details
  local cached = read or (is_object(details) and count(members(details, DETAILS).cached_tokens)) or nil
  if input ~= nil then input = input + (read or 0) + (written or 0) end
  if total ~= nil then
    if input == nil then input = math.max(total - (output or 0), 0) end
    if output == nil and total > input then output = total - input end
  end
  return { input = input, output = output, cached = cached }
end

-- The code of an error within an answer of 200; nil when `text`, the value of a member `error`, is not one.
function usage.error_code(text)
  if text == nil or text == "null" or text == "false" then return nil end
  local found = is_object(text) and members(text, { code = "text", type = "text" }) or {}
  for _, each in ipairs({ found.code or "", found.type or "" }) do
    local code = string.match(each, '^"([%w_.-]+)"$')
    if code and #code <= 64 then return code end
  end
  return "error"
end

return usage
