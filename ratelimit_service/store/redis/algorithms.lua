-- The twin of algorithms.py for Redis: the same states, the same six questions, the same integers.
--
-- Lua 5.1 counts in doubles, exact for integers up to 2^53. Counts and amounts stay below 2^40 and a year has 2^35 ms,
-- so only products need care: muldiv. The quotient of two integers below 2^53 never rounds up to the next integer
-- (1/b is wider than half the spacing of the doubles around a/b), so floor(a / b) and % are exact as well.
--
-- A limit is {amount, period, capacity}. A state is a table for one `now`: load(packed, limit, now) opens it,
-- pack(state) closes it. Times are packed as offsets from their window's start, which keeps a window below 45 bytes.
--
-- Redis runs a script from its first line at every call, and making a function costs 0.1 µs: so each algorithm is made
-- on first use, and most calls use one.

local floor, max, min = math.floor, math.max, math.min
local pack, unpack_state = cmsgpack.pack, cmsgpack.unpack

local MAX_AMOUNT = 2 ^ 40 - 1
local EXACT = 2 ^ 53
local DIGIT = 2 ^ 10

-- floor(a * b / c) and the remainder, for a, b, c up to 2^40: where the product is too large, long division with the
-- digits of a in base 2^10, so that none exceeds 2^51. A quotient above 2^53 is rounded; callers clamp it.
local function muldiv(a, b, c)
  local product = a * b
  if product <= EXACT then
    return floor(product / c), product % c
  end
  local quotient, rest, scale = 0, 0, DIGIT * DIGIT * DIGIT
  while scale >= 1 do
    local value = rest * DIGIT + floor(a / scale) % DIGIT * b
    quotient, rest = quotient * DIGIT + floor(value / c), value % c
    scale = scale / DIGIT
  end
  return quotient, rest
end

local function ceil_muldiv(a, b, c)
  local quotient, rest = muldiv(a, b, c)
  return rest > 0 and quotient + 1 or quotient
end

local function clamped(count)
  return min(max(count, 0), MAX_AMOUNT)
end

local function make_fixed_window()
  local fixed_window = {}

  function fixed_window.load(packed, limit, now)
    local index, stored, count = floor(now / limit.period)
    if packed then
      stored, count = unpack_state(packed)
    end
    if packed and index <= stored then
      return { index = stored, count = count, now = now }
    end
    return { index = index, count = 0, now = now }
  end

  function fixed_window.pack(state)
    return pack(state.index, state.count)
  end

  function fixed_window.charge(state, limit, hits)
    state.count = clamped(state.count + hits)
  end

  function fixed_window.remaining(state, limit)
    return max(0, limit.amount - state.count)
  end

  function fixed_window.reset_after(state, limit)
    return (state.index + 1) * limit.period - state.now
  end

  function fixed_window.wait(state, limit, hits)
    local need = max(hits, 1)
    if need > limit.amount then
      return nil
    end
    return need <= fixed_window.remaining(state, limit) and 0 or fixed_window.reset_after(state, limit)
  end

  function fixed_window.mark(state)
    return state.index
  end

  function fixed_window.amend(state, limit, mark, difference)
    if mark == state.index or difference > 0 then
      fixed_window.charge(state, limit, difference)
    end
  end

  return fixed_window
end

