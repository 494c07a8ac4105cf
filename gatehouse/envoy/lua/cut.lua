-- Ends the running streams of keys that were revoked with `gatehouse keys revoke --now`.
--
-- authz_service keeps the ids of such keys in a file. Envoy gives a script no way to reset a stream that has begun, so
-- the script shuts down the client's connection with the system call: Envoy then does what it does for every client
-- that disconnects, and the model server stops generating. On HTTP/2 the connection's other streams end, too.

local FILE = "@FILE@"
local LOOK_EVERY_MS = 500
local MOST_UNUSED = 4096 -- after this many descriptors in a row that are no connections, there are no more

local ffi = require("ffi")
ffi.cdef([[
  typedef struct { uint8_t bytes[128]; } gatehouse_address;
  int getpeername(int fd, gatehouse_address *address, uint32_t *size);
  int shutdown(int fd, int how);
  const char *inet_ntop(int family, const void *address, char *text, uint32_t size);
]])
local INET, INET6, BOTH_WAYS = 2, 10, 2

local cut, looked_at = {}, 0
local clients, walked_at = {}, 0

-- Read at most twice a second by each worker thread: the file is small and in memory.
local function is_cut(key_id, now)
  if now - looked_at >= LOOK_EVERY_MS then
    looked_at, cut = now, {}
    local file = io.open(FILE, "r")
    if file ~= nil then
      for id in file:lines() do cut[id] = true end
      file:close()
    end
  end
  return cut[key_id] == true
end

-- `address:port`, as Envoy writes it; nil if it is neither IPv4 nor IPv6.
local function peer_of(fd, address, size, text)
  size[0] = ffi.sizeof(address)
  if ffi.C.getpeername(fd, address, size) ~= 0 then return nil end
  local bytes = address.bytes
  local family, port = bytes[0] + 256 * bytes[1], 256 * bytes[2] + bytes[3]
  if family == INET then
    ffi.C.inet_ntop(INET, bytes + 4, text, 64)
    return ffi.string(text) .. ":" .. port
  elseif family == INET6 then
    ffi.C.inet_ntop(INET6, bytes + 8, text, 64)
    local mapped = string.match(ffi.string(text), "^::ffff:(%d+%.%d+%.%d+%.%d+)$") -- IPv4 on a dual-stack listener
    return (mapped or "[" .. ffi.string(text) .. "]") .. ":" .. port
  end
end

local address, size, text = ffi.new("gatehouse_address"), ffi.new("uint32_t[1]"), ffi.new("char[64]")

-- Maps clients to descriptors. One walk over all descriptors serves every stream that must end.
local function walk()
  local fd, unused = 3, 0
  clients = {}
  while unused < MOST_UNUSED do
    local peer = peer_of(fd, address, size, text)
    if peer ~= nil then
      clients[peer] = clients[peer] or {}
      table.insert(clients[peer], fd)
    end
    unused = peer == nil and unused + 1 or 0
    fd = fd + 1
  end
end

-- Whether the client's connection was found. A descriptor may have been reused since, so its peer is checked again.
local function hang_up(client, now)
  if clients[client] == nil and now - walked_at >= LOOK_EVERY_MS then
    walked_at = now
    walk()
  end
  local found = false
  for _, fd in ipairs(clients[client] or {}) do
    if peer_of(fd, address, size, text) == client then
      ffi.C.shutdown(fd, BOTH_WAYS)
      found = true
    end
  end
  clients[client] = nil
  return found
end

function envoy_on_response(handle)
  local kind = handle:headers():get("content-type")
  if kind == nil or string.sub(kind, 1, 17) ~= "text/event-stream" then return end
  local caller = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.ext_authz")
  local key_id = caller and caller["key_id"]
  if key_id == nil then return end
  for _ in handle:bodyChunks() do
    local now = handle:timestamp()
    if is_cut(key_id, now) and hang_up(handle:streamInfo():downstreamDirectRemoteAddress(), now) then return end
  end
end
