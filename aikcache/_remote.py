"""The remote tier: what is asked of Redis, each question one round trip.

It knows keys, frames' bytes, stamps and leases as Redis holds them, and nothing of values, functions or the local tier.
Every method blocks for one exchange and raises `RemoteError`; what to do without an answer is decided above.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from . import _scripts
from ._cluster import Cluster
from ._connections import Connections
from ._keys import Space
from ._link import Command, Refusal
from ._patterns import ANY_TAG, EVERYTHING
from ._scripts import CLAIM, Script
from ._stamps import Stamps
from .errors import RemoteUnavailableError

CLAIM_MS = 3_600_000
"""How long it is known that a server's start was seen: longer than it counts as just started."""
HEARD_MS = 1000
"""How long the mark stays that replicas are to acknowledge."""
TAG_MS = 86_400_000
"""How long a tag's stamp lives that an invalidation wrote; what is stored under it later makes it live longer."""
NOT_ASKED = -3
"""Instead of a PTTL, which Redis gives as -1 for a value without end and as -2 for none."""
_GET, _PTTL = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n", b"*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n"


class Read(NamedTuple):
    """A value's bytes (`None`: there is none), its remaining milliseconds, and the stamps asked for."""

    data: bytes | None
    pttl: int
    stamps: list[bytes | None]


class Busy(NamedTuple):
    """Somebody else loads this key."""

    lease_ms: int


def fresh_stamp() -> bytes:
    return os.urandom(8)