local function make_sliding_window()
  local function stretch(count, first, last, start)
    return { count = count, first = start + first, last = start + last }
  end

  local function offsets(self, start)
    if self.count == 0 then
      return 0, 0
    end
    return self.first - start, self.last - start
  end

  local function hold(self, count)
    self.count = clamped(count)
    if self.count == 0 then
      self.first, self.last = 0, 0
    end
  end

  local function add(self, hits, at)
    if hits > 0 then
      self.first, self.last = self.count > 0 and self.first or at, at
    end
    hold(self, self.count + hits)
  end

  local function correct(self, difference, otherwise)
    if self.count > 0 then
      hold(self, self.count + difference)
    else
      add(self, difference, otherwise)
    end
  end

  local function counting(self, period, now)
    local left = self.last + period - now
    if self.count == 0 or left <= 0 then
      return 0
    elseif now < self.first + period then
      return self.count
    end
    return ceil_muldiv(max(self.count - 1, 1), left, self.last - self.first)
  end

  local function falls_to(self, room, period)
    if self.count <= room then
      return 0
    end
    return self.last + period - muldiv(room, self.last - self.first, max(self.count - 1, 1))
  end

  local sliding_window = {}

  function sliding_window.load(packed, limit, now)
    local index = floor(now / limit.period)
    local previous, current
    if packed then
      local stored, old_count, old_first, old_last, count, first, last = unpack_state(packed)
      local start = stored * limit.period
      if index <= stored then
        index, previous = stored, stretch(old_count, old_first, old_last, start - limit.period)
        current = stretch(count, first, last, start)
      elseif index == stored + 1 then
        previous = stretch(count, first, last, start)
      end
    end
    local start = index * limit.period
    return {
      index = index,
      previous = previous or stretch(0, 0, 0, 0),
      current = current or stretch(0, 0, 0, 0),
      before = start - limit.period,
      start = start,
      now = now,
    }
  end

  function sliding_window.pack(state)
    local previous, current = state.previous, state.current
    local old_first, old_last = offsets(previous, state.before)
    local first, last = offsets(current, state.start)
    return pack(state.index, previous.count, old_first, old_last, current.count, first, last)
  end

  function sliding_window.charge(state, limit, hits)
    add(state.current, hits, max(state.now, state.start, state.current.last))
  end

  function sliding_window.wait(state, limit, hits)
    local room = limit.amount - max(hits, 1)
    if room < 0 then
      return nil
    end
    local free_at
    if state.current.count <= room then
      free_at = falls_to(state.previous, room - state.current.count, limit.period)
    else
      free_at = falls_to(state.current, room, limit.period)
    end
    return max(0, free_at - state.now)
  end

  function sliding_window.remaining(state, limit)
    return max(0, limit.amount - state.current.count - counting(state.previous, limit.period, state.now))
  end

  function sliding_window.reset_after(state, limit)
    local newest = state.current.count > 0 and state.current or state.previous
    return max(0, falls_to(newest, 0, limit.period) - state.now)
  end

  function sliding_window.mark(state)
    return state.index
  end

  function sliding_window.amend(state, limit, mark, difference)
    if mark == state.index then
      correct(state.current, difference, max(state.now, state.start))
    elseif mark == state.index - 1 then
      correct(state.previous, difference, state.start - 1)
    elseif difference > 0 then
      sliding_window.charge(state, limit, difference)
    end
  end

  return sliding_window
end

-- level whole hits and part period-ths of one are owed; `at` is the latest time the bucket has seen.
local function make_token_bucket()
  local token_bucket = {}

  -- How much drains in `time`: whole hits, and period-ths of one.
  local function drainage(limit, time)
    return muldiv(min(max(0, time), MAX_AMOUNT), limit.amount, limit.period)
  end

  local function drain(self, limit, whole, part)
    self.level, self.part = self.level - whole, self.part - part
    if self.part < 0 then
      self.level, self.part = self.level - 1, self.part + limit.period
    end
    if self.level < 0 then
      self.level, self.part = 0, 0
    end
  end

  function token_bucket.load(packed, limit, now)
    if not packed then
      return { level = 0, part = 0, at = now, now = now }
    end
    local level, part, at = unpack_state(packed)
    local state = { level = level, part = part, at = max(at, now), now = now }
    drain(state, limit, drainage(limit, now - at))
    return state
  end

  function token_bucket.pack(state)
    return pack(state.level, state.part, state.at)
  end

  function token_bucket.charge(state, limit, hits)
    state.level = min(state.level + hits, MAX_AMOUNT)
  end

  -- How long until `level` hits and `part` period-ths have drained, from now.
  local function time_to_drain(state, limit, level, part)
    local whole, rest = muldiv(level, limit.period, limit.amount)
    return state.at - state.now + min(whole + math.ceil((rest + part) / limit.amount), MAX_AMOUNT)
  end

  function token_bucket.wait(state, limit, hits)
    local need = max(hits, 1)
    if need > limit.capacity then
      return nil
    end
    local excess = state.level - (limit.capacity - need)
    if excess < 0 or (excess == 0 and state.part == 0) then
      return 0
    end
    return time_to_drain(state, limit, excess, state.part)
  end

  function token_bucket.remaining(state, limit)
    return max(0, limit.capacity - state.level - (state.part > 0 and 1 or 0))
  end

  function token_bucket.reset_after(state, limit)
    if state.level == 0 and state.part == 0 then
      return 0
    end
    return time_to_drain(state, limit, state.level, state.part)
  end

  function token_bucket.mark(state, limit)
    return state.now + token_bucket.reset_after(state, limit)
  end

  function token_bucket.amend(state, limit, mark, difference)
    if difference >= 0 then
      token_bucket.charge(state, limit, difference)
      return
    end
    local whole, part = drainage(limit, mark - state.now)
    if whole >= -difference then
      whole, part = -difference, 0
    end
    drain(state, limit, whole, part)
  end

  return token_bucket
end

local MAKE = { f = make_fixed_window, s = make_sliding_window, t = make_token_bucket }
local made = {}

local function algorithm(letter)
  local found = made[letter]
  if not found then
    found = MAKE[letter]()
    made[letter] = found
  end
  return found
end
