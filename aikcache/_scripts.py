"""The Lua that runs in Redis: what must read and write in one step. Every script keeps to one slot; Redis 7.0 or later.

A lease is the owner's 16-byte token followed by the digest of the stamps it loads under. Scripts are called by their
SHA-1; a server that does not know one (restarted, `SCRIPT FLUSH`) is sent the text, once, by the caller.
"""

from __future__ import annotations

import hashlib


class Script:
    """A script's text and the SHA-1 that Redis knows it by."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


TAIL = 16
"""Bytes at the end of a frame that tell two frames apart: its checksum or its authentication tag is there."""

ACQUIRE = Script("""
-- KEYS: value, lease. ARGV: token, digest, lease ms, tail of the value already seen as stale, '1' to insist.
-- Gives {value, pttl} when another value has arrived, the lease's pttl when somebody holds it, 'OK' when it is ours.
if ARGV[5] ~= '1' then
  local value = redis.pcall('GET', KEYS[1])  -- what is no string is no value of ours, and is overwritten
  if type(value) == 'string' and string.sub(value, -16) ~= ARGV[4] then
    return {value, redis.call('PTTL', KEYS[1])}
  end
  local lease = redis.pcall('GET', KEYS[2])
  -- a lease under other stamps is a doomed load's: it is taken over
  if type(lease) == 'string' and string.sub(lease, 1, 16) ~= ARGV[1] and string.sub(lease, 17) == ARGV[2] then
    return redis.call('PTTL', KEYS[2])
  end
end
return redis.call('SET', KEYS[2], ARGV[1] .. ARGV[2], 'PX', ARGV[3])
""")

STORE = Script("""
-- KEYS: value, lease. ARGV: token, frame, ms to keep. 1 when it was stored: the lease was still this loader's.
local lease = redis.call('GET', KEYS[2])
if not lease or string.sub(lease, 1, 16) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('UNLINK', KEYS[2])
return 1
""")

HOLD = Script("""
-- KEYS: lease. ARGV: token, ms to hold on (0: let go). 1 when it was this loader's.
local lease = redis.call('GET', KEYS[1])
if not lease or string.sub(lease, 1, 16) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('UNLINK', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
""")

STAMP = Script("""
-- KEYS: stamp. ARGV: a fresh stamp, ms that entries under it may live. Gives the stamp, made when there was none,
-- and whether anything was written: it must outlive them. (A PEXPIRE is pushed like a write, so it doubles: rare.)
local stamp = redis.call('GET', KEYS[1])
if not stamp then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2] * 2)
  return {ARGV[1], 1}
end
local left = redis.call('PTTL', KEYS[1])
if left >= 0 and left < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2] * 2)
  return {stamp, 1}
end
return {stamp, 0}
""")

CLAIM = Script("""
-- KEYS: the stamp of everything, this start's claim. ARGV: a fresh stamp, ms. 1 when this call was the first.
if not redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
""")

ALL = (ACQUIRE, STORE, HOLD, STAMP)