class Remote:
    """Redis, as a cache sees it."""

    __slots__ = ("connections", "space", "stamps", "writer")

    def __init__(self, connections: Connections | Cluster, space: Space, stamps: Stamps) -> None:
        self.connections = connections
        self.space = space
        self.stamps = stamps  # told what is written, so that its echo is known
        self.writer = os.urandom(6).hex()  # this process's name in marks

    @property
    def server(self) -> Connections:
        """The connections, where there is one server."""
        assert isinstance(self.connections, Connections)
        return self.connections

    # Values and stamps

    def read(self, key: str, groups: Sequence[str]) -> Read:
        """A value, how long it will live, and the stamps of `groups`, all as of one moment's order."""
        commands: list[Command] = [("GET", key), ("PTTL", key)]
        if groups:
            commands.append(("MGET", *map(self.space.stamp, groups)))
        replies = self._ask(commands)
        return Read(replies[0], replies[1], replies[2] if groups else [])

    def glance(self, names: Sequence[bytes], timed: bool) -> tuple[list[bytes | None], list[int]] | None:
        """Values, and if `timed` how long they will live, by the shortest way there is; None: that way is not open."""
        connections = self.connections
        if type(connections) is not Connections:
            return None
        if len(names) == 1:
            name = names[0]
            size = len(name)
            data = _GET % (size, name) + _PTTL % (size, name) if timed else _GET % (size, name)
            found, pttls = [(replies := connections.send(data, 1 + timed))[0]], replies[1:]
        else:
            replies = connections.exchange([("MGET", *names), *(("PTTL", name) for name in (names if timed else ()))])
            found, pttls = replies[0], replies[1:]
        for reply in replies:
            if type(reply) is Refusal:
                return None
        return found, pttls or [NOT_ASKED] * len(names)

    def read_many(self, keys: Sequence[str], groups: Sequence[str]) -> tuple[list[Read], list[bytes | None]]:
        """The same for many keys at once; the stamps come once."""
        commands: list[Command] = [("MGET", *keys)]
        commands += [("PTTL", key) for key in keys]
        if groups:
            commands.append(("MGET", *map(self.space.stamp, groups)))
        replies = self._ask(commands)
        stamps = replies.pop() if groups else []
        return [Read(data, pttl, []) for data, pttl in zip(replies[0], replies[1:], strict=True)], stamps

    def read_stamps(self, groups: Sequence[str]) -> list[bytes | None]:
        """The stamps of `groups` as they stand."""
        stamps: list[bytes | None] = self._ask([("MGET", *map(self.space.stamp, groups))])[0]
        return stamps

    def ensure(self, groups: Sequence[str], keep_ms: int) -> list[bytes]:
        """The stamps of `groups`, made where there is none; those of tags live on for `keep_ms` at least.

        A stamp that was made is pushed back to us, and must not end what we do. The stamp of any tag, when it is the
        last, is read after the others, wherever they are.
        """
        commands: list[Command] = []
        made = [fresh_stamp() for _ in groups]
        for group, stamp in zip(groups, made, strict=True):
            name = self.space.stamp(group)
            self.stamps.expect(group, stamp)
            if group.startswith("#"):
                commands.append(_call(_scripts.STAMP, (name,), stamp, max(keep_ms, 1)))
            else:
                commands.append(("SET", name, stamp, "NX", "GET"))
        found: list[bytes] = []
        last = -1 if groups and groups[-1] == ANY_TAG else len(commands)
        replies = self._ask_in_order(commands[:last], commands[last:])
        for group, stamp, reply in zip(groups, made, replies, strict=True):
            current, wrote = reply if isinstance(reply, list) else (reply or stamp, reply is None)
            if not wrote:
                self.stamps.unexpect(group, stamp)
            found.append(current)
        return found

    def put(self, key: str, token: bytes, frame: bytes, keep_ms: int) -> bool:
        """Store a value whose lease is still its token's, and let all processes hear that what was there has ended."""
        mark = self._mark(self.space.mark(key, self.writer))
        return bool(self._ask([self._store_call(key, token, frame, keep_ms), *mark])[0])

    # Leases

    def acquire(
        self,
        wanted: Sequence[tuple[str, bytes, bytes, bytes]],
        lease_ms: int,
        *,
        insist: bool = False,
        unlink: bool = False,
    ) -> list[Read | Busy | None]:
        """For each (key, token, digest, seen) the right to load (`None`), the value that has arrived, or `Busy`.

        `insist`: whoever has it. `unlink`: and what stands there ends.
        """
        calls: list[Command] = []
        for key, token, digest, seen in wanted:
            keys, tail = (key, self.space.lease(key)), seen[-_scripts.TAIL :]
            calls.append(_call(_scripts.ACQUIRE, keys, token, digest, lease_ms, tail, "1" if insist else "0"))
        if unlink:
            calls.append(("UNLINK", *(key for key, *_ in wanted)))
        return [_granted(reply) for reply in self._ask(calls)[: len(wanted)]]

    def store(self, items: Sequence[tuple[str, bytes, bytes, int]]) -> list[bool]:
        """Store each (key, token, frame, milliseconds) whose lease is still its token's."""
        return [bool(reply) for reply in self._ask([self._store_call(*item) for item in items])]

    def _store_call(self, key: str, token: bytes, frame: bytes, keep_ms: int) -> Command:
        return _call(_scripts.STORE, (key, self.space.lease(key)), token, frame, keep_ms)

    def hold(self, items: Sequence[tuple[str, bytes]], lease_ms: int) -> None:
        """Extend leases by `lease_ms`, or give them up (0)."""
        self._ask([_call(_scripts.HOLD, (self.space.lease(key),), token, lease_ms) for key, token in items])

    # Invalidation

    def end(self, groups: Sequence[str], keys: Sequence[str]) -> None:
        """End groups and keys for every process: one round trip, whatever the number of entries."""
        commands = self.ending(groups, keys)
        first = 1 if ANY_TAG in groups else 0
        self._ask_in_order(commands[:first], commands[first:])

    def acknowledged(self, replicas: int, within: float) -> bool:
        """Whether as many replicas have all that was written until now; waits for them `within` seconds.

        Writes are replicated in their order, so a replica that has the mark written here has all that was before it.
        """
        marks: list[Command] = []
        for tag in self.connections.tags():
            marks.append(("SET", f"{self.space.lead}!heard:{tag}{self.writer}", "1", "PX", HEARD_MS))
        heard: int = self._ask([*marks, ("WAIT", replicas, max(int(within * 1000), 1))])[-1]
        return heard >= replicas

    def ending(self, groups: Sequence[str], keys: Sequence[str]) -> list[Command]:
        """The commands that end groups (a fresh stamp each) and keys (with their leases).

        The stamp of any tag comes first: a load reads it last, so whoever finds a tag's new stamp finds that one, too.
        A lease goes before its key, where they cannot go at once: what it allows to store is then unlinked after it.
        """
        commands: list[Command] = []
        for group in sorted(groups, key=lambda group: group != ANY_TAG):
            stamp = fresh_stamp()
            self.stamps.expect(group, stamp)
            tag = group.startswith("#")
            commands.append(("SET", self.space.stamp(group), stamp, *(("PX", TAG_MS) if tag else ())))
        for key in keys:
            commands += [("UNLINK", self.space.lease(key), key), *self._mark(self.space.mark(key, self.writer))]
        return commands

    def _mark(self, name: str) -> list[Command]:
        """A name that is pushed, and leaves nothing behind that could expire and be pushed again."""
        return [("SET", name, "1"), ("UNLINK", name)]

    def mark_globs(self, globs: Sequence[str]) -> None:
        """Local tiers everywhere drop what matches one of them."""
        self._ask([command for glob in globs for command in self._mark(self.space.glob_mark(glob, self.writer))])

    def parts(self) -> Iterator[Connections]:
        """The servers to scan, one by one."""
        return self.connections.parts()

    def scan(self, part: Connections, cursor: bytes, pattern: str, count: int) -> tuple[bytes, list[bytes]]:
        command: Command = ("SCAN", cursor, "MATCH", pattern, "COUNT", count)
        ((cursor, found),) = _unrefused([command], part.exchange([command]))
        return cursor, found

    def unlink(self, names: Sequence[bytes]) -> int:
        removed: int = self._ask([("UNLINK", *names)])[0]
        return removed

    def claim(self, run: str, keep_ms: int = CLAIM_MS) -> Command:
        """End all that a server holds from before its run, once for each run, whoever comes first."""
        stamp = self.space.stamp(EVERYTHING)
        return ("EVAL", CLAIM.text, 2, stamp, f"{self.space.lead}!run:{{{stamp}}}:{run}", fresh_stamp(), keep_ms)

    def ping(self) -> None:
        self._ask([("PING",)])

    def after_fork(self) -> None:
        self.writer = os.urandom(6).hex()
        self.connections.forget()

    def _ask(self, commands: list[Command]) -> list[Any]:
        replies = self.connections.exchange(commands)
        again = [i for i, reply in enumerate(replies) if type(reply) is Refusal and str(reply).startswith("NOSCRIPT")]
        if again:
            texts = {script.sha: script.text for script in _scripts.ALL}
            calls = [("EVAL", texts[str(commands[i][1])], *commands[i][2:]) for i in again]
            for i, reply in zip(again, self.connections.exchange(calls), strict=True):
                replies[i] = reply
        return _unrefused(commands, replies)

    def _ask_in_order(self, first: list[Command], then: list[Command]) -> list[Any]:
        """Replies to both: one round trip on one server, two on a cluster, whose nodes know no common order."""
        if self.connections.ordered:
            first, then = [*first, *then], []
        return [reply for commands in (first, then) if commands for reply in self._ask(commands)]


def _unrefused(commands: Sequence[Command], replies: list[Any]) -> list[Any]:
    for i, reply in enumerate(replies):
        if type(reply) is Refusal:
            if commands[i][0] != "GET" or not str(reply).startswith("WRONGTYPE"):
                raise RemoteUnavailableError(f"the server refuses: {reply}")
            replies[i] = None  # a foreign thing at our key is no value of ours; the next load overwrites it
    return replies


def _call(script: Script, keys: tuple[str, ...], *arguments: str | bytes | int) -> Command:
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


def _granted(reply: Any) -> Read | Busy | None:
    if isinstance(reply, list):
        return Read(reply[0], reply[1], [])
    return Busy(reply) if isinstance(reply, int) else None
