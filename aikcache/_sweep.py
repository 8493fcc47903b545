"""Removing what a glob ended: SCAN in batches, UNLINK, and rests between them so that others are not held up.

A sweep takes the leases first, so that a load under way cannot store what it began before, and then the values; SCAN
gives everything that was there from its start to its end. Several globs are one sweep, of what they have in common. Its
cost is in proportion to the keyspace: a tag does the same in one round trip.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from . import _patterns
from ._connections import Connections
from ._patterns import Ending
from ._remote import Remote
from .errors import AikcacheError

BATCH = 1000
REST = 0.01
"""The longest rest after a batch, in seconds; a batch is followed by as much rest as it took."""


class Sweep:
    """A sweep's progress; from `invalidate(..., background=True)` a handle on one that goes on by itself.

    `scanned` counts the rounds of 1000 looked through, `removed` the keys that are gone, `error` is why it failed (what
    it was to end is then kept and sent again). `done` is true when it has ended, one way or the other.
    """

    def __init__(self) -> None:
        self.scanned = 0
        self.removed = 0
        self.error: AikcacheError | None = None
        self._ended = threading.Event()

    @property
    def done(self) -> bool:
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, `timeout` seconds at most. False: it has not."""
        return self._ended.wait(timeout)

    def run(self, work: Callable[[Sweep], object]) -> None:
        try:
            work(self)
        except AikcacheError as error:
            self.error = error
        finally:
            self._ended.set()

    def __repr__(self) -> str:
        state = "running" if not self.done else "failed" if self.error else "done"
        return f"<Sweep {state}: {self.removed} keys removed in {self.scanned} rounds>"


def end(remote: Remote, what: Ending, progress: Sweep | None = None) -> None:
    """End groups and keys in one round trip, then what globs match, in one sweep. Raises `RemoteError`."""
    remote.end(what.groups, what.keys)
    if what.globs:
        remote.mark_globs(what.globs)  # local tiers drop their matches at once …
        _sweep(remote, what.globs, progress or Sweep())
        remote.mark_globs(what.globs)  # … and what they fetched while the sweep was on its way


def _sweep(remote: Remote, globs: Sequence[str], progress: Sweep) -> None:
    """Unlink every lease, then every value, that matches one of `globs`, below the space's lead. Raises `RemoteError`.

    In one pass over both, a load could store between the look at its key and the look at its lease.
    """
    for before, after in ((f"{remote.space.lead}!lease:{{", "}"), ("", "")):
        for part in remote.parts():
            _remove(remote, part, globs, before, after, progress)


def _remove(remote: Remote, part: Connections, globs: Sequence[str], before: str, after: str, progress: Sweep) -> None:
    """Unlink every name on one server that is a matching key between `before` and `after`."""
    lead = remote.space.lead
    matches, pattern = _patterns.matcher(lead, *globs), f"{before}{lead}{_patterns.covering(globs)}{after}"
    no_values = (f"{lead}~", f"{lead}!")  # a wildcard in the first place matches stamps as well: they end far more
    cursor: bytes = b"0"
    while True:
        began = time.monotonic()
        cursor, found = remote.scan(part, cursor, pattern, BATCH)
        ended = []
        for raw in found:
            key = raw.decode("utf-8", "surrogateescape").removeprefix(before).removesuffix(after)
            if matches(key) and not key.startswith(no_values):
                ended.append(raw)
        if ended:
            progress.removed += remote.unlink(ended)
        progress.scanned += 1
        if cursor == b"0":
            return
        time.sleep(min(time.monotonic() - began, REST))
