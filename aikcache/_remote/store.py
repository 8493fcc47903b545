"""The remote tier: the questions to Redis, each of them one round trip.

It handles keys, frames as bytes, stamps and leases. It knows nothing of values, functions or the local tier. Every
method blocks for one exchange and raises `RemoteError`; callers decide what to do without an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from aikcache._keys.keyspace import Keyspace
from aikcache._keys.patterns import ANY_TAG
from aikcache._redis.failures import LostReplyError
from aikcache._redis.reply import Command, ErrorReply
from aikcache._redis.transport import Server, Transport
from aikcache._remote import scripts
from aikcache._remote.commands import STAMP_BYTES, Commands, call, fresh_stamp
from aikcache._remote.observed import Report, round_trip
from aikcache._remote.replies import NAME, NOT_READ, NUMBER, VALUE, Busy, Life, Read, Stamp, are, are_like, granted
from aikcache._remote.scripts import Script
from aikcache._remote.stamps import Stamps
from aikcache._settings.limits import MAX_EXTRA
from aikcache.errors import RemoteUnavailableError

T = TypeVar("T")
LEAST = 0.01
"""Seconds for a second try, however long the first one took."""
_GET, _PTTL = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n", b"*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n"


def pack_names(names: Iterable[str]) -> bytes:
    """Names packed as arguments of a command."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(name), name) for name in map(str.encode, names)])


