"""Snapshots of what each process of a cache counted, in Redis: who is counted, and totals of those that are gone.

A list names the processes that are counted. Each has a snapshot, which it replaces. Snapshots that grow old without
being replaced are added to the totals of the dead and removed, in one step that happens only if nothing has changed
since they were read: so each is counted once, whoever adds it. All lives in one slot for `KEEP_MS` after the last
process published. Ages are told by Redis alone: by how long a snapshot will still live.

A process that finds everything gone (Redis was emptied) puts back what it read last, the first to come for all. One
that was taken for dead is told so, and begins anew at zero.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aikcache._remote import scripts
from aikcache._remote.store import RedisStore
from aikcache.errors import RemoteUnavailableError

KEEP_MS = 86_400_000
_ID = re.compile("[0-9a-f]+")
GONE, FOLDED = b"gone", b"folded"


class Published(NamedTuple):
    """One process's snapshot, and how many seconds ago it was written; empty where Redis has lost it."""

    data: bytes
    age: float


class FleetRecords(NamedTuple):
    """All that is published, as of one moment. `dead` are the totals of processes that are gone."""

    dead: bytes
    processes: Mapping[str, Published]


class FleetStore:
    """The snapshots of one cache, under one name prefix."""

    def __init__(self, remote: RedisStore, prefix: str) -> None:
        self._remote = remote
        self._lead = f"{remote.space.namespace_prefix}!{{fleet:{prefix}}}:"
        self._base = self._lead + "list", self._lead + "dead"
        self._generation = b""
        self._published = ""  # the id, under this generation
        self._last = FleetRecords(b"", {})

    def publish(self, id: str, data: bytes, within: float) -> bool:
        """Write a process's snapshot. False: it was taken for dead, and is to begin anew under another id.

        The first 16 characters of `data` grow with what it counts: an older snapshot never replaces a newer one.
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
        keys = (*self._base, f"{self._lead}p:{id}")
        known, again = self._generation, "1" if self._published == id else "0"
        words = (id, data, KEEP_MS, known, os.urandom(8).hex(), again)
        return self._remote.call(scripts.PUBLISH, keys, *words, within=within)

    @property
    def known(self) -> int:
        """How many processes were listed when that was last read."""
        return len(self._last.processes)

    def read(self, within: float) -> FleetRecords:
        """All there is at one moment: in one round trip, and in another one when others are listed than the last time.

        A script has to name its keys beforehand, so it is given those that were listed then. Raises `RemoteError`.
        """
        deadline = time.monotonic() + within
        ids = list(self._last.processes)
        while True:
            keys = (*self._base, *(f"{self._lead}p:{id}" for id in ids))
            reply = self._remote.call(scripts.SNAPSHOTS, keys, within=max(deadline - time.monotonic(), 0.001))
            if type(reply) is not list or len(reply) < 2 or type(reply[0]) is not bytes or type(reply[1]) is not bytes:
                raise RemoteUnavailableError("the server answers something else than it was asked.")
            listed, dead, *rest = reply
            asked, ids = ids, _ids(listed)
            if asked == ids:
                break
        found = {
            id: Published(data, (KEEP_MS - left) / 1000)
            for id, data, left in zip(ids, rest[::2], rest[1::2], strict=False)
            if type(data) is bytes and type(left) is int
        }
        self._last = FleetRecords(dead, found)
        return self._last

    def fold(self, read: FleetRecords, gone: Sequence[str], dead: bytes, within: float) -> bool:
        """Replace the snapshots `gone` by the totals `dead`, which hold them. False: something has changed since."""
        keys = (*self._base, *(f"{self._lead}p:{id}" for id in gone))
        pairs = [word for id in gone for word in (id, read.processes[id].data)]
        return bool(self._remote.call(scripts.FOLD, keys, read.dead, dead, KEEP_MS, *pairs, within=within) == 1)

    def _restore(self, within: float) -> None:
        dead, processes = self._last
        known = {id: published.data for id, published in processes.items() if published.data}
        keys = (*self._base, *(f"{self._lead}p:{id}" for id in known))
        listed = " ".join([os.urandom(8).hex(), *known])
        self._remote.call(scripts.RESTORE, keys, listed, dead, KEEP_MS, *known.values(), within=within)


def _ids(listed: bytes) -> list[str]:
    """The processes in a list, each once: a generation, then hexadecimal ids."""
    words = listed.decode("ascii", "replace").split(" ")[1:]
    return list(dict.fromkeys(word for word in words if _ID.fullmatch(word)))
