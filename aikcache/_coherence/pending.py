"""Invalidations that Redis has not been told yet, or may have forgotten.

Pending: what could not be sent is kept, once per group and key, in order. Beyond a bound it becomes "everything", so
nothing is lost. With a journal it survives the process. It is sent before anything is read again (`send`), so this
process never reads from Redis what it has invalidated itself.

Forgotten: a server that has just started answers from its disk, perhaps with values that were invalidated after they
were saved, by processes that may be gone. The first process that meets it invalidates all that it restored
(`on_new_server`). When the server behind the URL is another one than before, it is sent again what it may not have
heard (`_coherence/recent`): the invalidations of the last minute, and all since the former server was last vouched
for. With `failover="distrust"` all that it holds is invalidated as well, once for all processes.

Unheard: with `invalidate_wait`, an invalidation that the primary has but too few of its replicas. It does not keep
this process from reading. Each heartbeat asks for it again, and a server that takes over is sent it.

Threads: the pending invalidations are a dictionary changed under a guard, so one that is added while it is being sent
is sent again. One thread at a time sends; the others do without Redis meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from aikcache._coherence import sweep
from aikcache._coherence.journal import Journal
from aikcache._coherence.recent import ALL, Recent
from aikcache._concurrency.guard import Guard
from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._concurrency.shared import items
from aikcache._keys.globs import MOST_GLOBS, covering
from aikcache._keys.patterns import ANY_TAG, Invalidation, joined
from aikcache._redis.reply import Command, ErrorReply
from aikcache._redis.transport import NewServer
from aikcache._remote.store import RedisStore
from aikcache.errors import ConfigError, RemoteError, RemoteUnavailableError

JUST_STARTED = 300
"""Uptime in seconds below which what a server holds counts as restored from disk."""
MOST_TAKEOVERS = 3
DISTRUST_MS = 30 * 86_400_000
"""How long it is known that a server's takeover was seen; the next process then invalidates everything again."""


