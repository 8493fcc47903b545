"""Snapshots of the counters of each process of a cache, in Redis, with totals of exited processes.

A list names the processes. Each replaces its own snapshot. A snapshot that has not been replaced for long is added to
the totals of exited processes and removed, in one step that happens only if nothing has changed since it was read. So
each is counted once, whichever process adds it. All keys are in one slot and live for `RECORD_MS` after the last
process published. Ages come from Redis alone: from the remaining life of a snapshot.

If everything is gone (Redis was emptied), the first process to notice writes back what it read last. A process that
others counted as exited finds that out when it publishes, and begins again at zero.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aikcache._remote import scripts
from aikcache._remote.store import RedisStore
from aikcache.errors import RemoteTimeoutError, RemoteUnavailableError

RECORD_MS = 86_400_000
_ID = re.compile("[0-9a-f]{16}")
GONE, FOLDED = b"gone", b"folded"


class Published(NamedTuple):
    """One process's snapshot, and its age in seconds; empty where Redis has lost it."""

    data: bytes
    age: float


class FleetRecords(NamedTuple):
    """All that is published, at one moment. `exited`: the totals of exited processes."""

    exited: bytes
    processes: Mapping[str, Published]


class FleetStore:
    """The snapshots of one cache, under one name prefix."""

    def __init__(self, remote: RedisStore, prefix: str) -> None:
        self._remote = remote
        self.prefix = f"{remote.keyspace.namespace_prefix}!{{fleet:{prefix}}}:"
        self._base = self.prefix + "list", self.prefix + "dead"
        self._generation = b""
        self._published = ""  # the id that was published under this generation
        self._last = FleetRecords(b"", {})

    def publish(self, id: str, data: bytes, within: float) -> bool:
        """Write a process's snapshot. False: the process counts as exited, and must begin again under another id.

        The first 16 characters of `data` grow with the counts: an older snapshot never replaces a newer one.
        """
        answer = self._publish(id, data, within)
        if answer == GONE:
            self._restore(within)
            self._generation = b""
            answer = self._publish(id, data, within)
        if type(answer) is not bytes or (answer != FOLDED and len(answer) != 16):
            raise RemoteUnavailableError("the list of processes in Redis is none.")
        if answer == FOLDED:
            return False
        self._generation, self._published = answer, id
        return True

    def _publish(self, id: str, data: bytes, within: float) -> object:
        keys = (*self._base, f"{self.prefix}p:{id}")
        generation, again = self._generation, "1" if self._published == id else "0"
        words = (id, data, RECORD_MS, generation, os.urandom(8).hex(), again)
        return self._remote.call(scripts.PUBLISH, keys, *words, within=within)

    @property
    def listed(self) -> int:
        """The number of processes in the list when it was last read."""
        return len(self._last.processes)

    def read(self, within: float) -> FleetRecords:
        """All records at one moment: one round trip, and another one if the list has changed since the last time.

        A script must name its keys beforehand, so it gets those of the last list. Raises `RemoteError`.
        """
        deadline = time.monotonic() + within
        ids = list(self._last.processes)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise RemoteTimeoutError("the list of processes in Redis was another one each time it was read.")
            keys = (*self._base, *(f"{self.prefix}p:{id}" for id in ids))
            reply = self._remote.call(scripts.SNAPSHOTS, keys, within=left)
            if type(reply) is not list or len(reply) < 2 or type(reply[0]) is not bytes or type(reply[1]) is not bytes:
                raise RemoteUnavailableError("the server answers something else than it was asked.")
            listed, exited, *rest = reply
            requested, ids = ids, _ids(listed)
            if requested == ids:
                break
        found = {
            id: Published(data, (RECORD_MS - pttl) / 1000)
            for id, data, pttl in zip(ids, rest[::2], rest[1::2], strict=False)
            if type(data) is bytes and type(pttl) is int
        }
        self._last = FleetRecords(exited, found)
        return self._last

    def fold(self, read: FleetRecords, gone: Sequence[str], exited: bytes, within: float) -> bool:
        """Replace the snapshots `gone` by the totals `exited`, which include them. False: there was a change since."""
        keys = (*self._base, *(f"{self.prefix}p:{id}" for id in gone))
        pairs = [word for id in gone for word in (id, read.processes[id].data)]
        return bool(self._remote.call(scripts.FOLD, keys, read.exited, exited, RECORD_MS, *pairs, within=within) == 1)

    def _restore(self, within: float) -> None:
        exited, processes = self._last
        lost = {id: published.data for id, published in processes.items() if published.data}
        keys = (*self._base, *(f"{self.prefix}p:{id}" for id in lost))
        listed = " ".join([os.urandom(8).hex(), *lost])
        self._remote.call(scripts.RESTORE, keys, listed, exited, RECORD_MS, *lost.values(), within=within)


def _ids(listed: bytes) -> list[str]:
    """The processes in a list, each once. A list is a generation, then hexadecimal ids."""
    words = listed.decode("ascii", "replace").split(" ")[1:]
    return list(dict.fromkeys(word for word in words[: scripts.MAX_LISTED] if _ID.fullmatch(word)))
