-- A body as it streams through Envoy, in chunks. Most pass unchanged; from the first byte that may have to change they
-- are held back until the change is known.

local body = {}

local SLICE = 64 * 1024 -- bytes read at a time: copies are short-lived

-- `chunks` is Envoy's iterator. The current chunk begins at `start` of the body; one that was changed has `shift` more
-- bytes before the unread ones.
function body.new(chunks)
  return { chunks = chunks, start = 0, length = 0, at = 0, shift = 0, held = {}, held_from = nil, added = 0, changed = false }
end

local function hold_back(b)
  local bytes = b.chunk:getBytes(0, b.chunk:length())
  local passes = math.max(b.held_from - b.start + b.shift, 0)
  b.held[#b.held + 1] = string.sub(bytes, passes + 1)
  b.chunk:setBytes(string.sub(bytes, 1, passes))
  b.changed = true
end

-- The next bytes to read; nil at the end.
function body.more(b)
  while b.at == b.length do
    if b.held_from ~= nil and b.chunk ~= nil then hold_back(b) end
    b.start = b.start + b.length
    b.chunk, b.at, b.length, b.shift = b.chunks(), 0, 0, 0
    if b.chunk == nil then return nil end
    b.length = b.chunk:length()
  end
  local size = math.min(SLICE, b.length - b.at)
  b.at = b.at + size
  return b.chunk:getBytes(b.at - size + b.shift, size)
end

-- Holds back everything from `from` on.
function body.hold(b, from)
  b.held_from = b.held_from or from
end

-- `text`, which begins at `start`, with `edits` applied, which must be in order.
function body.edited(text, start, edits)
  local out, at = {}, 1
  for _, edit in ipairs(edits) do
    out[#out + 1] = string.sub(text, at, edit.from - start)
    out[#out + 1] = edit.text
    at = edit.to - start + 1
  end
  out[#out + 1] = string.sub(text, at)
  return table.concat(out)
end

local function whole_chunk(b)
  local bytes = b.chunk:getBytes(0, b.chunk:length())
  if #b.held == 0 then return bytes end
  b.held[#b.held + 1] = bytes
  return table.concat(b.held)
end

-- Applies edits to what is held, and lets it pass. They are in what is held, or in the current chunk.
function body.write(b, edits)
  if #edits > 0 or #b.held > 0 then
    local start = #b.held > 0 and b.held_from or b.start - b.shift
    local before = whole_chunk(b)
    local after = body.edited(before, start, edits)
    b.chunk:setBytes(after)
    b.added, b.changed = b.added + #after - #before, true
    b.shift = #after - b.length
  end
  b.held, b.held_from = {}, nil
end

return body
