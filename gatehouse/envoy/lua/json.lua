-- Reads one JSON text (RFC 8259, UTF-8) that arrives in pieces, and keeps only the wanted members.
--
-- A text is read in place, as bytes. Strings are checked completely (escapes, control characters, UTF-8). Levels deeper
-- than the one that is read are skipped: their brackets are counted but not matched, since the server that parses the
-- text refuses mismatches. Problems are raised as a table `{code, text}`.

local ffi = require("ffi")
local bit = require("bit")
local band, bor, bnot, bxor = bit.band, bit.bor, bit.bnot, bit.bxor
local sub, byte, char, find, format = string.sub, string.byte, string.char, string.find, string.format
local bytes_of, words_of = ffi.typeof("const uint8_t *"), ffi.typeof("const uint64_t *")

local json = {}

local QUOTE, BACKSLASH, COMMA, COLON = byte('"'), byte("\\"), byte(","), byte(":")
local OPEN_OBJECT, CLOSE_OBJECT, OPEN_LIST, CLOSE_LIST = byte("{"), byte("}"), byte("["), byte("]")
local MOST_NAME = 256 -- bytes; no member that is read has a longer name
json.MOST_VALUE = 64 * 1024 -- bytes of a wanted value

-- The class of a byte outside of strings; 0 is an error.
local SPACE, NUMBER, WORD, TEXT, OPEN, CLOSE, NEXT, IS = 1, 2, 3, 4, 5, 6, 7, 8
local class = {}
for c = 0, 255 do class[c] = 0 end
local function classify(characters, kind)
  for at = 1, #characters do class[byte(characters, at)] = kind end
end
classify(" \t\n\r", SPACE)
classify("0123456789-", NUMBER)
classify("tfn", WORD)
classify('"', TEXT)
classify("{[", OPEN)
classify("}]", CLOSE)
classify(",", NEXT)
classify(":", IS)

-- Bytes allowed within a number, and hexadecimal digits.
local numeric, hexadecimal = {}, {}
for c = 0, 255 do
  numeric[c] = find(char(c), "[%d+%-.eE]") ~= nil
  hexadecimal[c] = find(char(c), "%x") ~= nil
end

local function fail(s, text)
  error({ code = "invalid_json", text = format("%s at byte %d.", text, s.base + s.i) }, 0)
end

-- A text to read. `more(source)` returns its next piece, or nil at its end; more than `most_values` values are refused.
function json.text(more, source, most_values)
  local s = { more = more, source = source, most = most_values or math.huge, values = 0, media = 0, media_bytes = 0 }
  s.piece, s.i, s.n, s.base = "", 0, 0, 0
  return s
end

-- The same, of a complete text.
function json.whole(text)
  local s = json.text(nil)
  s.piece, s.n = text, #text
  return s
end

-- Starts over with another complete text.
function json.again(s, text)
  s.piece, s.i, s.n, s.base = text, 0, #text, 0
end

