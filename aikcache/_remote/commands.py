"""What is said to Redis, as commands: nothing here asks anything."""

from __future__ import annotations

import os
from collections.abc import Sequence

from aikcache._keys.keyspace import Keyspace
from aikcache._keys.patterns import ANY_TAG, EVERYTHING
from aikcache._redis.reply import Command
from aikcache._remote import scripts
from aikcache._remote.scripts import Script
from aikcache._remote.stamps import Stamps

CLAIM_MS = 3_600_000
"""How long it is known that a server's start was seen: longer than it counts as just started."""
STAMP_BYTES = 8
HEARD_MS = 1000
"""How long the mark stays that replicas are to acknowledge."""
DAY_MS = 86_400_000
"""How long a stamp lives that an invalidation wrote; what is stored under it later makes it live longer."""


def fresh_stamp() -> bytes:
    return os.urandom(STAMP_BYTES)


class Commands:
    """The commands of one cache in one process."""

    __slots__ = ("space", "stamps", "writer")

    def __init__(self, space: Keyspace, stamps: Stamps) -> None:
        self.space = space
        self.stamps = stamps  # told what is written, so that its echo is known
        self.rename()

    def rename(self) -> None:
        """This process is another one than before: its marks bear another name."""
        self.writer = os.urandom(6).hex()

    def invalidations(self, groups: Sequence[str], keys: Sequence[str]) -> list[Command]:
        """The commands that invalidate groups (by a fresh stamp each) and keys (with their leases).

        The stamp of any tag comes first: a load reads it last, so whoever finds a tag's new stamp finds that one, too.
        A lease goes before its key, where they cannot go at once: what it allows to store is then unlinked after it.
        """
        commands: list[Command] = []
        for group in sorted(groups, key=lambda group: group != ANY_TAG):
            stamp = fresh_stamp()
            self.stamps.expect(group, stamp)
            commands.append(("SET", self.space.stamp(group), stamp, "PX", str(DAY_MS)))
        for key in keys:
            commands += [("UNLINK", self.space.lease(key), key), *self.mark_key(key)]
        return commands

    def mark_key(self, key: str) -> list[Command]:
        """Have all processes hear that a key was invalidated."""
        return _push(self.space.mark(key, self.writer))

    def mark_glob(self, glob: str) -> list[Command]:
        """Have all processes hear that what matches was invalidated."""
        return _push(self.space.glob_mark(glob, self.writer))

    def heard(self, tag: str) -> Command:
        """A write that replicas are to acknowledge."""
        return ("SET", f"{self.space.namespace_prefix}!heard:{tag}{self.writer}", "1", "PX", str(HEARD_MS))

    def claim(self, run: str, keep_ms: int = CLAIM_MS) -> Command:
        """Invalidate all that a server holds from before its run, once for each run, whoever comes first."""
        stamp = self.space.stamp(EVERYTHING)
        return (
            "EVAL",
            scripts.CLAIM.text,
            "2",
            stamp,
            f"{self.space.namespace_prefix}!run:{{{stamp}}}:{run}",
            fresh_stamp(),
            str(keep_ms),
            str(DAY_MS),
        )

    def probe(self, tag: str = "") -> Command:
        """A write that changes nothing, is replicated and pushed to nobody, and is refused when any other would be."""
        return ("SET", f"{self.space.namespace_prefix}!probe:{tag}", "1", "XX")

    def store(self, key: str, token: bytes, frame: bytes, keep_ms: int) -> Command:
        return call(scripts.STORE, (key, self.space.lease(key)), token, frame, keep_ms)


def call(script: Script, keys: tuple[str, ...], *arguments: str | bytes | int) -> Command:
    words = [str(word) if isinstance(word, int) else word for word in arguments]
    return ("EVALSHA", script.sha, str(len(keys)), *keys, *words)


def _push(name: str) -> list[Command]:
    """A name that is pushed, and leaves nothing behind that could expire and be pushed again."""
    return [("SET", name, "1"), ("UNLINK", name)]
