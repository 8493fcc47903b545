"""Lua scripts that change sessions in Redis: each one key, all or nothing, and safe to send twice.

A session is a hash: `~v` form, `~c` created, `~a` absolute end, `~i` idle time (milliseconds), `~e` epoch, `~w` the
last commit's token, `~s` `~u` `~l` subject and label, `~p` permanent, `~f` the last noted use since the absolute end
determines the TTL, which then does not show it; and a field `f<name>` for each key. Or it is a tombstone: `~x`, and if
the session continues under another id `~to` (the id, sealed) and `~n` (its name, if it has the same subject). Time is
the server's. Redis 7.0 or later.
"""

from __future__ import annotations

from aikcache._remote.scripts import Script

_PRELUDE = """
local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number) return string.format('%.0f', number) end
local function bury(token, grace, to, name)
  redis.call('DEL', key)
  redis.call('HSET', key, '~x', '1', '~w', token)
  if to then redis.call('HSET', key, '~to', to) end
  if name and name ~= '' then redis.call('HSET', key, '~n', name) end
  redis.call('PEXPIRE', key, grace)
end
local function live(idle, left, touch, fixed)
  if left <= 0 then redis.call('DEL', key) return {'gone'} end
  if left <= idle + touch then redis.call('HSET', key, '~f', text(now))
  elseif fixed then redis.call('HDEL', key, '~f') end
  redis.call('PEXPIRE', key, text(math.min(idle + touch, left)))
  return {'ok', text(left)}
end
local function all()
  local flat, found = redis.call('HGETALL', key), {}
  for at = 1, #flat, 2 do found[flat[at]] = flat[at + 1] end
  return found, flat
end
"""

CREATE = Script(
    _PRELUDE
    + """
-- ARGV: token, touch, idle, absolute time from now, created ('': now), absolute end ('': from now), pairs of fields.
local token = redis.call('HGET', key, '~w')
if redis.call('EXISTS', key) == 1 and token ~= ARGV[1] then return {'taken'} end
if redis.call('HEXISTS', key, '~x') == 1 then return {'taken'} end
local finish = tonumber(ARGV[6]) or (now + tonumber(ARGV[4]))
if not token then
  local created = ARGV[5] ~= '' and ARGV[5] or text(now)
  redis.call('HSET', key, '~v', '1', '~c', created, '~a', text(finish), '~i', ARGV[3], '~w', ARGV[1], unpack(ARGV, 7))
end
return live(tonumber(ARGV[3]), finish - now, tonumber(ARGV[2]), false)
"""
)

WRITE = Script(
    """
-- Where nobody has written since the caller read it, which also knows that all of it stays within the limits and that
-- its idle time ends first; else nothing is done, and UPDATE decides.
-- ARGV: token, the last commit's token that is known, absolute end, idle time with touch, pairs of fields.
local last = redis.call('HMGET', KEYS[1], '~w', '~f')
if last[1] == ARGV[2] and not last[2] then
  local time = redis.call('TIME')
  if ARGV[3] - ARGV[4] > time[1] * 1000 + time[2] / 1000 then
    redis.call('HSET', KEYS[1], '~w', ARGV[1], unpack(ARGV, 5))
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
    return {'ok'}
  end
end
return {'other'}
"""
)

