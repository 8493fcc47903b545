"""Lua scripts: what must be read and written in one step. Every script keeps to one slot. Redis 7.0 or later.

A lease is the owner's 16-byte token followed by the digest of the stamps it loads under. Scripts are called by their
SHA-1. If a server does not know one (it restarted, or ran `SCRIPT FLUSH`), the caller sends the text once.
"""

from __future__ import annotations

import hashlib


class Script:
    """A script's text and its SHA-1."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


TAIL = 16
"""Bytes at the end of a frame that identify it: its checksum or its authentication tag."""

ACQUIRE = Script("""
-- KEYS: value, lease. ARGV: token, digest, lease ms, tail of the value already seen as stale, the bytes that no value
-- of ours has. Gives {value, pttl} when there is another value, the lease's pttl when somebody holds it, 'OK' when it
-- is ours.
local value = redis.pcall('GET', KEYS[1])  -- what is no string, or too long, is not ours, and is overwritten
if type(value) == 'string' and #value < tonumber(ARGV[5]) and string.sub(value, -16) ~= ARGV[4] then
  return {value, redis.call('PTTL', KEYS[1])}
end
local lease = redis.pcall('GET', KEYS[2])
-- a lease under other stamps is a doomed load's; one without end, or with a far one, is nobody's: they are taken over
if type(lease) == 'string' and string.sub(lease, 1, 16) ~= ARGV[1] and string.sub(lease, 17) == ARGV[2] then
  local left = redis.call('PTTL', KEYS[2])
  if left >= 0 and left <= math.max(tonumber(ARGV[3]) * 100, 600000) then return left end
end
return redis.call('SET', KEYS[2], ARGV[1] .. ARGV[2], 'PX', ARGV[3])
""")

STORE = Script("""
-- KEYS: value, lease. ARGV: token, frame, ms to keep. 1 when it was stored: the lease was still this loader's.
local lease = redis.pcall('GET', KEYS[2])
if type(lease) ~= 'string' or string.sub(lease, 1, 16) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('UNLINK', KEYS[2])
return 1
""")

HOLD = Script("""
-- KEYS: lease. ARGV: token, ms to hold on (0: let go). 1 when it was this loader's.
local lease = redis.pcall('GET', KEYS[1])
if type(lease) ~= 'string' or string.sub(lease, 1, 16) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('UNLINK', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
""")

STAMP = Script("""
-- KEYS: stamp. ARGV: a fresh stamp, ms that it must live at least, ms that it is given when it would not. Gives the
-- stamp, made when there was none, whether anything was written, and the ms that it will live. (A PEXPIRE is pushed
-- like a write, so what is given is more than need be: rare.) What is no stamp is none.
local stamp = redis.pcall('GET', KEYS[1])
if type(stamp) ~= 'string' or #stamp ~= 8 then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
  return {ARGV[1], 1, tonumber(ARGV[3])}
end
local left = redis.call('PTTL', KEYS[1])
if left < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {stamp, 1, tonumber(ARGV[3])}
end
return {stamp, 0, left}
""")

RECORD_RUN = Script("""
-- KEYS: the stamp of everything, this start's claim. ARGV: a fresh stamp, ms of the claim, ms of the stamp. 1 when this
-- call was the first.
if not redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1
""")

DROP = Script("""
-- KEYS: any. ARGV: the bytes that nothing of ours there has. 1 when something else was there: it is gone.
local size = redis.pcall('STRLEN', KEYS[1])
if type(size) == 'number' and size < tonumber(ARGV[1]) then return 0 end
if type(size) ~= 'number' and string.sub(size['err'], 1, 9) ~= 'WRONGTYPE' then return 0 end
redis.call('UNLINK', KEYS[1])
return 1
""")

MAX_SNAPSHOT = 2 << 20
"""Bytes of one snapshot, and of the totals of the dead, that are read: both are written shorter."""
MAX_LISTED = 1000
_ID = 16
"""Hexadecimal digits of a process's id, and of a list's generation."""

# What is no string, too long, or no list of ours is none, and is overwritten: whoever may write here could otherwise
# end publishing for good, or have every process that publishes parse whatever lies there.
_OURS = f"""
local function text_at(key)
  local size = redis.pcall('STRLEN', key)
  if type(size) ~= 'number' or size > {MAX_SNAPSHOT} then return '' end
  return redis.call('GET', key) or ''
end
local function listed(key)
  local size = redis.pcall('STRLEN', key)
  if type(size) ~= 'number' or size > {MAX_LISTED * (_ID + 1) + _ID} then return nil end
  local list = redis.call('GET', key)
  if not list or string.gsub(' ' .. list, ' ' .. string.rep('[0-9a-f]', {_ID}), '') ~= '' then return nil end
  return list
end
"""

PUBLISH = Script(f"""
-- KEYS: the list, totals of the dead, this process's snapshot. ARGV: its id, its snapshot (the first 16 characters grow
-- with what it counts), ms to keep, the list's generation as it knows it or '', another one, '1' if this id was
-- published under it. The list is a generation and the ids that are counted. Gives the generation; 'gone' when there is
-- no list though one was known; 'folded' when this process was taken for dead, and what it had published has been added
-- to the totals of the dead.{_OURS}
local list = listed(KEYS[1])
if not list then
  if ARGV[4] ~= '' then return 'gone' end
  list = ARGV[5]
