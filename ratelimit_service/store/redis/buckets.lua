-- Shared by the scripts: the clock, charges with their buckets, and leases.
--
-- A charge is one packed argument: algorithm letter, amount, period, capacity, hits, shadow, reserve. The table made
-- from it is a limit as well.

-- Milliseconds. An empty argument means Redis's own clock, which all replicas of the service share.
local function clock(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

-- The value of each of KEYS; false if there is none, or if it is the leases' sorted set.
local function read_values()
  return #KEYS > 0 and redis.call('MGET', unpack(KEYS)) or {}
end

local function read_charges(values, first_key, count, first_argument)
  local charges = {}
  for i = 1, count do
    local letter, amount, period, capacity, hits, shadow, reserve =
      struct.unpack('<c1ddddBB', ARGV[first_argument + i - 1])
    charges[i] = {
      key = KEYS[first_key + i - 1],
      packed = values[first_key + i - 1],
      algorithm = algorithm(letter),
      amount = amount,
      period = period,
      capacity = capacity,
      hits = hits,
      shadow = shadow == 1,
      reserve = reserve == 1,
    }
  end
  return charges
end

-- The twin of clock_steps.py: a state that has seen a time well after `now` (the clock has stepped back) keeps its hits,
-- charged at `now`, so that it recovers within a period. A script that may write must save it: otherwise it would be
-- charged at each later `now` anew.
local function healed(state, charge, now)
  local latest = state.at or max(state.index * charge.period, state.current and state.current.last or 0)
  if latest - now <= STEP_MS then
    return state
  end
  state.now = latest
  local boundless = { amount = MAX_AMOUNT, capacity = MAX_AMOUNT, period = charge.period }
  local used = MAX_AMOUNT - charge.algorithm.remaining(state, boundless)
  charge.stepped = true
  local fresh = charge.algorithm.load(nil, charge, now)
  charge.algorithm.charge(fresh, charge, used)
  return fresh
end

local function open(charge, now)
  local state = charge.algorithm.load(charge.packed, charge, now)
  return charge.packed and healed(state, charge, now) or state
end

-- A saved state does not change any more: the time until it expires is stored with the charge.
local function save(charge, state)
  local ends_in = charge.algorithm.reset_after(state, charge)
  charge.ends_in = ends_in
  if ends_in > 0 then
    redis.call('SET', charge.key, charge.algorithm.pack(state), 'PX', ends_in + GRACE_MS)
  else
    redis.call('DEL', charge.key)
  end
end

-- Hold the lease for `ttl` from now, or longer if it is already held for longer.
local function hold_lease(key, request_id, now, ttl)
  redis.call('ZADD', key, 'GT', now + ttl, request_id)
  redis.call('PEXPIRE', key, max(ttl + GRACE_MS, redis.call('PTTL', key)))
end

local function release_leases(first, last, request_id)
  for i = first, last do
    redis.call('ZREM', KEYS[i], request_id)
  end
end