UPDATE = Script(
    _PRELUDE
    + """
-- ARGV: token, epoch, touch, grace, most bytes, most keys, '1' to clear, from when a new absolute time counts ('now',
-- 'created', or ''), that time, how many pairs, the last commit's token that is known, the pairs, fields to delete.
local names, h = {'~x', '~to', '~w', '~v', '~e', '~i', '~a', '~f', '~c', '~s'}, {}
for at, value in ipairs(redis.call('HMGET', key, unpack(names))) do h[names[at]] = value end
if h['~x'] then
  if h['~w'] == ARGV[1] then return {'emptied'} end
  return h['~to'] and {'to', h['~to']} or {'ended'}
end
if not h['~v'] then return {'gone'} end
local idle, touch = tonumber(h['~i']), tonumber(ARGV[3])
if h['~w'] == ARGV[1] then return live(idle, h['~a'] - now, touch, h['~f']) end
if h['~e'] ~= ARGV[2] then return {'cleared'} end
local last, clears = 11 + 2 * tonumber(ARGV[10]), ARGV[7] == '1'
local flat, drop = {'~w', ARGV[1], unpack(ARGV, 12, last)}, {}
-- Where nobody has written since, and nothing is deleted, the caller has counted what there is.
if clears or #ARGV > last or h['~w'] ~= ARGV[11] then
  local found, set, count, bytes = all(), {}, 0, 0
  if clears then
    for name in pairs(found) do if string.sub(name, 1, 1) == 'f' then drop[name] = true end end
    drop['~s'], drop['~u'], drop['~l'] = true, true, true
    flat[#flat + 1], flat[#flat + 2] = '~e', text(h['~e'] + 1)
  end
  for at = last + 1, #ARGV do drop[ARGV[at]] = true end
  for at = 12, last, 2 do
    set[ARGV[at]] = ARGV[at + 1]
    drop[ARGV[at]] = nil
  end
  local function add(name, value)
    if string.sub(name, 1, 1) == 'f' then count, bytes = count + 1, bytes + #name - 1 + #value end
  end
  for name, value in pairs(found) do if not set[name] and not drop[name] then add(name, value) end end
  for name, value in pairs(set) do add(name, value) end
  -- A login that has no keys is one still, but for `clear()`, which is a logout.
  if count == 0 and not set['~s'] and (clears or (#ARGV > last and not h['~s'])) then
    bury(ARGV[1], ARGV[4])
    return {'emptied'}
  end
  if count > tonumber(ARGV[6]) or bytes > tonumber(ARGV[5]) then return {'large'} end
end
local finish = h['~a']
if ARGV[8] ~= '' then
  finish = text((ARGV[8] == 'now' and now or tonumber(h['~c'])) + ARGV[9])
  flat[#flat + 1], flat[#flat + 2] = '~a', finish
end
for name in pairs(drop) do redis.call('HDEL', key, name) end
redis.call('HSET', key, unpack(flat))
return live(idle, finish - now, touch, h['~f'])
"""
)

MOVE = Script(
    _PRELUDE
    + """
-- ARGV: token, epoch, the last commit's token that is known, grace, the new id, sealed, the new name ('': not told).
-- What was written since is given back instead, so that nothing of it is lost.
local h, flat = all()
if h['~x'] then
  if h['~w'] == ARGV[1] then return {'ok'} end
  return h['~to'] and {'to', h['~to']} or {'ended'}
end
if not h['~v'] then return {'gone'} end
if h['~e'] ~= ARGV[2] then return {'cleared'} end
if h['~w'] ~= ARGV[3] then return {'changed', flat} end
bury(ARGV[1], ARGV[4], ARGV[5], ARGV[6])
return {'ok'}
"""
)

END = Script(
    _PRELUDE
    + """
-- ARGV: token, grace, the subjects of which one is this session's (none: whoever's). A tombstone stands also where
-- nothing was: a session that is being made now is not made then.
local h = all()
if h['~x'] then
  if h['~w'] == ARGV[1] then return {'ok'} end
  return h['~to'] and {'to', h['~to'], h['~n']} or {'ended'}
end
if #ARGV > 2 and h['~v'] then
  local mine = false
  for at = 3, #ARGV do mine = mine or h['~s'] == ARGV[at] end
  if not mine then return {'other'} end
end
bury(ARGV[1], ARGV[2])
return {h['~v'] and 'ok' or 'gone'}
"""
)

TOUCH = Script(
    _PRELUDE
    + """
-- ARGV: touch.
local h = redis.call('HMGET', key, '~x', '~v', '~f', '~i', '~a')
if h[1] or not h[2] then return {'ended'} end
return live(tonumber(h[4]), h[5] - now, tonumber(ARGV[1]), h[3])
"""
)

INDEX = Script(
    _PRELUDE
    + """
-- KEYS: a subject's index. ARGV: a session's name, the milliseconds until its absolute end.
redis.call('ZADD', key, text(now + ARGV[2]), ARGV[1])
if redis.call('PTTL', key) < tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
return {'ok'}
"""
)
