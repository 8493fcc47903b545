"""Builds the commands for Redis. Sends nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence

from aikcache._keys.keyspace import Keyspace
from aikcache._keys.patterns import ANY_TAG, EVERYTHING
from aikcache._redis.reply import Command
from aikcache._remote import scripts
from aikcache._remote.scripts import Script
from aikcache._remote.stamps import Stamps

RUN_MS = 3_600_000
"""How long the record of a server's start is kept: longer than a server counts as just started."""
STAMP_BYTES = 8
ACKNOWLEDGED_MS = 1000
"""How long the key lives whose write replicas are to acknowledge."""
DAY_MS = 86_400_000
"""How long a stamp lives that an invalidation wrote. Values that are stored under it later extend its life."""


def fresh_stamp() -> bytes:
    return os.urandom(STAMP_BYTES)


class Commands:
    """The commands of one cache in one process."""

    __slots__ = ("keyspace", "stamps", "writer")

    def __init__(self, keyspace: Keyspace, stamps: Stamps) -> None:
        self.keyspace = keyspace
        self.stamps = stamps  # learns what is written, so that its echo is recognised
        self.rename()

    def rename(self) -> None:
        """Take a new name for markers, because this process is another one than before."""
        self.writer = os.urandom(6).hex()

    def invalidations(self, groups: Sequence[str], keys: Sequence[str]) -> list[Command]:
        """The commands that invalidate groups (each by a new stamp) and keys (with their leases).

        The stamp of any tag comes first: a load reads it last, so a load that sees a tag's new stamp sees that one too.
        Where a lease and its key cannot be unlinked at once, the lease goes first: a value stored under it in between
        is then unlinked with the key.
        """
        commands: list[Command] = []
        for group in sorted(groups, key=lambda group: group != ANY_TAG):
            stamp = fresh_stamp()
            self.stamps.expect(group, stamp)
            commands.append(("SET", self.keyspace.stamp(group), stamp, "PX", str(DAY_MS)))
        for key in keys:
            commands += [("UNLINK", self.keyspace.lease(key), key), *self.push_key(key)]
        return commands

    def push_key(self, key: str) -> list[Command]:
        """Inform all processes that a key was invalidated."""
        return _push(self.keyspace.key_marker(key, self.writer))

    def push_glob(self, glob: str) -> list[Command]:
        """Inform all processes that the matches of a glob were invalidated."""
        return _push(self.keyspace.glob_marker(glob, self.writer))

    def acknowledged_write(self, tag: str) -> Command:
        """A write for replicas to acknowledge."""
        return (
            "SET",
            f"{self.keyspace.namespace_prefix}!acknowledge:{tag}{self.writer}",
            "1",
            "PX",
            str(ACKNOWLEDGED_MS),
        )

    def invalidate_before_run(self, run_id: str, redis_ttl_ms: int = RUN_MS) -> Command:
        """Invalidate all data that a server has from before this run. Only the first call for a run does so."""
        stamp = self.keyspace.stamp(EVERYTHING)
        return (
            "EVAL",
            scripts.RECORD_RUN.text,
            "2",
            stamp,
            f"{self.keyspace.namespace_prefix}!run:{{{stamp}}}:{run_id}",
            fresh_stamp(),
            str(redis_ttl_ms),
            str(DAY_MS),
        )

    def probe(self, tag: str = "") -> Command:
        """A write that changes nothing. It is not replicated or pushed, and is refused when any other write would
        be.
        """
        return ("SET", f"{self.keyspace.namespace_prefix}!probe:{tag}", "1", "XX")

    def store(self, key: str, token: bytes, frame: bytes, redis_ttl_ms: int) -> Command:
        return call(scripts.STORE, (key, self.keyspace.lease(key)), token, frame, redis_ttl_ms)


def call(script: Script, keys: tuple[str, ...], *arguments: str | bytes | int) -> Command:
    words = [str(word) if isinstance(word, int) else word for word in arguments]
    return ("EVALSHA", script.sha, str(len(keys)), *keys, *words)


def _push(name: str) -> list[Command]:
    """Write a name so that it is pushed, and unlink it, so that it cannot expire and be pushed again."""
    return [("SET", name, "1"), ("UNLINK", name)]