class RedisStore:
    """The Redis of one cache."""

    __slots__ = ("commands", "connections", "keyspace", "report", "stamps", "sweeps")

    def __init__(
        self, connections: Transport, keyspace: Keyspace, stamps: Stamps, report: Report | None = None
    ) -> None:
        self.connections = connections
        self.report = report  # called for each round trip
        self.keyspace = keyspace
        self.stamps = stamps
        self.commands = Commands(keyspace, stamps)
        self.sweeps = 0  # the number of running sweeps

    @property
    def writer(self) -> str:
        """This process's name in invalidation markers."""
        return self.commands.writer

    # Values and stamps

    @round_trip("get", several="many")
    def read(
        self, keys: Sequence[str], groups: Sequence[str], *, probing: bool = False
    ) -> tuple[list[Read], list[bytes | None]]:
        """Values, their remaining life, and the stamps of `groups`, which are read after them.

        `probing`: only if the servers that hold them would accept a write.
        """
        one = len(keys) == 1  # a GET reply that is too large is not read to its end; an array would be
        commands: list[Command] = [("GET", *keys) if one else ("MGET", *keys)]
        commands += [("PTTL", key) for key in keys]
        if groups:
            commands.append(("MGET", *map(self.keyspace.stamp, groups)))
        probes = self._probes(keys, groups) if probing else []
        replies = self._ask([*commands, *probes])[: len(commands)]
        stamps = self._stamps_of(replies.pop(), groups) if groups else []
        values, *pttls = replies if not one else [replies[:1], *replies[1:]]
        if not are(values, VALUE, len(keys)) or not are(pttls, NUMBER, len(keys)):
            raise self._unexpected()
        return [Read(data, pttl, []) for data, pttl in zip(values, pttls, strict=True)], stamps

    def fast_get(self, name: bytes, *, timed: bool) -> tuple[bytes | None, int] | None:
        """A value, and its remaining life if `timed`, by one prepared command; None: not possible."""
        size = len(name)
        if timed:
            replies = self.connections.send(_GET % (size, name) + _PTTL % (size, name), 2)
            if replies is None:
                return None
            data, pttl = replies
        else:
            replies = self.connections.send(_GET % (size, name), 1)
            if replies is None:
                return None
            (data,), pttl = replies, NOT_READ
        if type(data) not in VALUE or type(pttl) is not int:
            if type(data) is ErrorReply or type(pttl) is ErrorReply:
                return None
            raise self._unexpected()
        return data, pttl

    def fast_read(self, names: Sequence[bytes], *, timed: bool) -> tuple[list[bytes | None], list[int]] | None:
        """As `fast_get`, for several values: one MGET."""
        connections = self.connections
        if not connections.ordered:
            return None
        replies = connections.exchange([("MGET", *names), *(("PTTL", name) for name in (names if timed else ()))])
        found, pttls = replies[0], replies[1:]
        for reply in replies:
            if type(reply) is ErrorReply:
                return None
        if not are(found, VALUE, len(names)) or not are(pttls, NUMBER, len(pttls)):
            raise self._unexpected()
        return found, pttls or [NOT_READ] * len(names)

    def consult(self, name: bytes, packed_names: bytes, count: int) -> Read | None:
        """A value and its `count` stamps, whose names are packed, by one prepared command; None: not possible."""
        data = b"%b*%d\r\n$4\r\nMGET\r\n%b" % (_GET % (len(name), name), count + 1, packed_names)
        if (replies := self.connections.send(data, 2)) is None:
            return None
        value, stamps = replies
        if type(value) is ErrorReply or type(stamps) is ErrorReply:
            return None
        if type(value) not in VALUE or not are(stamps, VALUE, count):
            raise self._unexpected()
        return Read(value, NOT_READ, stamps)

    @round_trip("many")
    def consult_many(
        self, names: Sequence[bytes], groups: Sequence[str]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        """Values and stamps."""
        values, stamps = self._ask([("MGET", *names), ("MGET", *map(self.keyspace.stamp, groups))])
        if not are(values, VALUE, len(names)) or not are(stamps, VALUE, len(groups)):
            raise self._unexpected()
        return values, stamps

    @round_trip("many", keyed=False)
    def read_stamps(self, groups: Sequence[str], *, probing: bool = False) -> list[bytes | None]:
        """The current stamps of `groups`."""
        probes = self._probes((), groups) if probing else []
        return self._stamps_of(self._ask([("MGET", *map(self.keyspace.stamp, groups)), *probes])[0], groups)

    def drop_huge(self, keys: Sequence[str], groups: Sequence[str]) -> bool:
        """Remove values and stamps that are too large to be aikcache's. Whether there were any."""
        config = self.connections.config
        calls = [call(scripts.DROP, (key,), config.max_value_bytes + MAX_EXTRA) for key in keys]
        calls += [call(scripts.DROP, (self.keyspace.stamp(group),), STAMP_BYTES + 1) for group in groups]
        return any(self._ask(calls))

    @round_trip("lease", keyed=False)
    def ensure(self, groups: dict[str, Life]) -> list[Stamp]:
        """The stamps of `groups`. A missing one is created.

        A created stamp is pushed back to this process, and must not invalidate the current load. The stamp of any tag,
        when it is the last, is read after the others, on whichever nodes they are.
        """
        return self._retry_with_new_stamps(lambda within: self._ensure(groups, within))

    def _ensure(self, groups: dict[str, Life], within: float) -> list[Stamp]:
        commands: list[Command] = []
        made = [fresh_stamp() for _ in groups]
        for (group, life), stamp in zip(groups.items(), made, strict=True):
            self.stamps.expect(group, stamp)
            commands.append(call(scripts.STAMP, (self.keyspace.stamp(group),), stamp, str(life.least), str(life.given)))
        found: list[Stamp] = []
        last = -1 if groups and next(reversed(groups)) == ANY_TAG else len(commands)
        replies = self._ask_in_order(commands[:last], commands[last:], within)
        for group, stamp, reply in zip(groups, made, replies, strict=True):
            if not are_like(reply, (bytes, int, int)):
                raise self._unexpected()
            current, wrote, left = reply
            if not wrote:
                self.stamps.unexpect(group, stamp)
            found.append(Stamp(current, left, current == stamp))
        return found

    @round_trip("store")
    def put(self, items: Sequence[tuple[str, bytes, bytes, int]]) -> list[bool]:
        """As `store`, and inform all processes that the old values were invalidated."""
        markers = [command for key, *_ in items for command in self.commands.push_key(key)]
        replies = self._ask([self.commands.store(*item) for item in items], after=markers)
        return [bool(reply) for reply in replies[: len(items)]]

    # Leases

    @round_trip("lease")
    def acquire(self, wanted: Sequence[tuple[str, bytes, bytes, bytes]], lease_ms: int) -> list[Read | Busy | None]:
        """For each (key, token, digest, seen): the right to load (`None`), a value that has arrived, or `Busy`."""
        calls: list[Command] = []
        longest = self.connections.config.max_value_bytes + MAX_EXTRA
        for key, token, digest, seen in wanted:
            keys, tail = (key, self.keyspace.lease(key)), seen[-scripts.TAIL :]
            calls.append(call(scripts.ACQUIRE, keys, token, digest, lease_ms, tail, longest))
        try:
            return list(map(granted, self._ask(calls)))
        except TypeError:
            raise self._unexpected() from None

    @round_trip("lease")
    def take(self, wanted: Sequence[tuple[str, bytes, bytes]], lease_ms: int, *, unlink: bool) -> None:
        """For each (key, token, digest): the right to load, whoever had it. `unlink`: remove the current values."""
        life = str(lease_ms)
        calls: list[Command] = [
            ("SET", self.keyspace.lease(key), token + digest, "PX", life) for key, token, digest in wanted
        ]
        if unlink:
            calls.append(("UNLINK", *(key for key, *_ in wanted)))
        self._ask(calls)

    @round_trip("store")
    def store(self, items: Sequence[tuple[str, bytes, bytes, int]]) -> list[bool]:
        """Store each (key, token, frame, milliseconds) whose lease still has its token."""
        return [bool(reply) for reply in self._ask([self.commands.store(*item) for item in items])]

    @round_trip("lease")
    def hold(self, items: Sequence[tuple[str, bytes]], lease_ms: int) -> None:
        """Extend leases by `lease_ms`, or release them (0)."""
        self._ask([call(scripts.HOLD, (self.keyspace.lease(key),), token, lease_ms) for key, token in items])

    # Invalidation

    @round_trip("invalidate", keyed=False)
    def invalidate(self, groups: Sequence[str], keys: Sequence[str]) -> None:
        """Invalidate groups and keys for every process: one round trip, whatever the number of entries."""
        self._retry_with_new_stamps(lambda within: self._invalidate(groups, keys, within))

    def _invalidate(self, groups: Sequence[str], keys: Sequence[str], within: float) -> None:
        commands = self.commands.invalidations(groups, keys)
        first = 1 if ANY_TAG in groups else 0
        try:
            self._ask_in_order(commands[:first], commands[first:], within)
        except LostReplyError:
            raise
        except RemoteUnavailableError:
            # The node of the first command refuses; the other nodes are sent theirs all the same.
            if first and not self.connections.ordered:
                self._ask(commands[first:])
            raise

    def acknowledged(self, replicas: int, within: float) -> bool:
        """Whether `replicas` replicas have all earlier writes. Waits at most `within` seconds for them.

        Writes are replicated in their order, so a replica that has the key written here has all earlier writes.
        """
        markers = [self.commands.acknowledged_write(tag) for tag in self.connections.hash_tags()]
        acknowledged = self._ask([*markers, ("WAIT", str(replicas), str(max(int(within * 1000), 1)))])[-1]
        return type(acknowledged) is int and acknowledged >= replicas

    @round_trip("invalidate", keyed=False)
    def push_globs(self, globs: Sequence[str]) -> None:
        """Inform all local tiers, which drop the matches of these globs."""
        self._ask([command for glob in globs for command in self.commands.push_glob(glob)])

    def parts(self) -> Iterator[Server]:
        """The servers to scan, one by one."""
        return self.connections.parts()

    @round_trip("sweep", keyed=False)
    def scan(self, part: Server, cursor: bytes, pattern: str, count: int) -> tuple[bytes, list[bytes]]:
        command: Command = ("SCAN", cursor, "MATCH", pattern, "COUNT", str(count))
        (reply,) = _unrefused([command], part.exchange([command]))
        if type(reply) is not list or len(reply) != 2 or not are(reply[1], NAME, len(reply[1])):
            raise self._unexpected()
        cursor, found = reply
        if type(cursor) is not bytes or not cursor.isdigit():
            raise self._unexpected()
        return cursor, found

    @round_trip("sweep", keyed=False)
    def unlink(self, names: Sequence[bytes]) -> int:
        removed = self._ask([("UNLINK", *names)])[0]
        return removed if type(removed) is int else 0

    def _probes(self, keys: Sequence[str], groups: Sequence[str]) -> list[Command]:
        names = [*keys, *map(self.keyspace.stamp, groups)]
        if any(group.startswith("#") for group in groups):  # a tag's invalidation writes this stamp first
            names.append(self.keyspace.stamp(ANY_TAG))
        return [self.commands.probe(tag) for tag in self.connections.hash_tags_of(names)]

    @round_trip("ping", keyed=False)
    def ping(self) -> None:
        if self._ask([("PING",)]) != [b"PONG"]:
            raise self._unexpected()

    def call(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int, within: float) -> Any:
        """Run a script whose keys are in one slot. For code that keeps other records beside the values."""
        return self._ask([call(script, tuple(keys), *arguments)], within)[0]

    def after_fork(self) -> None:
        self.commands.rename()
        self.sweeps = 0
        self.connections.drop_idle()  # pools that are only forgotten keep their sockets until a garbage collection
        self.connections.forget()

    def _retry_with_new_stamps(self, work: Callable[[float], T]) -> T:
        """Run `work`, which writes stamps, within `timeout` seconds; again, with new stamps, if a reply was lost.

        Another process may have invalidated again since. The first stamp, written a second time, would make current
        what that invalidated.
        """
        timeout, started_at = self.connections.config.timeout, time.monotonic()
        try:
            return work(timeout)
        except LostReplyError:
            return work(max(timeout - (time.monotonic() - started_at), LEAST))

    def _ask(
        self,
        commands: list[Command],
        within: float | None = None,
        *,
        once: bool = False,
        after: Sequence[Command] = (),
    ) -> list[Any]:
        """The replies. `after`: commands that must follow all the others, so they are sent again where those are."""
        replies = self.connections.exchange([*commands, *after], within, once=once)
        again = [i for i, reply in enumerate(replies) if type(reply) is ErrorReply and str(reply) == "NOSCRIPT"]
        again = [i for i in again if i < len(commands) and commands[i][0] == "EVALSHA"]
        if again:
            texts = {script.sha: script.text for script in scripts.ALL}
            calls: list[Command] = [("EVAL", texts[str(commands[i][1])], *commands[i][2:]) for i in again]
            again += range(len(commands), len(replies))
            for i, reply in zip(again, self.connections.exchange([*calls, *after], within, once=once), strict=True):
                replies[i] = reply
        return _unrefused([*commands, *after], replies)

    def _stamps_of(self, replies: Any, groups: Sequence[str]) -> list[bytes | None]:
        """Stamps as they were read. One of another length counts as missing, and will be replaced."""
        if not are(replies, VALUE, len(groups)):
            raise self._unexpected()
        return [stamp if stamp is not None and len(stamp) == STAMP_BYTES else None for stamp in replies]

    def _unexpected(self) -> RemoteUnavailableError:
        """A reply of the wrong type. Idle connections may be out of step too."""
        self.connections.drop_idle()
        return RemoteUnavailableError("the server answers something else than it was asked.")

    def _ask_in_order(self, first: list[Command], then: list[Command], within: float | None = None) -> list[Any]:
        """Replies to both parts, sent once: two round trips on a cluster, whose nodes have no common order."""
        if self.connections.ordered:
            first, then = [*first, *then], []
        return [reply for commands in (first, then) if commands for reply in self._ask(commands, within, once=True)]


def _unrefused(commands: Sequence[Command], replies: list[Any]) -> list[Any]:
    for i, reply in enumerate(replies):
        if type(reply) is ErrorReply:
            if commands[i][0] != "GET" or not str(reply).startswith("WRONGTYPE"):
                raise RemoteUnavailableError(f"the server refuses: {reply}")
            replies[i] = None  # a value of another type counts as missing; the next load overwrites it
    return replies
