-- Renew the lease of one request; an expired one is not revived.
--
-- KEYS   the lease's sorted set
-- ARGV   now, request id, ttl
-- Reply  1 if the lease is held, else 0

local now, request_id, ttl = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local ends = tonumber(redis.call('ZSCORE', KEYS[1], request_id) or 0)
if ends <= now then
  return 0
end
hold_lease(KEYS[1], request_id, now, ttl)
return 1