-- Keeps the part of a value that continues in the next piece; nothing of a value that is too long.
local function keep(s)
  s.kept_bytes = s.kept_bytes + s.n - s.from
  if s.kept_bytes > json.MOST_VALUE then
    s.from = nil
  else
    s.kept = s.kept or {}
    s.kept[#s.kept + 1] = sub(s.piece, s.from + 1)
    s.from = 0
  end
end

-- Fetches the next piece, once all of this one has been read; false at the end of the text.
local function fill(s)
  if s.values > s.most then
    error({ code = "too_many_values", text = format("The request body has more than %d values.", s.most) }, 0)
  end
  if s.more == nil then return false end
  if s.from ~= nil then keep(s) end
  local piece
  repeat piece = s.more(s.source) until piece ~= ""
  s.base = s.base + s.n
  s.piece = piece or ""
  s.i, s.n = 0, #s.piece
  return piece ~= nil
end

-- Starts to keep the text from here on.
local function begin(s)
  s.from, s.kept, s.kept_bytes = s.i, nil, 0
end

-- The text since `begin`; nil if it was too long.
local function kept(s)
  local from = s.from
  s.from = nil
  if from == nil then return nil end
  local last = sub(s.piece, from + 1, s.i)
  if s.kept == nil then return last end
  return table.concat(s.kept) .. last
end

local function next_byte(s)
  if s.i == s.n and not fill(s) then fail(s, "The text ends too early") end
  local i = s.i + 1
  s.i = i
  return byte(s.piece, i)
end

-- The next byte that is not white space, without reading it; nil at the end of the text.
local function peek(s)
  repeat
    local piece, i, n = s.piece, s.i, s.n
    while i < n do
      local c = byte(piece, i + 1)
      if class[c] ~= SPACE then
        s.i = i
        return c
      end
      i = i + 1
    end
    s.i = i
  until not fill(s)
end

local function expect(s, wanted)
  if peek(s) ~= wanted then fail(s, "'" .. char(wanted) .. "' is missing") end
  s.i = s.i + 1
end

-- Plain bytes of text are skipped eight at a time: neither quote nor backslash, from 0x20 to 0x7F (S. E. Anderson,
-- "Bit Twiddling Hacks", hasless and haszero).
local ONES, HIGH = 0x0101010101010101ULL, 0x8080808080808080ULL
local SPACES, QUOTES, BACKSLASHES = ONES * 0x20, ONES * QUOTE, ONES * BACKSLASH

local function long_plain(piece, i, n)
  local p = ffi.cast(bytes_of, piece)
  while i + 8 <= n do
    local w = ffi.cast(words_of, p + i)[0]
    local q, b = bxor(w, QUOTES), bxor(w, BACKSLASHES)
    local odd = bor(band(w - SPACES, bnot(w)), band(q - ONES, bnot(q)), band(b - ONES, bnot(b)), w)
    if band(odd, HIGH) ~= 0 then break end
    i = i + 8
  end
  return i
end

local plain = {}
for c = 0, 255 do plain[c] = c >= 0x20 and c < 0x80 and c ~= QUOTE and c ~= BACKSLASH end

-- Where plain text ends: most is short, and then checking each byte costs less.
local SHORT = 48
local function end_of_plain(piece, i, n)
  local stop = i + SHORT < n and i + SHORT or n
  while i < stop and plain[byte(piece, i + 1)] do i = i + 1 end
  if i < stop or stop == n then return i end
  i = long_plain(piece, i, n)
  while i < n and plain[byte(piece, i + 1)] do i = i + 1 end
  return i
end

local ESCAPES = {}
for at = 1, 8 do ESCAPES[byte('"\\/bfnrt', at)] = true end

local function skip_escape(s)
  local c = next_byte(s)
  if ESCAPES[c] then return end
  if c ~= 0x75 then fail(s, "A backslash escapes nothing") end -- u
  for _ = 1, 4 do
    if not hexadecimal[next_byte(s)] then fail(s, "\\u is not followed by four hexadecimal digits") end
  end
end

-- Skips the rest of a multi-byte character that begins with `c` (Unicode, table 3-7, "Well-Formed UTF-8").
local function skip_character(s, c)
  local following = c >= 0xF0 and 3 or c >= 0xE0 and 2 or 1
  if c < 0xC2 or c > 0xF4 then fail(s, "A string is not UTF-8") end
  local low = c == 0xE0 and 0xA0 or c == 0xF0 and 0x90 or 0x80
  local high = c == 0xED and 0x9F or c == 0xF4 and 0x8F or 0xBF
  for _ = 1, following do
    local d = next_byte(s)
    if d < low or d > high then fail(s, "A string is not UTF-8") end
    low, high = 0x80, 0xBF
  end
end

-- Skips the rest of a string whose opening quote has been read.
local function skip_string(s)
  while true do
    local i = end_of_plain(s.piece, s.i, s.n)
    s.i = i
    if i == s.n then
      if not fill(s) then fail(s, "A string has no end") end
    else
      local c = byte(s.piece, i + 1)
      s.i = i + 1
      if c == QUOTE then return end
      if c == BACKSLASH then
        skip_escape(s)
      elseif c >= 0x80 then
        skip_character(s, c)
      else
        fail(s, "A string holds a control character")
      end
    end
  end
end

local MEDIA = "data:"

-- Skips the rest of a string whose opening quote has been read. A data URI is mostly an image, whose size says nothing
-- about its tokens.
local function skip_text(s)
  local from, matched = s.base + s.i, 0
  while matched < #MEDIA do
    if s.i == s.n and not fill(s) then fail(s, "A string has no end") end
    if byte(s.piece, s.i + 1) ~= byte(MEDIA, matched + 1) then break end
    s.i, matched = s.i + 1, matched + 1
  end
  skip_string(s)
  if matched == #MEDIA then s.media, s.media_bytes = s.media + 1, s.media_bytes + s.base + s.i - from end
end

local REST = { [byte("t")] = "rue", [byte("f")] = "alse", [byte("n")] = "ull" }

-- Skips the rest of `true`, `false` or `null`, whose first letter `c` has been read.
local function skip_word(s, c)
  local rest = REST[c]
  for at = 1, #rest do
    if next_byte(s) ~= byte(rest, at) then fail(s, "An unknown word stands") end
  end
end

local function skip_number(s)
  repeat
    local piece, i, n = s.piece, s.i, s.n
    while i < n and numeric[byte(piece, i + 1)] do i = i + 1 end
    s.i = i
  until i < n or not fill(s)
end

-- Skips the rest of an object or a list whose opening bracket has been read. Returns the number of commas between its
-- own members.
local function skip_nested(s)
  local depth, commas = 1, 0
  repeat
    local piece, i, n, values = s.piece, s.i, s.n, s.values
    while i < n do
      i = i + 1
      local c = byte(piece, i)
      local kind = class[c]
      if kind == NUMBER then
        values = values + 1
        while i < n and numeric[byte(piece, i + 1)] do i = i + 1 end
        if i == n then
          s.i, s.values = i, values
          skip_number(s)
          piece, i, n, values = s.piece, s.i, s.n, s.values
        end
      elseif kind == NEXT then
        if depth == 1 then commas = commas + 1 end
      elseif kind == TEXT then
        s.i, s.values = i, values + 1
        skip_text(s)
        piece, i, n, values = s.piece, s.i, s.n, s.values
      elseif kind == IS then
        values = values - 1 -- the string before it was a name
      elseif kind == OPEN then
        depth, values = depth + 1, values + 1
      elseif kind == CLOSE then
        depth = depth - 1
        if depth == 0 then
          s.i, s.values = i, values
          return commas
        end
      elseif kind == WORD then
        s.i, s.values = i, values + 1
        skip_word(s, c)
        piece, i, n, values = s.piece, s.i, s.n, s.values
      elseif kind ~= SPACE then
        s.i, s.values = i, values
        fail(s, "An unknown character stands")
      end
    end
    s.i, s.values = i, values
  until not fill(s)
  fail(s, "The text ends too early")
end

-- Skips a value. Returns the number of elements of a list of anything but numbers; 1 for every other value.
local function skip_value(s)
  local c = peek(s)
  if c == nil then fail(s, "A value is missing") end
  local kind = class[c]
  s.i = s.i + 1
  s.values = s.values + 1
  if kind == TEXT then
    skip_text(s)
  elseif kind == NUMBER then
    skip_number(s)
  elseif kind == WORD then
    skip_word(s, c)
  elseif kind == OPEN then
    local first = c == OPEN_LIST and peek(s)
    local commas = skip_nested(s)
    if first and first ~= CLOSE_LIST and class[first] ~= NUMBER then return commas + 1 end
  else
    s.i = s.i - 1
    fail(s, "A value is missing")
  end
  return 1
end

local function is_number(text)
  if find(text, "^[1-9]%d?%d?%d?%d?%d?$") then return true end
  local whole, rest = string.match(text, "^%-?(%d+)(.*)$")
  if whole == nil or (#whole > 1 and byte(whole) == 0x30) then return false end
  if not (rest == "" or find(rest, "^%.%d+$") or find(rest, "^[eE][+-]?%d+$") or find(rest, "^%.%d+[eE][+-]?%d+$")) then
    return false
  end
  return math.abs(tonumber(text)) < math.huge
end

-- The name of a member, its escapes resolved; nil if it is longer than `MOST_NAME`.
local function read_name(s)
  local _, stop, plain_name = find(s.piece, '^([%w_]*)"', s.i + 1)
  if stop then
    s.i = stop
    return plain_name
  end
  begin(s)
  skip_string(s)
  local name = kept(s)
  if name == nil or #name > MOST_NAME then return nil end
  name = sub(name, 1, -2)
  return find(name, "\\", 1, true) and json.unescaped(name) or name
end

-- Reads all members of an object, whose opening brace is next: `visit(member, context)` is called for each one that
-- `wanted` names, after it was read. A member has `name`, `text` (its value as written; nil when that is longer than
-- `MOST_VALUE`, or when `wanted` says "skim"), `elements`, and its place, in bytes of the whole text: `start` (the
-- comma before it, or its name when it is the first), `from` and `to` of its value, and `first`. When a wanted value is
-- next, `before(name, from, context)` is called. Returns the place of the closing brace, and whether there are members.
function json.members(s, wanted, visit, context, before)
  expect(s, OPEN_OBJECT)
  if peek(s) == CLOSE_OBJECT then
    s.i = s.i + 1
    return s.base + s.i - 1, false
  end
  local first, comma = true, 0
  while true do
    local start = peek(s) and (first and s.base + s.i or comma)
    expect(s, QUOTE)
    local name = read_name(s)
    expect(s, COLON)
    local kind = class[peek(s) or 0]
    local how, from = name and wanted[name], s.base + s.i
    if how and before then before(name, from, context) end
    local keeps = how == "text" or kind == NUMBER
    if keeps then begin(s) end
    local elements = skip_value(s)
    local text = keeps and kept(s) or nil
    if kind == NUMBER and text ~= nil and not is_number(text) then fail(s, "A number can't be read") end
    if how then
      local to = s.base + s.i
      visit({ name = name, text = text, elements = elements, start = start, from = from, to = to, first = first }, context)
    end
    local c = peek(s)
    if c ~= COMMA and c ~= CLOSE_OBJECT then fail(s, "A comma or a brace is missing") end
    first, comma = false, s.base + s.i
    s.i = s.i + 1
    if c == CLOSE_OBJECT then return comma, true end
  end
end

-- Calls `visit(text, from, to, context)` for every element of a list in a complete text.
function json.elements(s, visit, context)
  expect(s, OPEN_LIST)
  if peek(s) == CLOSE_LIST then return end
  repeat
    peek(s)
    local from = s.i
    skip_value(s)
    visit(sub(s.piece, from + 1, s.i), from, s.i, context)
    local c = peek(s)
    s.i = s.i + 1
  until c ~= COMMA
end

-- Checks that nothing but white space is left.
function json.finish(s)
  if peek(s) ~= nil then fail(s, "Something stands after the end") end
end

-- Skips a byte order mark, as Python's `json.loads` does.
function json.skip_mark(s)
  if peek(s) == 0xEF then
    s.i = s.i + 1
    if next_byte(s) ~= 0xBB or next_byte(s) ~= 0xBF then fail(s, "The text is not UTF-8") end
  end
end

local PLAIN = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function utf8(code)
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xC0 + bit.rshift(code, 6), 0x80 + band(code, 0x3F)) end
  local last = char(0x80 + band(bit.rshift(code, 6), 0x3F), 0x80 + band(code, 0x3F))
  if code < 0x10000 then return char(0xE0 + bit.rshift(code, 12)) .. last end
  return char(0xF0 + bit.rshift(code, 18), 0x80 + band(bit.rshift(code, 12), 0x3F)) .. last
end

-- The text of a string, given without its quotes. nil for half a surrogate pair, which is not text.
function json.unescaped(raw)
  if not find(raw, "\\", 1, true) then return raw end
  local out, at = {}, 1
  while at <= #raw do
    local stop = find(raw, "\\", at, true)
    if stop == nil then break end
    out[#out + 1] = sub(raw, at, stop - 1)
    local c = sub(raw, stop + 1, stop + 1)
    at = stop + 2
    if c == "u" then
      local code = tonumber(sub(raw, at, at + 3), 16)
      at = at + 4
      if code >= 0xD800 and code < 0xDC00 then
        local low = tonumber(string.match(raw, "^\\u(%x%x%x%x)", at) or "0", 16)
        if low < 0xDC00 or low > 0xDFFF then return nil end
        code, at = 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00), at + 6
      elseif code >= 0xDC00 and code <= 0xDFFF then
        return nil
      end
      out[#out + 1] = utf8(code)
    else
      out[#out + 1] = PLAIN[c] or c
    end
  end
  out[#out + 1] = sub(raw, at)
  return table.concat(out)
end

-- `text` as a JSON string.
function json.quoted(text)
  return '"' .. string.gsub(text, '[%c"\\]', function(c) return format("\\u%04x", byte(c)) end) .. '"'
end

return json
