"""The remote tier: what is asked of Redis, each question one round trip.

It knows keys, frames' bytes, stamps and leases as Redis holds them, and nothing of values, functions or the local tier.
Every method blocks for one exchange and raises `RemoteError`; what to do without an answer is decided above.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import _scripts
from ._connections import Command, Connections, Refusal
from ._keys import Space
from ._scripts import Script
from .errors import RemoteUnavailableError

MARK_MS = 60_000
"""How long the mark of an ended key stays: only its being written matters, for that is pushed."""
TAG_MS = 86_400_000
"""How long a tag's stamp lives that an invalidation wrote; what is stored under it later makes it live longer."""
MISSING_TTL = -2


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

    __slots__ = ("connections", "space")

    def __init__(self, connections: Connections, space: Space) -> None:
        self.connections = connections
        self.space = space

    # Values and stamps

    def read(self, key: str, groups: Sequence[str]) -> Read:
        """A value, how long it will live, and the stamps of `groups`, all as of one moment's order."""
        commands: list[Command] = [("GET", key), ("PTTL", key)]
        if groups:
            commands.append(("MGET", *map(self.space.stamp, groups)))
        replies = self._ask(commands)
        return Read(replies[0], replies[1], replies[2] if groups else [])

    def read_many(self, keys: Sequence[str], groups: Sequence[str]) -> tuple[list[Read], list[bytes | None]]:
        """The same for many keys at once; the stamps come once."""
        commands: list[Command] = [("MGET", *keys)]
        commands += [("PTTL", key) for key in keys]
        if groups:
            commands.append(("MGET", *map(self.space.stamp, groups)))
        replies = self._ask(commands)
        stamps = replies.pop() if groups else []
        return [Read(data, pttl, []) for data, pttl in zip(replies[0], replies[1:], strict=True)], stamps

    def stamps(self, groups: Sequence[str]) -> list[bytes | None]:
        """The stamps of `groups` as they stand."""
        stamps: list[bytes | None] = self._ask([("MGET", *map(self.space.stamp, groups))])[0]
        return stamps

    def ensure(self, groups: Sequence[str], keep_ms: int) -> list[bytes]:
        """The stamps of `groups`, made where there is none; those of tags live on for `keep_ms` at least."""
        commands: list[Command] = []
        for group in groups:
            stamp = self.space.stamp(group)
            if group.startswith("#"):
                commands.append(_call(_scripts.STAMP, (stamp,), fresh_stamp(), max(keep_ms, 1)))
            else:
                commands.append(("SET", stamp, fresh_stamp(), "NX", "GET"))
        replies = self._ask(commands)
        return [
            reply if reply is not None else fresh_of(command) for command, reply in zip(commands, replies, strict=True)
        ]

    def put(self, key: str, frame: bytes, keep_ms: int) -> None:
        """Write a value as it is told, voiding any load under way, and let all processes hear of it."""
        self._ask([("SET", key, frame, "PX", keep_ms), ("UNLINK", self.space.lease(key)), self._mark(key)])

    # Leases

    def acquire(
        self, key: str, token: bytes, digest: bytes, lease_ms: int, seen: bytes, *, insist: bool = False
    ) -> Read | Busy | None:
        """The right to load `key` (`None`), or the value that has arrived, or `Busy`."""
        call = self._acquire_call(key, token, digest, lease_ms, seen, insist)
        return _granted(self._ask([call])[0])

    def acquire_many(
        self, wanted: Sequence[tuple[str, bytes, bytes, bytes]], lease_ms: int
    ) -> list[Read | Busy | None]:
        """The same for many (key, token, digest, seen)."""
        calls = [self._acquire_call(key, token, digest, lease_ms, seen, False) for key, token, digest, seen in wanted]
        return [_granted(reply) for reply in self._ask(calls)]

    def _acquire_call(self, key: str, token: bytes, digest: bytes, lease_ms: int, seen: bytes, insist: bool) -> Command:
        keys = (key, self.space.lease(key))
        return _call(_scripts.ACQUIRE, keys, token, digest, lease_ms, seen[-_scripts.TAIL :], "1" if insist else "0")

    def store(self, items: Sequence[tuple[str, bytes, bytes, int]]) -> list[bool]:
        """Store each (key, token, frame, milliseconds) whose lease is still its token's."""
        calls = [
            _call(_scripts.STORE, (key, self.space.lease(key)), token, frame, keep_ms)
            for key, token, frame, keep_ms in items
        ]
        return [bool(reply) for reply in self._ask(calls)]

    def hold(self, items: Sequence[tuple[str, bytes]], lease_ms: int) -> None:
        """Extend leases by `lease_ms`, or give them up (0)."""
        self._ask([_call(_scripts.HOLD, (self.space.lease(key),), token, lease_ms) for key, token in items])

    # Invalidation

    def invalidate(self, groups: Sequence[str], keys: Sequence[str]) -> None:
        """End groups and keys for every process: one round trip, whatever the number of entries."""
        commands: list[Command] = []
        for group in groups:
            tag = group.startswith("#")
            commands.append(("SET", self.space.stamp(group), fresh_stamp(), *(("PX", TAG_MS) if tag else ())))
        for key in keys:
            commands += [("UNLINK", key, self.space.lease(key)), self._mark(key)]
        if commands:
            self._ask(commands)

    def _mark(self, key: str) -> Command:
        return ("SET", self.space.mark(key), fresh_stamp(), "PX", MARK_MS)

    def sweep(self, glob: str, batch: int = 1000) -> int:
        """Unlink every value and lease that matches `glob` (below the space's lead). Returns how many keys matched."""
        swept = 0
        lead = self.space.lead
        for pattern in (lead + glob, f"{lead}!lease:{{{lead}{glob}}}"):
            cursor: bytes | int = b"0"
            while True:
                cursor, found = self._ask([("SCAN", cursor, "MATCH", pattern, "COUNT", batch)])[0]
                values = [
                    key for key in found if not key.startswith((self.space.pushed.encode(), lead.encode() + b"!"))
                ]
                if pattern != lead + glob:
                    values = found
                if values:
                    self._ask([("UNLINK", *values)])
                    swept += len(values)
                if cursor == b"0":
                    break
        return swept

    def ping(self) -> None:
        self._ask([("PING",)])

    def _ask(self, commands: list[Command]) -> list[Any]:
        replies = self.connections.exchange(commands)
        again = [i for i, reply in enumerate(replies) if type(reply) is Refusal and str(reply).startswith("NOSCRIPT")]
        if again:
            texts = {script.sha: script.text for script in _scripts.ALL}
            calls = [("EVAL", texts[str(commands[i][1])], *commands[i][2:]) for i in again]
            for i, reply in zip(again, self.connections.exchange(calls), strict=True):
                replies[i] = reply
        for reply in replies:
            if type(reply) is Refusal:
                raise RemoteUnavailableError(f"the server refuses: {reply}")
        return replies


def _call(script: Script, keys: tuple[str, ...], *arguments: str | bytes | int) -> Command:
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


def fresh_of(command: Command) -> bytes:
    """The stamp that a `SET … NX GET` wrote, which answers with nothing when there was none before."""
    stamp = command[2]
    assert isinstance(stamp, bytes)
    return stamp


def _granted(reply: Any) -> Read | Busy | None:
    if isinstance(reply, list):
        return Read(reply[0], reply[1], [])
    return Busy(reply) if isinstance(reply, int) else None
