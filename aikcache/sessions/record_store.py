"""Sessions in Redis: each question is one exchange, each change one script. All of them may be sent twice.

Where there should be replicas (behind Sentinel and on a cluster), a replica acknowledges what must survive a failover,
in the same packet (`WAIT`). Any thread; after `fork` the child connects again. Failure: `RemoteError`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._redis.cluster.client import Cluster
from aikcache._redis.origin import origin
from aikcache._redis.pool import Pool
from aikcache._redis.reply import Command, ErrorReply
from aikcache._redis.transport import Transport
from aikcache._remote.scripts import Script
from aikcache._settings.config import CacheConfig
from aikcache.errors import RemoteError, RemoteUnavailableError
from aikcache.sessions import record_scripts as scripts
from aikcache.sessions.records import DamagedError, Record, Tombstone, parse

Wait: TypeAlias = Literal["critical", "all", "none"]
_LOAD: Final = b"*2\r\n$7\r\nHGETALL\r\n$%d\r\n%b\r\n*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n"
_AT_ONCE: Final = 500
Item = TypeVar("Item")
_BROUGHT: Final = {b"to": bytes, b"changed": list}
"""What comes with a script's word."""
_SEEN: Final = ("~v", "~c", "~i", "~s", "~l", "~f")


class Limits(NamedTuple):
    """Milliseconds, bytes of the fields of one session, and their number."""

    touch: int
    grace: int
    bytes: int
    keys: int


class Call(NamedTuple):
    """A script for one key."""

    script: Script
    key: str
    arguments: tuple[str | bytes, ...]


class Outcome(NamedTuple):
    """A script's reply: a word, and its data."""

    word: str
    rest: list[Any]

    @property
    def left(self) -> int:
        """Milliseconds until the absolute end. Raises `RemoteError`."""
        try:
            return int(self.rest[0])
        except (LookupError, TypeError, ValueError):
            raise _refused(self.rest) from None


class Seen(NamedTuple):
    """A session in a subject's index. `record`: its `~v`, `~c`, `~i`, `~s`, `~l` and `~f`; `ttl` in milliseconds."""

    name: str
    listed_in: str
    finish: float
    record: list[bytes | None]
    ttl: int


