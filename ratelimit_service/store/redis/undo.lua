-- Undo what an admitted part of a request consumed, because another part of it was refused; or refund charges.
--
-- KEYS  as for decide
-- ARGV  now, request id, number of charges, number of leases; the charges; the mark of each charge, if it is known

local now, request_id, charge_count, lease_count = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local charges, states = read_charges(read_values(), 1, charge_count, 5), {}

for i, charge in ipairs(charges) do
  local state = states[charge.key] or open(charge, now)
  local mark = tonumber(ARGV[4 + charge_count + i]) or charge.algorithm.mark(state, charge)
  charge.algorithm.amend(state, charge, mark, -charge.hits)
  states[charge.key] = state
end
for _, charge in ipairs(charges) do
  save(charge, states[charge.key])
end
release_leases(charge_count + 1, charge_count + lease_count, request_id)
if KEYS[charge_count + lease_count + 1] then
  redis.call('DEL', KEYS[charge_count + lease_count + 1])
end
return redis.status_reply('OK')
