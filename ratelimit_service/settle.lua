-- Put the true counts of one request in the place of its reserved ones, and give its leases back.
--
-- KEYS  the buckets of the charges, the leases' sorted sets, and, if there is a charge, the request's reservations
-- ARGV  now, request id, number of charges, number of leases; the charges, with the true count as their hits; whether it
--       is late: then what has no reservations any more is left as it is
--
-- The reservations are {bucket key: {hits, mark}}; a settled request keeps an empty string in their place.

local now, request_id, charge_count, lease_count = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local reservations_key = KEYS[charge_count + lease_count + 1]
local late = ARGV[5 + charge_count] == '1'
local stored = reservations_key and redis.call('GET', reservations_key)

if reservations_key and stored ~= '' and (stored or not late) then
  local charges, states = read_charges(charge_count, 5), {}
  local reserved = stored and cmsgpack.unpack(stored) or {}
  for _, charge in ipairs(charges) do
    local state, reservation = states[charge.key] or open(charge, now), reserved[charge.key]
    if reservation then
      charge.algorithm.amend(state, charge.limit, reservation[2], charge.hits - reservation[1])
    else
      charge.algorithm.charge(state, charge.limit, charge.hits)
    end
    states[charge.key], reserved[charge.key] = state, nil
  end
  for _, charge in ipairs(charges) do
    save(charge, states[charge.key])
  end
  redis.call('SET', reservations_key, '', 'PX', SETTLED_TTL_MS)
end

release_leases(charge_count + 1, charge_count + lease_count, request_id)
return redis.status_reply('OK')
