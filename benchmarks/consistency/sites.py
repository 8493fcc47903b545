"""What the checker runs over besides one server: a primary behind Sentinel, or a cluster.

A shard is what has one primary at a time: all there is behind Sentinel, a third of the slots in a cluster. Who that is,
and in which run, is looked at all the time (`Site.look`), so that a takeover is noted whatever has caused it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aikcache.errors import RemoteUnavailableError
from aikcache.testing import Server
from aikcache.testing.cluster import ClusterTopology
from aikcache.testing.sentinel import SERVICE, Topology
from benchmarks.consistency.records import clock

DOWN_AFTER_MS = 1000
"""How long a primary is silent before it counts as gone; nobody is stopped for about as long without meaning it."""
POLL = 0.05
WITHIN = 30.0
UNASKED = 5.0
"""Seconds before a takeover that no fault has caused, in which it may have begun."""


@dataclass(frozen=True, slots=True, eq=False)
class Takeover:
    """A shard is served by another run: of another server (`lossy`), or of the same one, restarted.

    Clients can know of it from `named` on. What the one before has acknowledged since `began` may be lost.
    """

    name: str
    began: float
    named: float
    run: str
    slots: frozenset[int] | None  # None: all
    lossy: bool

    def concerns(self, slots: frozenset[int] | None) -> bool:
        return self.slots is None or slots is None or not self.slots.isdisjoint(slots)


class Report(NamedTuple):
    """Who is said to be the primary, and in which epoch. `coming`: a failover to him is under way."""

    epoch: int
    coming: bool
    server: Server


class Site(ABC):
    """One topology, `one`. `down`: servers that cannot be asked now; `failing`: shards that are made to, since when."""

    url: str
    shards: range
    one: Topology | ClusterTopology

    def __init__(self) -> None:
        self.down: set[Server] = set()
        self.takeovers: list[Takeover] = []
        self.failing: dict[int, tuple[str, float]] = {}
        self._epochs: dict[int, int] = {}
        self._serving: dict[int, tuple[Server, str, float]] = {}

    @abstractmethod
    def reports(self, shard: int) -> list[Report]:
        """Who is said to be the primary."""

    @abstractmethod
    def slots(self, owner: Server) -> frozenset[int] | None: ...

    @abstractmethod
    def whole(self) -> bool:
        """Whether all servers are back in their places."""

    @abstractmethod
    def fail_over(self, shard: int) -> None:
        """By hand. Raises `RemoteUnavailableError` when it is refused."""

    def in_step(self, shard: int, primary: Server) -> bool:
        """Whether its replicas have what it has. Connected is not enough: what was lost in a partition comes seconds
        after that has healed, when TCP sends it again.
        """
        reached = self._offset(primary)
        return all(self._offset(replica) >= reached for replica in self.replicas(shard))

    def _offset(self, server: Server) -> int:
        return int(_by_name(self.ask(server, "INFO", "replication").decode())["master_repl_offset"])

    @abstractmethod
    def remove_saved(self, server: Server) -> None:
        """Before a server is started again, remove the old data that it would restore."""

    @abstractmethod
    def lead_back(self, old: Server) -> None:
        """Make a primary that has come back a replica at once; else its peers do that in their own time."""

    def owner(self, shard: int) -> Server | None:
        """Whom clients take for the primary: who is in the highest epoch that there has been."""
        report = max(self.reports(shard), key=lambda report: report[:2], default=None)
        if report is None or report.epoch < self._epochs.get(shard, 0):
            return None  # whoever knows better does not answer now
        self._epochs[shard] = report.epoch
        return report.server

    @abstractmethod
    def members(self, shard: int) -> list[Server]:
        """Who can be its primary."""

    def replicas(self, shard: int) -> list[Server]:
        owner = self.owner(shard)
        return [server for server in self.members(shard) if server is not owner and server not in self.down]

    def ask(self, server: Server, *command: str | int) -> Any:
        return self.one.ask(server, *command)

    def primaries(self) -> list[Server]:
        """The primaries that answer."""
        found = {self.owner(shard) for shard in self.shards} - self.down - {None}
        return [server for server in self.one.servers if server in found]

    def serving(self, shard: int) -> Server:
        """The primary as it was seen last."""
        return self._serving[shard][0]

    def look(self) -> None:
        """Note who serves which shard."""
        for shard in self.shards:
            now, owner = clock(), self.owner(shard)
            if owner is None or owner in self.down:
                continue
            with suppress(RemoteUnavailableError):
                run = self._run(owner)
                before = self._serving.get(shard)
                if before is not None and before[1] != run:
                    name, began = self.failing.pop(shard, ("unasked", before[2] - UNASKED))
                    lossy = before[0] is not owner
                    self.takeovers.append(Takeover(name, began, clock(), run, self.slots(owner), lossy))
                self._serving[shard] = (owner, run, now)

    def _run(self, server: Server) -> str:
        """As `Pool` calls it: one process from its start or promotion on."""
        lines = b"".join(self.ask(server, "INFO", section) for section in ("server", "replication")).decode()
        facts = _by_name(lines)
        return f"{facts['run_id']}-{facts['master_replid']}"

    @contextmanager
    def paused(self, server: Server) -> Iterator[None]:
        self.down.add(server)
        server.pause()
        try:
            yield
        finally:
            server.resume()
            self.down.discard(server)

    def until_whole(self, failed: int | None = None) -> Iterator[float]:
        """Seconds to wait, again and again, until all is as it should be, a shard that has failed too."""
        began = helped = clock()
        while True:
            self.look()
            with suppress(RemoteUnavailableError):
                if self.whole():
                    break
                if clock() > helped + WITHIN:  # after much has failed at once they may need help
                    helped = clock()
                    for shard in self.shards:
                        for server in self.replicas(shard):
                            self.lead_back(server)
            if clock() > began + 5 * WITHIN:
                raise TimeoutError("the servers do not come together again")
            yield POLL
        self.look()
        if failed is not None:
            self.failing.pop(failed, None)


class BehindSentinel(Site):
    """One primary, which Sentinels name."""

    shards = range(1)

    def __init__(self, topology: Topology) -> None:
        super().__init__()
        self.one: Topology = topology
        self.url = topology.url

    def reports(self, shard: int) -> list[Report]:
        """As each Sentinel says."""
        servers = {server.port: server for server in self.one.servers}
        found = []
        for sentinel in self.one.sentinels:
            with suppress(RemoteUnavailableError):
                facts = _facts(self.ask(sentinel, "SENTINEL", "MASTER", SERVICE))
                _, port = self.ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)  # no older than the facts
                found.append(Report(int(facts[b"config-epoch"]), port != facts[b"port"], servers[int(port)]))
        return found

    def members(self, shard: int) -> list[Server]:
        return self.one.servers

    def slots(self, owner: Server) -> None:
        return None

    def whole(self) -> bool:
        primaries = self.one.primaries()
        if self.down or len({report.server for report in self.reports(0)}) != 1 or primaries != [self.owner(0)]:
            return False
        others = len(self.one.servers) - 1
        online = self.ask(primaries[0], "INFO", "replication").count(b"state=online")
        if online != others or not all(self._content(sentinel, others) for sentinel in self.one.sentinels):
            return False
        return self.in_step(0, primaries[0])

    def _content(self, sentinel: Server, others: int) -> bool:
        facts = _facts(self.ask(sentinel, "SENTINEL", "MASTER", SERVICE))
        replicas = [_facts(reply) for reply in self.ask(sentinel, "SENTINEL", "REPLICAS", SERVICE)]
        in_step = [replica[b"flags"] == b"slave" and replica[b"master-link-status"] == b"ok" for replica in replicas]
        return facts[b"flags"] == b"master" and in_step == [True] * others

    def fail_over(self, shard: int) -> None:
        self.one.fail_over()

    def remove_saved(self, server: Server) -> None:
        """It keeps a log of all that it did."""

    def lead_back(self, old: Server) -> None:
        owner = self.owner(0)
        if owner is not None and owner is not old:
            self.ask(old, "REPLICAOF", self.one.host(owner), str(owner.port))


class Clustered(Site):
    """Three primaries with a replica each, which take each other's places."""

    shards = range(3)

    def __init__(self, topology: ClusterTopology) -> None:
        super().__init__()
        self.one: ClusterTopology = topology
        self.url = topology.url

    def members(self, shard: int) -> list[Server]:
        return self.one.servers[shard :: len(self.shards)]

    def reports(self, shard: int) -> list[Report]:
        """As those say who take themselves for it: one that comes back and has lost its slots is not yet a replica."""
        found = []
        for server in self.members(shard):
            if server in self.down:
                continue
            with suppress(RemoteUnavailableError):
                if self.ask(server, "ROLE")[0] == b"master" and self.slots(server):
                    facts = dict(line.split(":", 1) for line in self.ask(server, "CLUSTER", "INFO").decode().split())
                    found.append(Report(int(facts["cluster_my_epoch"]), False, server))
        return found

    def slots(self, owner: Server) -> frozenset[int]:
        found: set[int] = set()
        for part in next(fields for fields in self.one.nodes(owner) if "myself" in fields[1])[7:]:
            if not part.startswith("["):
                first, _, last = part.partition("-")
                found.update(range(int(first), int(last or first) + 1))
        return frozenset(found)

    def whole(self) -> bool:
        if self.down or not self.one.serving(*self.one.servers):
            return False
        for shard in self.shards:
            owner = self.owner(shard)
            if owner is None or not all(map(self.one.in_step, self.replicas(shard))) or not self.in_step(shard, owner):
                return False
        seen = [{(f[0], "master" in f[1], "fail" in f[1]) for f in self.one.nodes(s)} for s in self.one.servers]
        return all(view == seen[0] for view in seen) and not any(failed for *_, failed in seen[0])

    def fail_over(self, shard: int) -> None:
        for replica in self.replicas(shard):
            self.ask(replica, "CLUSTER", "FAILOVER")

    def remove_saved(self, server: Server) -> None:
        """What it was sent when it became a replica lies on its disk, and would come back however old it is."""
        for file in Path(server.directory).glob("*.rdb"):
            file.unlink()

    def lead_back(self, old: Server) -> None:
        """A node that has come back finds out by itself, at once."""


def _by_name(info: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)


def _facts(reply: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(reply[::2], reply[1::2], strict=True))
