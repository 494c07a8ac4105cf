-- Admit or refuse one request. Everything is read and decided before anything is written.
--
-- KEYS   the buckets of the charges, the sorted sets of the leases (member: request id, score: end), and, if a charge
--        is reserved, the request's reservations
-- ARGV   now, request id, number of charges, number of leases; the charges; limit, ttl and shadow of each lease, packed
-- Reply  1 or 0; per charge: wait (-1: never), remaining, reset_after, mark; per lease: room (1 or 0), in use
--
-- CONSUME is false in the read-only variant, peek.

local now, request_id, charge_count, lease_count = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local values, leases, states = read_values(), {}, {}
local charges = read_charges(values, 1, charge_count, 5)
local reservations_key, reserved_before = KEYS[charge_count + lease_count + 1], values[charge_count + lease_count + 1]

local function weigh_charges()
  local passes = true
  for _, charge in ipairs(charges) do
    local state = states[charge.key] or open(charge, now)
    charge.wait = charge.algorithm.wait(state, charge, charge.hits)
    charge.algorithm.charge(state, charge, charge.hits)
    charge.mark = charge.algorithm.mark(state, charge)
    states[charge.key] = state
    passes = passes and (charge.wait == 0 or charge.shadow)
  end
  return passes
end

local function weigh_leases()
  local passes = true
  for i = 1, lease_count do
    local limit, ttl, shadow = struct.unpack('<ddB', ARGV[4 + charge_count + i])
    local lease = { key = KEYS[charge_count + i], ttl = ttl }
    lease.in_use = redis.call('ZCOUNT', lease.key, string.format('(%.0f', now), '+inf')
    lease.held = tonumber(redis.call('ZSCORE', lease.key, request_id) or 0) > now
    lease.room = lease.held or lease.in_use < limit
    leases[i] = lease
    passes = passes and (lease.room or shadow == 1)
  end
  return passes
end

local function keep_charges()
  for _, charge in ipairs(charges) do
    if charge.hits > 0 or charge.stepped then
      save(charge, states[charge.key])
    end
  end
end

local function keep_reservations()
  local reserved = reserved_before and cmsgpack.unpack(reserved_before) or {}
  for _, charge in ipairs(charges) do
    if charge.reserve then
      local before = reserved[charge.key] or { 0 }
      reserved[charge.key] = { before[1] + charge.hits, charge.mark }
    end
  end
  redis.call('SET', reservations_key, cmsgpack.pack(reserved), 'PX', RESERVATION_TTL_MS)
end

local function keep_leases()
  for _, lease in ipairs(leases) do
    redis.call('ZREMRANGEBYSCORE', lease.key, '-inf', now)
    hold_lease(lease.key, request_id, now, lease.ttl)
    lease.in_use = lease.in_use + (lease.held and 0 or 1)
  end
end

-- A lease that ends later than its time to live from now was taken before the clock stepped back. If it blocks the
-- request, it ends as if renewed just now.
local function heal_leases()
  for _, lease in ipairs(leases) do
    local latest = now + lease.ttl
    local ahead = lease.room and {}
      or redis.call('ZRANGE', lease.key, string.format('(%.0f', latest + STEP_MS), '+inf', 'BYSCORE')
    for _, holder in ipairs(ahead) do
      redis.call('ZADD', lease.key, latest, holder)
    end
  end
end

local function answer(allowed, consumed)
  local reply, n = { allowed and 1 or 0 }, 1
  for _, charge in ipairs(charges) do
    local state = consumed and states[charge.key] or open(charge, now)
    reply[n + 1] = charge.wait or -1
    reply[n + 2] = charge.algorithm.remaining(state, charge)
    reply[n + 3] = charge.ends_in or charge.algorithm.reset_after(state, charge)
    reply[n + 4] = charge.mark
    n = n + 4
  end
  for _, lease in ipairs(leases) do
    reply[n + 1], reply[n + 2] = lease.room and 1 or 0, lease.in_use
    n = n + 2
  end
  return reply
end

-- A decision may come late: its caller gave up waiting, and the request ran, ended and was settled.
local function settled_already()
  return reserved_before == ''
end

local charges_pass, leases_pass = weigh_charges(), weigh_leases()
local allowed = charges_pass and leases_pass
local consumed = allowed and CONSUME and not settled_already()
if consumed then
  keep_charges()
  keep_leases()
  if reservations_key then
    keep_reservations()
  end
elseif CONSUME then
  for _, charge in ipairs(charges) do
    if charge.stepped then
      save(charge, open(charge, now))
    end
  end
end
if CONSUME then
  heal_leases()
end
return answer(allowed, consumed)