end
if not string.find(list, ' ' .. ARGV[1], 1, true) then
  if ARGV[6] == '1' and string.sub(list, 1, 16) == ARGV[4] then return 'folded' end
  if #list > {(_ID + 1) * MAX_LISTED} then return redis.error_reply('ERR too many processes') end
  list = list .. ' ' .. ARGV[1]
end
redis.call('SET', KEYS[1], list, 'PX', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
local counted = string.match(text_at(KEYS[3]), '^' .. string.rep('[0-9a-f]', {_ID}))
if not counted or counted <= string.sub(ARGV[2], 1, 16) then
  redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
end
return string.sub(list, 1, 16)
""")

SNAPSHOTS = Script(f"""
-- KEYS: the list, totals of the dead, snapshots. Gives the list, the totals, and for each snapshot it and how long it
-- will live.{_OURS}
local found = {{listed(KEYS[1]) or '', text_at(KEYS[2])}}
for i = 3, #KEYS do
  found[#found + 1] = text_at(KEYS[i])
  found[#found + 1] = redis.call('PTTL', KEYS[i])
end
return found
""")

FOLD = Script(f"""
-- KEYS: the list, totals of the dead, snapshots. ARGV: the totals as they were read, the new ones, ms to keep, then for
-- each snapshot its id and what was read. 1 when nothing had changed: the snapshots are a part of the totals.{_OURS}
local list = listed(KEYS[1])
if not list or text_at(KEYS[2]) ~= ARGV[1] then return 0 end
for i = 3, #KEYS do
  if text_at(KEYS[i]) ~= ARGV[2 * i - 1] then return 0 end
end
for i = 3, #KEYS do
  list = string.gsub(list, ' ' .. ARGV[2 * i - 2], '')
  redis.call('UNLINK', KEYS[i])
end
redis.call('SET', KEYS[1], list, 'PX', ARGV[3])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
""")

RESTORE = Script(f"""
-- KEYS: the list, totals of the dead, snapshots. ARGV: the list, the totals, ms to keep, the snapshots. 1 when all
-- was gone: what Redis has lost is there again, as it was last read.{_OURS}
if listed(KEYS[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
if ARGV[2] ~= '' then redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) end
for i = 3, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[3]) end
return 1
""")

ALL = (ACQUIRE, STORE, HOLD, STAMP, DROP, PUBLISH, SNAPSHOTS, FOLD, RESTORE)
