"""Invalidations that Redis has not received yet, or may have lost.

Pending: an invalidation that could not be sent is kept, once per group and key, in order. Beyond a limit all become one
of "everything", so nothing is lost. With a journal it survives the process. It is sent before anything is read again
(`send`), so this process never reads from Redis what it has invalidated itself.

Lost: a server that has just started answers from its disk, perhaps with values that were invalidated after they were
saved, by processes that may be gone. The first process that connects invalidates all that was restored
(`on_new_server`). A server that replaces another is sent again what it may lack (`_coherence/recent`): the
invalidations of the last minute, and all since the last evidence of a majority behind the former server. With
`failover="distrust"` all of its data is invalidated as well, once for all processes.

Unconfirmed: with `invalidate_wait`, what the primary has but too few of its replicas. This process can still read. Each
heartbeat asks for the acknowledgements again, and a server that takes over is sent the invalidation.

Globs: a sweep takes long, so no call waits for it. It runs in the thread of background sweeps; until it is done this
process does not read from Redis, but sends its other invalidations.

Threads: the pending invalidations are a dictionary changed under a guard; one that is added while it is being sent is
sent again. One thread at a time sends; the others do without Redis meanwhile.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from aikcache._coherence import sweep
from aikcache._coherence.journal import Journal
from aikcache._coherence.recent import ALL, Recent
from aikcache._coherence.sweep import ReplayingError
from aikcache._concurrency.guard import Guard
from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._concurrency.shared import items
from aikcache._keys.patterns import ANY_TAG, Invalidation, joined
from aikcache._redis.failures import rest
from aikcache._redis.reply import Command, ErrorReply
from aikcache._redis.transport import NewServer
from aikcache._remote.store import RedisStore
from aikcache.errors import ConfigError, RemoteError, RemoteUnavailableError

JUST_STARTED = 300
"""Uptime in seconds below which a server's data counts as restored from disk."""
MOST_TAKEOVERS = 3
DISTRUST_MS = 30 * 86_400_000
"""How long the record of a server's takeover lives; the next process then invalidates everything again."""


class Waiting(NamedTuple):
    """Since when a name waits, on the cache's clock, and as the how manieth it was added: its latest form."""

    since: float
    number: int


class LocalSide(NamedTuple):
    """What this process does itself."""

    drop: Callable[[Invalidation], object]
    """Invalidates here."""
    forget: Callable[[], object]
    """Another server has taken over: nothing that is here counts."""
    sweep_soon: Callable[[], object]
    """Has a thread call `send_globs`."""


