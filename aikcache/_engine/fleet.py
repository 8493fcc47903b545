"""The counts of all processes of a cache: each publishes its own, and any process can add them up.

A process is alive while its snapshot is younger than three of its intervals. The snapshot of a process that is not
alive stays for an hour, in case it comes back, and is then added to the totals of exited processes, by host. So each
is counted once. The counts between a process's last snapshot and its exit are lost.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from aikcache._concurrency import chance
from aikcache._engine import reading as _reading
from aikcache._engine.reading import Reading
from aikcache._engine.stats import SUMMED, FleetStats, OperationStats, ProcessStats
from aikcache._engine.tally import Tally, tally_of
from aikcache._remote.fleet_store import FleetRecords, FleetStore
from aikcache._remote.scripts import MAX_SNAPSHOT
from aikcache._remote.store import RedisStore

FOLD_AFTER = 3600.0
MAX_EXITED, MAX_HOSTS = 64, 100
"""Snapshots of exited processes that are kept for the hour, and hosts that have their own totals."""
INTERVALS = 3
TIDIERS = 16
"""Processes that read all snapshots in each interval."""
MAX_LABEL = 100


class Member(NamedTuple):
    """One process, from its snapshot."""

    id: str
    host: str
    pid: int
    age: float
    alive: bool
    reading: Reading


class Fleet:
    """Publishes the counts of one process, and reads those of all."""

    def __init__(self, remote: RedisStore, prefix: str, tally: Tally, interval: float) -> None:
        self._store = FleetStore(remote, prefix)
        self._tally = tally
        self._interval = interval
        self.used = False  # here, or in the parent before a fork

    def goes_on(self) -> bool:
        """Whether another open cache publishes the same counts of this process."""
        fleets = [engine.fleet for engine in self._tally.engines()]
        return any(
            one.used and one._store.prefix == self._store.prefix
            for one in fleets
            if one is not None and one is not self
        )

    def publish(self, within: float, *, last: bool = False) -> None:
        """Write this process's snapshot; `last`: it is no longer alive. Raises `RemoteError`."""
        tally, now = self._tally, _reading.take(self._tally)
        if not self._store.publish(tally.id, self._snapshot(now, last=last), within):
            tally.id, tally.folded = tally.new_id(), tally.published
            self._store.publish(tally.id, self._snapshot(now, last=last), within)
        tally.published = now

    def _snapshot(self, now: Reading, *, last: bool) -> bytes:
        if self._tally.folded is not None:
            now = _reading.less(now, self._tally.folded)
        head = {"host": _host(), "pid": os.getpid(), "interval": 0 if last else self._interval}
        return f"{now.counted():016x}{json.dumps({**head, **_reading.pack(now)})}".encode()

    def tidy(self, within: float) -> None:
        """Read all snapshots, and add those of processes that exited long ago to the totals of exited processes.

        In each interval only some of many processes do so. Raises `RemoteError`.
        """
        if chance.random() * self._store.listed > TIDIERS:
            return
        records = self._store.read(within)
        gone = sorted((m for m in _members(records) if not m.alive), key=lambda member: -member.age)
        fold = [m for i, m in enumerate(gone) if m.age > FOLD_AFTER or i < len(gone) - MAX_EXITED]
        if fold:
            exited = _by_host(records.exited)
            for member in fold:
                host = member.host if member.host in exited or len(exited) < MAX_HOSTS else ""
                exited[host] = _reading.merged((), [*filter(None, [exited.get(host)]), member.reading])
            self._store.fold(records, [member.id for member in fold], _packed(exited), within)

    def read(self, within: float, *, host: bool = False) -> tuple[Reading, Sequence[Member]]:
        """The totals, and the processes that are alive; `host`: of this machine alone. Raises `RemoteError`."""
        records = self._store.read(within)
        members = [member for member in _members(records) if not host or member.host == _host()]
        exited = [totals for name, totals in _by_host(records.exited).items() if not host or name == _host()]
        exited += [member.reading for member in members if not member.alive]
        alive = [member for member in members if member.alive]
        return _reading.merged([member.reading for member in alive], exited), alive


def stats(total: Reading, alive: Sequence[Member]) -> FleetStats:
    """The same as numbers for people."""
    operations = {labels[0]: _stats(total, labels[0]) for labels in total.samples["misses"]}
    processes = tuple(
        ProcessStats(
            **_fields(_stats(member.reading)), host=member.host, pid=member.pid, age=member.age,
            uptime=member.reading.samples.get("uptime_seconds", {}).get((), 0.0),
        )
        for member in alive
    )  # fmt: skip
    return FleetStats(**_fields(_stats(total)), processes=processes, operations=operations)


def this_process(prefix: str | None) -> FleetStats:
    """The counts of this process, where there is no Redis."""
    total = _reading.merged([] if prefix is None else [_reading.take(tally_of(prefix))])
    return stats(total, [Member("", _host(), os.getpid(), 0.0, True, total)])


def _fields(counts: OperationStats) -> dict[str, Any]:
    return {name: getattr(counts, name) for name in SUMMED}


def _stats(reading: Reading, operation: str | None = None) -> OperationStats:
    def count(name: str, *rest: str) -> int:
        found = reading.samples.get(name, {}).items()
        matching = (v for labels, v in found if operation in (None, labels[0]) and labels[1 : 1 + len(rest)] == rest)
        return int(sum(matching))

    plain = {name: count(name) for name in SUMMED if name in _reading.COUNTERS and name not in ("loads", "evictions")}
    hits = {f"{tier}_hits" if tier != "joined" else tier: count("hits", tier) for tier in ("local", "remote", "joined")}
    return OperationStats(**plain, **hits, loads=count("loads", "ok"), evictions=0 if operation else count("evictions"))


def _members(records: FleetRecords) -> list[Member]:
    found = []
    for id, (data, age) in records.processes.items():
        facts = _reading.parse(data[16:]) or {}
        host, pid, interval = facts.get("host"), facts.get("pid"), facts.get("interval")
        interval = interval if isinstance(interval, (int, float)) else 0
        alive = age < INTERVALS * interval
        pid = pid if type(pid) is int and 0 <= pid < 2**63 else 0
        found.append(Member(id, _named(host), pid, age, alive, _reading.unpack(facts)))
    return found


def _by_host(exited: bytes) -> dict[str, Reading]:
    hosts = islice((_reading.parse(exited) or {}).items(), MAX_HOSTS + 1)  # and "", for the rest of them
    return {_named(host): _reading.unpack(totals) for host, totals in hosts}


def _packed(exited: dict[str, Reading]) -> bytes:
    """The totals as JSON of at most `MAX_SNAPSHOT` bytes: hosts that do not fit are added up under ""."""
    while True:
        data = json.dumps({host: _reading.pack(totals) for host, totals in exited.items()}).encode()
        if len(data) <= MAX_SNAPSHOT or len(exited) < 2:
            return data
        hosts = [host for host in exited if host]  # those that were added first come first
        apart = hosts[(len(hosts) + 1) // 2 :]
        rest = _reading.merged((), [totals for host, totals in exited.items() if host not in apart])
        exited = {"": rest, **{host: exited[host] for host in apart}}


def _named(host: object) -> str:
    return host[:MAX_LABEL] if isinstance(host, str) and host.isprintable() else ""


def _host() -> str:
    return socket.gethostname()[:MAX_LABEL]
