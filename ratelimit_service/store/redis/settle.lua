-- Replace the reserved counts of requests by the true ones, and release their leases. Everything is read and computed
-- before anything is written, and a bucket that many requests were charged to is written once.
--
-- KEYS  for each settlement: the buckets of its charges, its leases' sorted sets, and, if there is a charge, its
--       request's reservations
-- ARGV  now; for each settlement: request id, number of charges, number of leases, whether it is late (1: without
--       reservations nothing is charged), the charges, with the true count as their hits
--
-- The reservations are {bucket key: {hits, mark}}; a settled request keeps an empty string in their place.

local now, values = clock(ARGV[1]), read_values()
local states, written_by, settled, releases = {}, {}, {}, {}

local function settle_charges(charges, stored)
  local reserved = stored and cmsgpack.unpack(stored) or {}
  for _, charge in ipairs(charges) do
    local state, reservation = states[charge.key] or open(charge, now), reserved[charge.key]
    if reservation then
      charge.algorithm.amend(state, charge, reservation[2], charge.hits - reservation[1])
    else
      charge.algorithm.charge(state, charge, charge.hits)
    end
    states[charge.key], written_by[charge.key], reserved[charge.key] = state, charge, nil
  end
end

local argument, key = 2, 1
while argument <= #ARGV do
  local charge_count, lease_count = tonumber(ARGV[argument + 1]), tonumber(ARGV[argument + 2])
  local late, first_lease = ARGV[argument + 3] == '1', key + charge_count
  local next_key = first_lease + lease_count
  if charge_count > 0 then
    local reservations_key, stored = KEYS[next_key], values[next_key]
    if stored ~= '' and (stored or not late) and not settled[reservations_key] then
      settle_charges(read_charges(values, key, charge_count, argument + 4), stored)
      settled[reservations_key] = true
    end
    next_key = next_key + 1
  end
  if lease_count > 0 then
    releases[#releases + 1] = { first_lease, first_lease + lease_count - 1, ARGV[argument] }
  end
  argument, key = argument + 4 + charge_count, next_key
end

for bucket, charge in pairs(written_by) do
  save(charge, states[bucket])
end
for reservations_key in pairs(settled) do
  redis.call('SET', reservations_key, '', 'PX', SETTLED_TTL_MS)
end
for _, release in ipairs(releases) do
  release_leases(unpack(release))
end
return redis.status_reply('OK')
