"""The hash of a key ring in Redis: read as a whole, asked for its counter, and changed only if unchanged since the
reading.

Every change raises the counter in the same script. All changes but a revocation are made only while the counter is the
one that was read. All scripts may be sent twice. Any thread. Failure: `RemoteError`, or `KeyRingError` if another type
of value is under the ring's name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from aikcache._redis.cluster.client import Cluster
from aikcache._redis.origin import origin
from aikcache._redis.pool import Pool
from aikcache._redis.reply import Command, ErrorReply
from aikcache._redis.transport import Transport
from aikcache._settings.config import CacheConfig
from aikcache.errors import ConfigError, KeyRingError, RemoteUnavailableError

LARGEST: Final = 2**20
"""More bytes than any ring has: a reply that announces more is not read."""
_ANY: Final = "*"
_CHANGE: Final = """
-- KEYS: ring. ARGV: the counter that was read ('*': whatever it is), the least that it becomes, how many pairs to set,
-- the pairs, and the fields to delete. 1: done. 0: somebody else has changed the ring.
local count = redis.call('HGET', KEYS[1], 'g') or ''
if not string.match(count, '^%d+$') or #count > 15 then count = '' end
if ARGV[1] ~= '*' and ARGV[1] ~= count then return 0 end
local last = 3 + 2 * tonumber(ARGV[3])
for at = 4, last, 2 do redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
for at = last + 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[at]) end
local now = math.max((tonumber(count) or 0) + 1, tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'g', string.format('%.0f', now))
return 1
"""


def config_of(url: str | None, instance: str) -> CacheConfig:
    """How a ring reaches its server. Raises `ConfigError` if no server is configured."""
    url = url or os.environ.get("AIKCACHE_SESSION_URL") or os.environ.get("AIKCACHE_URL")
    if not url:
        raise ConfigError("the key ring needs a server: pass url=, or set AIKCACHE_SESSION_URL or AIKCACHE_URL.")
    return CacheConfig(url=url, instance=instance, max_value_bytes=LARGEST)


class Reading(NamedTuple):
    """The primary's time in milliseconds, and the hash."""

    time: int
    fields: dict[bytes, bytes]


class RingStore:
    """The ring of one instance."""

    def __init__(self, config: CacheConfig) -> None:
        where = origin(config)
        self._pool: Transport = Cluster(config, where) if where.clustered else Pool(config, where)
        # Without a replica WAIT takes its whole time, so it is sent only where there should be one.
        waits = where.clustered or where.service
        self._wait = [("WAIT", "1", str(max(int(config.timeout * 500), 1)))] if waits else []
        self._name = f"{config.instance}:keyring"

    @property
    def generation(self) -> int:
        """Changes after a restart or a failover that was noticed."""
        return self._pool.generation

    def count(self) -> bytes:
        """The counter; b"" where there is none."""
        count = self._ask([("HGET", self._name, "g")])[0]
        return count if isinstance(count, bytes) else b""

    def read(self) -> Reading:
        time, flat = self._ask([("TIME",), ("HGETALL", self._name)])
        try:
            if type(time) is not list or set(map(type, flat)) - {bytes}:
                raise TypeError
            return Reading(_milliseconds(time), dict(zip(flat[::2], flat[1::2], strict=True)))
        except (TypeError, ValueError, LookupError):  # else it would end the thread that learns of revocations
            raise RemoteUnavailableError("the server's answer is no hash, or no time") from None

    def change(
        self, count: bytes | None, put: Mapping[bytes, bytes], drop: Iterable[bytes] = (), least: int = 0
    ) -> bool:
        """Set and delete fields, if the counter is still `count` (None: in any case). False: it has changed.

        The counter becomes at least `least`.
        """
        pairs = [part for pair in put.items() for part in pair]
        expected = _ANY if count is None else count
        script = ("EVAL", _CHANGE, "1", self._name, expected, str(least), str(len(put)), *pairs, *drop)
        if self._wait:
            done, confirmed = self._confirmed(script, put)
        else:
            done, confirmed = self._ask([script])[0], 1
        self.unconfirmed = done == 1 and not (type(confirmed) is int and confirmed >= 1)
        return bool(done == 1)

    unconfirmed = False
    """Whether no replica confirmed the last change."""

    def _confirmed(self, script: Command, put: Mapping[bytes, bytes]) -> list[Any]:
        """The replies to the script and to WAIT. If WAIT is refused, for example by an ACL, the change still counts."""
        try:
            done, confirmed = self._pool.exchange([script, *self._wait])
        except RemoteUnavailableError:  # it does not say which of the two was refused
            there = self._ask([("HMGET", self._name, *put)])[0] == list(put.values())
            return [1 if there else self._ask([script])[0], None]
        return [*_checked([done], self._name), confirmed]

    def _ask(self, commands: list[Any]) -> list[Any]:
        return _checked(self._pool.exchange(commands), self._name)

    def forget(self) -> None:
        """Reset after a fork, in the child."""
        self._pool.forget()

    def close(self) -> None:
        self._pool.close()


def _checked(replies: list[Any], name: str) -> list[Any]:
    """The replies. Raises if one is an error."""
    for reply in replies:
        if isinstance(reply, ErrorReply):
            if str(reply) == "WRONGTYPE":
                raise KeyRingError(
                    f"{name} in Redis is no hash, so it is no key ring. Nothing was made in its place: "
                    "restore it from a backup, or delete it to begin a new ring, which ends all that was sealed."
                )
            raise RemoteUnavailableError(f"the server refuses: {reply}")
    return replies


def _milliseconds(time: Any) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000