class PendingInvalidations:
    """The invalidations that one process must still send, or send again."""

    only_looks = False
    """Nothing that is read here answers a call. So what a server restored is left to those who answer."""

    def __init__(
        self,
        remote: RedisStore,
        reporter: RateLimitedReporter,
        clock: Callable[[], float],
        journal: Journal | None,
        local: LocalSide,
    ) -> None:
        self._local = local
        self._remote = remote
        self._reporter = reporter
        self._clock = clock
        self._journal = journal
        config = remote.connections.config
        limit = self._limit = config.max_pending_invalidations
        self._distrusts = config.failover == "distrust"
        self._replicas, self._patience = config.invalidate_wait, config.timeout / 2
        self._unconfirmed: dict[tuple[str, str], Waiting] = {}
        self._numbers = itertools.count(1)
        self.servers_seen = 0
        self._guard = Guard()
        self._sending = threading.RLock()
        self.pending: dict[tuple[str, str], Waiting] = {}
        self._published: dict[tuple[str, str], Waiting] = {}
        self._adopted: dict[tuple[str, str], Waiting] = {}  # published by others
        self._recent = Recent(clock(), remote.keyspace.namespace_prefix)
        self._max_staleness = config.max_staleness
        self.replayed = 0
        self._written: set[tuple[str, str]] = set()  # names that have a line in the journal
        if journal is not None:
            found = journal.read()
            self.pending = dict.fromkeys(found if len(found) <= limit else [ALL], Waiting(clock(), 0))

    def __len__(self) -> int:
        return len(self.pending) + len(self._unconfirmed)

    def oldest(self) -> float | None:
        """The age in seconds of the oldest pending invalidation; None if there is none."""
        waiting = [*self.pending.values(), *self._unconfirmed.values()]
        return self._clock() - min(waiting).since if waiting else None

    def add(self, what: Invalidation) -> None:
        """This invalidation could not be sent."""
        for name in what.names():
            self._add_name(name)

    def take_over(self, former: PendingInvalidations) -> None:
        """This cache stands in for a former one: send what that has not sent, and again what a failover may lose."""
        self.add(joined([*former.pending, *former._unconfirmed]))
        self._recent.add(former._recent.names())

    def adopt(self, names: Iterable[tuple[str, str]]) -> None:
        """Another process could not send these, and has published them."""
        for name in names:
            self._add_name(name)
            if (when := self.pending.get(name)) is not None:
                self._adopted[name] = when

    def unpublished(self) -> list[tuple[str, str]]:
        """Pending names that no process has published yet. They count as published from here on."""
        before, self._published = self._published, dict(items(self.pending))
        self._adopted = {name: when for name, when in items(self._adopted) if self._published.get(name) == when}
        return [
            name for name, when in self._published.items() if when not in (before.get(name), self._adopted.get(name))
        ]

    def publish_again(self) -> None:
        """A process may have missed what this one published: all of it counts as unpublished."""
        self._published = {}

    def _add_name(self, name: tuple[str, str]) -> None:
        if ALL in self.pending:
            name = ALL  # sent again, if it is being sent now
        elif len(self.pending) >= self._limit and name not in self.pending:
            self._reporter.report(
                "pending", f"more than {self._limit} invalidations wait for Redis; they become one of everything."
            )
            self.pending = self._everything(self.pending)
            self._write(ALL)
            return
        # Anew also where it is there: if it is being sent just now, `_drop` leaves it, to be sent again.
        self._guard.do(lambda: self.pending.__setitem__(name, self._anew(self.pending, name)))
        # After it is pending: a thread that has sent all others must not empty the journal in between.
        self._write(name)

    def _anew(self, waiting: dict[tuple[str, str], Waiting], name: tuple[str, str]) -> Waiting:
        """What is added of a name that may be waiting: as old as it was, and another one."""
        before = waiting.get(name)
        return Waiting(self._clock() if before is None else before.since, next(self._numbers))

    def _everything(self, waiting: dict[tuple[str, str], Waiting]) -> dict[tuple[str, str], Waiting]:
        """One of everything in place of what waits: assigned in one step, so that it is never seen empty."""
        since = min((one.since for _, one in items(waiting)), default=self._clock())
        return {ALL: Waiting(since, next(self._numbers))}

    def _write(self, name: tuple[str, str]) -> None:
        """Write to the journal, once. A forked child also takes over what it finds there."""
        written = self._written  # one look: it is another one as soon as the journal is emptied
        if self._journal is not None and name not in written:
            try:
                self._journal.add(name)
                written.add(name)  # last: interrupted before, it is written once more
            except (OSError, ConfigError) as error:
                self._reporter.report("journal", f"an invalidation is in memory only, not in the journal: {error}")
            for left in self._journal.read():
                self.pending.setdefault(left, self._anew(self.pending, left))

    def send(self, refused: str | None = None) -> None:
        """Send what is pending. Raises `RemoteError` if that fails: Redis must then not be read either. It is a
        `ReplayingError` while another thread does it, or sweeps.

        `refused`: the reason why a server is known to refuse it, so that no caller waits; a heartbeat tries again.
        """
        if not self.pending:
            return
        if refused is not None:
            raise RemoteUnavailableError(f"invalidations wait for the server, which would refuse them: {refused}")
        rest(self._remote.connections)  # first: what follows takes as long as there are pending ones
        if self._sending._is_owned():  # type: ignore[attr-defined]
            # A finalizer's call, which a garbage collection has started in the middle of the sending.
            raise RemoteUnavailableError("invalidations are being sent in this thread.")
        try:
            if not self._sending.acquire(blocking=False):
                raise ReplayingError
            if any(kind == "globs" for kind, _ in list(self.pending)):
                self._local.sweep_soon()  # first: one node of a cluster may refuse, and others not
            self._send(globs=False)
        finally:
            try:  # noqa: SIM105  # one call into C, and nothing before it: else the lock might stay taken
                self._sending.release()
            except RuntimeError:  # it was not taken
                pass
        if self.pending:
            raise ReplayingError

    def send_globs(self) -> None:
        """Sweep what is pending by glob. For one thread. Raises `RemoteError` if that fails."""
        self._send(globs=True)

    def _send(self, *, globs: bool) -> None:
        for _ in range(MOST_TAKEOVERS):
            before = self.servers_seen
            batch = [one for one in items(self.pending) if (one[0][0] == "globs") is globs]
            if not batch:
                return
            what = sweep.few_globs(joined([name for name, _ in batch]))
            sweep.invalidate(self._remote, what)
            if self.servers_seen == before:
                break  # the server that got them is the one that is read next
        else:
            raise RemoteUnavailableError("the server changes again and again.")
        # What was read or loaded since it was added is from before it. Its push is an echo, which invalidates nothing
        # here, and another process's may be in it.
        self._local.drop(Invalidation(what.groups))
        # By their own names, not that of a glob that covers many; first: if interrupted, all of it is still pending.
        self.sent(joined([name for name, _ in batch]), before)
        for name, when in batch:
            self._guard.do(lambda name=name, when=when: self._drop(name, when))  # type: ignore[misc]
        self.replayed += len(batch)
        self._tidy()

    def _tidy(self) -> None:
        """Empty the journal if nothing is left to send."""
        if self._journal is not None and not self.pending and not self._unconfirmed:
            self._written = set()  # first: who adds a name from here on writes a line
            try:
                self._journal.clear()
            except OSError as error:
                self._reporter.report("journal", f"the journal cannot be emptied: {error}")
            self._written = set()
            for name in [*self.pending, *self._unconfirmed]:  # added meanwhile: its line may be gone
                self._write(name)

    def _drop(self, name: tuple[str, str], when: Waiting) -> None:
        pending = self.pending  # one look: it may be replaced by another meanwhile
        if pending.get(name) == when:  # else it was added again, perhaps after Redis had carried it out
            pending.pop(name, None)

    def sent(self, what: Invalidation, servers_seen: int) -> None:
        """Redis has these. If another server replaces it, they may have to be sent again.

        `servers_seen` as it was before they were sent. If it has changed, the new server did not get them, and the one
        that acknowledged them may have been the former one.
        """
        self.wrote(what, servers_seen)
        if self._replicas and (self._unconfirmed or not self._acknowledged()):
            self._add_unconfirmed(what.names())  # if some are unconfirmed already, this call does not wait

    def wrote(self, what: Invalidation, servers_seen: int) -> None:
        """The same for keys whose value was replaced: that waits for no replicas."""
        self._recent.add(what.names())  # first, so that from here on a new server is sent them too
        if self.servers_seen != servers_seen:
            self.add(what)

    def confirm(self) -> None:
        """Check whether the replicas have acknowledged the unconfirmed ones. Raises `RemoteError`.

        Called with each heartbeat. Names need not be sent again once a majority was behind the server for long enough.
        """
        self._recent.turn(self._clock(), self._remote.stamps.trusted_until - self._max_staleness)
        if self._unconfirmed:
            batch = items(self._unconfirmed)
            if self._remote.acknowledged(self._replicas, self._patience):
                for name, when in batch:
                    if self._unconfirmed.get(name) == when:
                        self._unconfirmed.pop(name, None)
                self._tidy()

    def _acknowledged(self) -> bool:
        try:
            return self._remote.acknowledged(self._replicas, self._patience)
        except RemoteError:
            return False

    def _add_unconfirmed(self, names: Iterable[tuple[str, str]]) -> None:
        for name in names:
            if len(self._unconfirmed) >= self._limit and name not in self._unconfirmed:
                self._unconfirmed = self._everything(self._unconfirmed)
                self._write(ALL)
                continue
            self._unconfirmed[name] = self._anew(self._unconfirmed, name)
            self._write(name)
        self._reporter.report("unheard", f"fewer than {self._replicas} replicas acknowledged an invalidation.")

    def on_new_server(self, new: NewServer) -> None:
        """Runs before anything else is sent to a new server. May raise `RemoteError`."""
        server = new.identity
        commands: list[Command] = []
        names: dict[tuple[str, str], None] = {}
        again = Invalidation()
        self.servers_seen += new.replaces  # before `_recent` is read: see `sent`
        if self.only_looks:
            pass
        elif self._distrusts:
            commands.append(self._remote.commands.invalidate_before_run(server.id, DISTRUST_MS))
        elif server.uptime < JUST_STARTED:
            commands.append(self._remote.commands.invalidate_before_run(server.id))
        if new.replaces:
            names = self._recent.names() | dict.fromkeys(list(self._unconfirmed))
            if self._replicas and names:  # no replica of this server has acknowledged them yet
                self._add_unconfirmed(names)
            again = joined(list(names))
            commands += self._remote.commands.invalidations(again.groups, again.keys)
            for glob in again.globs:  # a sweep takes long: it becomes pending, so it runs before a read
                self._add_name(("globs", glob))
        replies = new.ask(commands) if commands else []
        if new.replaces:
            self._renew_elsewhere(again.groups, commands, replies)
            self._recent.add(names)  # this server may be replaced in turn
            self._local.forget()

    def _renew_elsewhere(self, groups: Sequence[str], commands: Sequence[Command], replies: Sequence[Any]) -> None:
        """If the stamp of any tag was renewed, tags' own stamps on other nodes must be too, before anything is read.

        While it was lost, an earlier load may have stored under a tag's new stamp, which nothing has invalidated since.
        """
        stamps = {self._remote.keyspace.stamp(group): group for group in groups if group.startswith(ANY_TAG)}
        refused = {command[1] for command, reply in zip(commands, replies, strict=True) if type(reply) is ErrorReply}
        if ANY_TAG in stamps.values() and self._remote.keyspace.stamp(ANY_TAG) not in refused:
            for name in stamps.keys() & refused:
                self._add_name(("groups", stamps[name]))

    def after_fork(self) -> None:
        """Reset in the child, whose journal will be its own file. What is pending stays pending: the parent may end
        without sending it, and sending twice is harmless.
        """
        self._guard = Guard()
        self._recent.after_fork()
        self._written = set()  # of the parent's file
        self._sending = threading.RLock()
        if self._journal is not None:
            self._journal.after_fork()

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