class RecordStore:
    """The sessions of one instance."""

    def __init__(self, config: CacheConfig, limits: Limits, wait: Wait) -> None:
        where = origin(config)
        self._pool: Transport = Cluster(config, where) if where.clustered else Pool(config, where)
        self.waits = (where.clustered or bool(where.service)) and wait != "none"
        """Whether a replica must confirm critical changes."""
        self._always = wait == "all"
        self._wait: Command = ("WAIT", "1", str(max(int(config.timeout * 500), 1)))
        self._prefix = f"{config.instance}:"
        self._reporter = RateLimitedReporter()
        self.limits = limits
        self._pid = os.getpid()

    def load(self, name: str) -> Record | Tombstone | None:
        """A session; None: there is none. Raises `DamagedError`."""
        key = f"{self._prefix}session:{name}".encode()
        pool = self._own_pool()
        replies = pool.send(_LOAD % (len(key), key, len(key), key), 2)
        flat, ttl = pool.exchange([("HGETALL", key), ("PTTL", key)]) if replies is None else replies
        if type(flat) is not list:
            if isinstance(flat, ErrorReply) and str(flat) == "WRONGTYPE":
                raise DamagedError("something else under a session's name")
            raise _refused(flat)
        return parse(flat, ttl, self.limits.bytes, self.limits.keys)

    def lives(self, name: str) -> bool:
        """Whether a session exists now, under this name. False also if Redis cannot be reached."""
        try:
            return self._own_pool().exchange([("HEXISTS", f"{self._prefix}session:{name}", "~v")]) == [1]
        except RemoteError:
            return False

    def session(self, script: Script, name: str, *arguments: str | bytes) -> Call:
        """A script for a session."""
        return Call(script, f"{self._prefix}session:{name}", arguments)

    def index(self, subject: bytes, name: str, left: int) -> Call:
        """Files a session under its subject."""
        return Call(scripts.INDEX, f"{self._prefix}subject:{subject.decode('ascii', 'replace')}", (name, str(left)))

    def run(self, calls: Sequence[Call], *, critical: bool) -> Outcome:
        """Run scripts in this order; returns the last one's outcome. The others are those of an index."""
        if self._own_pool().ordered:
            return self._ask(calls, critical=critical)[-1]
        *indexes, last = ([call] for call in calls)
        for call in indexes:
            self._ask(call, critical=critical)
        outcome = self._ask(last, critical=critical)[-1]
        for call in indexes:  # again: who read the index in between has taken the session out, as one that is gone
            self._ask(call, critical=critical)
        return outcome

    def run_all(self, calls: Sequence[Call]) -> list[Outcome]:
        """Run scripts in any order, acknowledged."""
        return [outcome for part in _parts(calls) for outcome in self._ask(part, critical=True)]

    def _ask(self, calls: Sequence[Call], *, critical: bool) -> list[Outcome]:
        pool = self._own_pool()
        waits = self.waits and (critical or self._always)
        wait = [self._wait] if waits else []
        commands = [("EVALSHA", call.script.sha, "1", call.key, *call.arguments) for call in calls]
        replies = pool.exchange([*commands, *wait])
        if ErrorReply in map(type, replies) and "NOSCRIPT" in map(str, replies):
            commands = [("EVAL", call.script.text, "1", call.key, *call.arguments) for call in calls]
            replies = pool.exchange([*commands, *wait])
        if waits:
            self._check_confirmed(replies.pop())
        return [_outcome(reply) for reply in replies]

    def _check_confirmed(self, reply: Any) -> None:
        """Raises unless the reply shows that a replica has the change."""
        if type(reply) is int and reply >= 1:
            return
        if isinstance(reply, ErrorReply):
            self._reporter.report("session:wait", f"The server refuses WAIT, which sessions need here: {reply}.")
        raise RemoteUnavailableError("no replica confirmed the session's change in time: a failover may undo it.")

    def listed(self, subjects: Sequence[bytes]) -> list[Seen]:
        """The sessions in the indexes of a subject."""
        indexes = [f"{self._prefix}subject:{subject.decode()}" for subject in subjects]
        replies = self._own_pool().exchange([("ZRANGE", index, "0", "-1", "WITHSCORES") for index in indexes])
        found = [
            (name, index, finish)
            for index, reply in zip(indexes, replies, strict=True)
            for name, finish in _pairs(reply)
        ]
        return [seen for part in _parts(found) for seen in self._seen(part)]

    def _seen(self, found: Sequence[tuple[str, str, float]]) -> list[Seen]:
        keys = [f"{self._prefix}session:{name}" for name, _, _ in found]
        reads: list[Command] = [("HMGET", key, *_SEEN) for key in keys]
        replies = self._own_pool().exchange([*reads, *(("PTTL", key) for key in keys)])
        records, ttls = replies[: len(keys)], replies[len(keys) :]
        nothing: list[bytes | None] = [None] * len(_SEEN)
        return [
            Seen(*entry, record if type(record) is list else nothing, ttl if type(ttl) is int else -2)
            for entry, record, ttl in zip(found, records, ttls, strict=True)
        ]

    def prune(self, gone: Sequence[Seen]) -> None:
        """Remove sessions that no longer exist from their index."""
        for part in _parts(gone):
            self._own_pool().exchange([("ZREM", seen.listed_in, seen.name) for seen in part])

    def info(self) -> str:
        """`INFO memory` and `INFO persistence` of the server, or of one of a cluster's."""
        replies = self._own_pool().exchange([("INFO", "memory"), ("INFO", "persistence")])
        return "\n".join(reply.decode("utf-8", "replace") for reply in replies if type(reply) is bytes)

    def _own_pool(self) -> Transport:
        if self._pid != os.getpid():
            self._pool.forget()
            self._pid = os.getpid()
        return self._pool

    def close(self) -> None:
        self._pool.close()


def _parts(many: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Split into exchanges that end in time, however many sessions somebody has begun in another's name."""
    return (many[at : at + _AT_ONCE] for at in range(0, len(many), _AT_ONCE))


def _outcome(reply: Any) -> Outcome:
    if isinstance(reply, ErrorReply) and str(reply) == "WRONGTYPE":
        return Outcome("gone", [])
    if type(reply) is not list or not reply or type(reply[0]) is not bytes:
        raise _refused(reply)
    kind = _BROUGHT.get(reply[0])
    if kind is not None and set(map(type, reply[1:])) != {kind}:
        raise _refused(reply)
    return Outcome(reply[0].decode("ascii", "replace"), reply[1:])


def _pairs(reply: Any) -> list[tuple[str, float]]:
    """Names and scores."""
    if isinstance(reply, ErrorReply) and str(reply) != "WRONGTYPE":
        raise _refused(reply)
    flat = reply if type(reply) is list else []
    try:
        return [(name.decode("ascii", "replace"), float(at)) for name, at in zip(flat[::2], flat[1::2], strict=True)]
    except (AttributeError, TypeError, ValueError):
        raise _refused(reply) from None


def _refused(reply: object) -> RemoteUnavailableError:
    what = str(reply) if isinstance(reply, ErrorReply) else f"it answered with {type(reply).__name__}"
    return RemoteUnavailableError(f"the server refuses: {what}")