class PendingInvalidations:
    """What one process must still tell, or tell again."""

    def __init__(
        self,
        remote: RedisStore,
        reporter: RateLimitedReporter,
        clock: Callable[[], float],
        limit: int,
        journal: Journal | None,
        forget: Callable[[], object],
    ) -> None:
        self._remote = remote
        self._reporter = reporter
        self._clock = clock
        self._limit = limit
        self._journal = journal
        self._forget = forget
        config = remote.connections.config
        self._distrusts = config.failover == "distrust"
        self._replicas, self._patience = config.invalidate_wait, config.timeout / 2
        self._unconfirmed: dict[tuple[str, str], float] = {}
        self.servers_met = 0
        self._guard = Guard()
        self._sending = threading.RLock()
        self.pending: dict[tuple[str, str], float] = {}
        self._published: dict[tuple[str, str], float] = {}
        self._adopted: dict[tuple[str, str], float] = {}  # published by others
        self._recent = Recent(clock())
        self._max_staleness = config.max_staleness
        self.replayed = 0
        if journal is not None:
            found = journal.read()
            self.pending = dict.fromkeys(found if len(found) <= limit else [ALL], clock())

    def __len__(self) -> int:
        return len(self.pending) + len(self._unconfirmed)

    def oldest(self) -> float | None:
        """Seconds that the oldest pending invalidation waits; None when there is none."""
        waiting = [*self.pending.values(), *self._unconfirmed.values()]
        return self._clock() - min(waiting) if waiting else None

    def keep(self, what: Invalidation) -> None:
        """These could not be sent."""
        for name in what.names():
            self._add(name)

    def adopt(self, names: Iterable[tuple[str, str]]) -> None:
        """Another process could not send these, and has published them."""
        for name in names:
            self._add(name)
            if (when := self.pending.get(name)) is not None:
                self._adopted[name] = when

    def unpublished(self) -> list[tuple[str, str]]:
        """What is pending here, and was not yet published, by others neither; it counts as published then."""
        before, self._published = self._published, dict(items(self.pending))
        self._adopted = {name: when for name, when in items(self._adopted) if self._published.get(name) == when}
        return [
            name for name, when in self._published.items() if when not in (before.get(name), self._adopted.get(name))
        ]

    def publish_again(self) -> None:
        """Of what was published here somebody may have missed some: it counts as unpublished."""
        self._published = {}

    def _add(self, name: tuple[str, str]) -> None:
        if ALL in self.pending:
            name = ALL  # told again, should it just be on its way
        elif len(self.pending) >= self._limit and name not in self.pending:
            self._reporter.report(
                "pending", f"more than {self._limit} invalidations wait for Redis; they become one of everything."
            )
            self._write(ALL)
            self.pending = {ALL: self._clock()}  # in one step: it must never be seen empty
            return
        if name not in self.pending:
            self._write(name)
        self._guard.do(lambda: self.pending.__setitem__(name, self._clock()))

    def _write(self, name: tuple[str, str]) -> None:
        """To the journal; a child of `fork` also takes over what it finds there."""
        if self._journal is not None:
            try:
                self._journal.add(name)
            except (OSError, ConfigError) as error:
                self._reporter.report("journal", f"an invalidation is in memory only, not in the journal: {error}")
            for left in self._journal.read():
                self.pending.setdefault(left, self._clock())

    def send(self, refused: str | None = None) -> None:
        """Send what is pending. Raises `RemoteError` when it cannot be sent: Redis is then not to be read either.

        `refused`: why it is known that it would be refused, so that nobody waits to hear it; a heartbeat tries again.
        """
        if not self.pending:
            return
        if refused is not None:
            raise RemoteUnavailableError(f"invalidations wait for the server, which would refuse them: {refused}")
        waiting = RemoteUnavailableError("invalidations are being replayed first.")
        if self._sending._is_owned():  # type: ignore[attr-defined]
            raise waiting
        try:
            if not self._sending.acquire(blocking=False):
                raise waiting
            for _ in range(MOST_TAKEOVERS):
                before = self.servers_met
                batch = items(self.pending)
                what = _few_globs(joined([name for name, _ in batch]))
                sweep.end(self._remote, what)
                if self.servers_met == before:
                    break  # who was told is who is read from next
            else:
                raise RemoteUnavailableError("the server changes again and again.")
            # What was read since it was kept is from before it; its push comes as an echo, and ends nothing here.
            self._remote.stamps.forget(*what.groups)
            for name, when in batch:
                self._guard.do(lambda name=name, when=when: self._drop(name, when))  # type: ignore[misc]
            self.sent(what, before)
            self.replayed += len(batch)
            self._tidy()
        finally:
            try:  # noqa: SIM105  # one call into C, and nothing before it: else the lock might stay taken
                self._sending.release()
            except RuntimeError:  # it was not taken
                pass

    def _tidy(self) -> None:
        """Empty the journal when nothing is to be told any more."""
        if self._journal is not None and not self.pending and not self._unconfirmed:
            self._journal.clear()
            for name in [*self.pending, *self._unconfirmed]:  # kept while we cleared: its line may have gone as well
                self._write(name)

    def _drop(self, name: tuple[str, str], when: float) -> None:
        if self.pending.get(name) == when:
            del self.pending[name]

    def sent(self, what: Invalidation, servers_met: int) -> None:
        """Redis has heard these; should it be replaced by one that may not have, they are sent again.

        `servers_met` as it was before they were sent. If another server was met since, it was not told of them, and who
        acknowledged them may have been the one before.
        """
        self._recent.add(what.names())  # first: from here on a new server is sent them too
        if self.servers_met != servers_met:
            self.keep(what)
        if self._replicas and (self._unconfirmed or not self._acknowledged()):
            self._add_unconfirmed(what.names())  # with some unheard already, a call does not wait for its own

    def confirm(self) -> None:
        """Ask whether the replicas have heard by now what they had not. Raises `RemoteError`.

        With each heartbeat; what has been vouched for since for long enough need not be sent again.
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
                self._unconfirmed = {}
                name = ALL
            if name not in self._unconfirmed:
                self._write(name)
            self._unconfirmed[name] = self._clock()
        self._reporter.report("unheard", f"fewer than {self._replicas} replicas acknowledged an invalidation.")

    def on_new_server(self, new: NewServer) -> None:
        """Before anything else is asked of a server not met before. May raise `RemoteError`."""
        run = new.identity
        commands: list[Command] = []
        names: dict[tuple[str, str], None] = {}
        again = Invalidation()
        self.servers_met += new.replaces  # before `_coherence/recent` is read: see `sent`
        if self._distrusts:
            commands.append(self._remote.commands.invalidate_before_run(run.id, DISTRUST_MS))
        elif run.uptime < JUST_STARTED:
            commands.append(self._remote.commands.invalidate_before_run(run.id))
        if new.replaces:
            names = self._recent.names() | dict.fromkeys(list(self._unconfirmed))
            if self._replicas and names:
                self._add_unconfirmed(names)
            again = joined(list(names))
            commands += self._remote.commands.invalidations(again.groups, again.keys)
            for glob in again.globs:  # a sweep takes long: it goes with what is pending, before anything is read
                self._add(("globs", glob))
        replies = new.ask(commands) if commands else []
        if new.replaces:
            self._renew_elsewhere(again.groups, commands, replies)
            self._recent.add(names)  # who has heard them now may be replaced in its turn
            self._forget()

    def _renew_elsewhere(self, groups: Sequence[str], commands: Sequence[Command], replies: Sequence[Any]) -> None:
        """Where the stamp of any tag was told again, so are the tags' own on other nodes, before anything is read.

        While it was lost, a load from before could be stored under a tag's new stamp, which nothing has ended.
        """
        stamps = {self._remote.keyspace.stamp(group): group for group in groups if group.startswith(ANY_TAG)}
        refused = {command[1] for command, reply in zip(commands, replies, strict=True) if type(reply) is ErrorReply}
        if ANY_TAG in stamps.values() and self._remote.keyspace.stamp(ANY_TAG) not in refused:
            for name in stamps.keys() & refused:
                self._add(("groups", stamps[name]))

    def after_fork(self) -> None:
        """In the child: what is pending stays so, for the parent may end without sending it, and twice is harmless.

        The child's journal will be a file of its own.
        """
        self._guard = Guard()
        self._sending = threading.RLock()
        if self._journal is not None:
            self._journal.after_fork()

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()


def _few_globs(what: Invalidation) -> Invalidation:
    """The same, or more: each glob is compared with every local key of every process."""
    return what if len(what.globs) <= MOST_GLOBS else replace(what, globs=(covering(what.globs),))
