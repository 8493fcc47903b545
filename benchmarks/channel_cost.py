"""What coherence costs: a push to one more process takes a server some µs, so many processes bound the invalidations.

Measured on real connections: the server's CPU for a push to 1 … 800 of them, bytes on the wire, heartbeats, and the
memory of connections and stamps; the CPU of a process that receives pushes; and on a cluster of three what a heartbeat
says and which connections a process opens. `_cluster_model.py` makes of it what a thousand processes would ask of a
cluster; `docs/scaling.md` says how. CPU is the server's own count, so a busy machine distorts it less than a clock.
"""

from __future__ import annotations

import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import hiredis
import redis

from aikcache import Cache
from aikcache._concurrency.guard import Guard
from aikcache._redis.cluster.topology import slot_of
from aikcache._remote.stamps import Stamps
from aikcache.testing import Server, wait_until
from aikcache.testing.cluster import ClusterTopology
from benchmarks._harness.crew import Act, Crew, in_threads, moment
from benchmarks._harness.measure import Plot, Row, Settings, duration
from benchmarks._harness.plots import number

from ._cluster_model import Costs, Demand, Deployment, demand

COUNTS = (1, 10, 100, 400, 800)
BATCHES, BATCH = 5, 100
STAMPS = 10_000
BEATS = 20
PUSHED = 2000
THREADS = 8
_TAGS = tuple(f"{{{n}}}" for n in range(1000))
MODELLED = [
    Deployment(
        processes=1000,
        primaries=n,
        nodes=2 * n,
        threads=THREADS,
        keys=50,
        tags=50,
        stamps=1_000_000,
        stamps_used=20_000,
    )
    for n in (3, 6)
]
WAYS: dict[str, Callable[[Cache, int], object]] = {
    "a key": lambda cache, i: cache.invalidate_key(f"resource:get_by_id:{i:036}"),
    "a group": lambda cache, i: cache.invalidate("resource:get_by_id"),
    "a tag": lambda cache, i: cache.invalidate_tags(f"resource:{i:036}"),
}


class Listeners:
    """Connections that are pushed to as a channel's is, and read only when asked to."""

    def __init__(self, server: Server, prefix: str | None) -> None:
        self._server, self._prefix = server, prefix
        self._links: list[tuple[socket.socket, Any]] = []

    def open(self, count: int) -> None:
        for _ in range(count):
            link = socket.create_connection(("127.0.0.1", self._server.port or 0), timeout=30)
            self._links.append((link, hiredis.Reader()))
            if self._prefix is not None:
                link.sendall(_packed("HELLO", "3"))
                link.sendall(_packed("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._prefix))
                _read(*self._links[-1])
                _read(*self._links[-1])

    def beat(self, *commands: tuple[str, ...]) -> int:
        """Ask all of them; gives the bytes of one question and its answers."""
        question, bytes_ = b"".join(_packed(*command) for command in commands), 0
        for link, _ in self._links:
            link.sendall(question)
        for link, reader in self._links:
            bytes_ = len(question) + sum(_read(link, reader)[1] for _ in commands)
        return bytes_

    def pushed(self) -> tuple[int, int, int]:
        """Messages, names and bytes pushed to the last of them since it was asked before; all are read."""
        messages = names = bytes_ = 0
        for link, reader in self._links:
            link.sendall(_packed("PING"))
            messages = names = bytes_ = 0
            while True:
                reply, size = _read(link, reader)
                bytes_ += size
                if not isinstance(reply, list):
                    break
                messages, names = messages + 1, names + len(reply[1])
        return messages, names, bytes_ - len(b"+PONG\r\n")

    def close(self) -> None:
        for link, _ in self._links:
            link.close()


def _packed(*command: str) -> bytes:
    data: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return data


def _read(link: socket.socket, reader: Any) -> tuple[Any, int]:
    """The next message, and bytes received meanwhile."""
    size = 0
    while (reply := reader.gets()) is False:
        data = link.recv(65536)
        if not data:
            raise ConnectionError("the server closed a connection")
        size += len(data)
        reader.feed(data)
    if isinstance(reply, Exception):
        raise reply
    return reply, size


def run(settings: Settings) -> list[Row | Plot]:
    """What was measured, then what it comes to; always on servers of its own."""
    cpu = []
    for done, count in enumerate(COUNTS):
        cpu.append(_push_cpu(count))
        settings.progress((done + 1) / (len(COUNTS) + 2))
    burst = _push_cpu(COUNTS[-1], burst=True)
    pushes, push_bytes = _push_bytes()
    with Server(port=0) as server:
        new, channel = _connection_memory(server)
        stamp = _stamp_memory(server)
        beat_cpu, beat_bytes = _beat(server, ("PING",), _probe(""))
        receive = _receiver_cpu(server.url)
    with ClusterTopology(replicas=0) as cluster:
        node = cluster.servers[0]
        mine = next(probe for probe in map(_probe, _TAGS) if cluster.owner(slot_of(probe[1])) is node)
        cluster_cpu, cluster_bytes = _beat(node, ("CLUSTER", "INFO"), mine)
        view_bytes = _beat(node, ("CLUSTER", "SHARDS"))[1]
        opened = {threads: _opened(cluster, threads) for threads in (1, THREADS)}
    costs = Costs(
        push=cpu[0], push_each=(cpu[-1] - cpu[0]) / (COUNTS[-1] - COUNTS[0]), push_bytes=push_bytes, receive=receive,
        beat=cluster_cpu, beat_bytes=cluster_bytes, view_bytes_each=view_bytes / 3, channel=channel, connection=new,
        stamp=stamp, stamp_here=_stamp_memory_here(),
    )  # fmt: skip
    shown = ", ".join(f"{count}: {duration(seconds)}" for count, seconds in zip(COUNTS, cpu, strict=True))
    rows: list[Row | Plot] = [
        Row(
            question="push, CPU of the server by connections",
            figure=shown,
            rival=f"{BATCH} keys at once: {duration(burst)} a key",
            measured=costs.push_each * 1e6,
            unit=" µs each",
        ),
        *pushes,
        Row(question="push, CPU of a process that is informed", figure=duration(receive)),
        Row(
            question="heartbeat, CPU of the server",
            figure=f"PING and a write {duration(beat_cpu)}, {beat_bytes} bytes",
            rival=f"on a cluster, CLUSTER INFO and a write: {duration(cluster_cpu)}, {cluster_bytes} bytes",
        ),
        Row(question="a node's view, CLUSTER SHARDS of 3 nodes", figure=f"{view_bytes} bytes"),
        Row(question="a connection in the server", figure=f"new {new:.0f}, a channel at rest {channel:.0f} bytes"),
        Row(question="a stamp", figure=f"in the server {stamp:.0f}, in a process {costs.stamp_here:.0f} bytes"),
    ]
    for threads, found in opened.items():
        rows.append(Row(question=f"connections of a process to a cluster of 3, {threads} threads", figure=found))
    for deployment in MODELLED:
        rows += _modelled(deployment, demand(costs, deployment))
    line = [(float(count), seconds * 1e6) for count, seconds in zip(COUNTS, cpu, strict=True)]
    title, lines = "Server CPU of ending a key, by processes that are informed", {"aikcache": line}
    plot = Plot(name="push_cpu", title=title, x="connections", y="µs", lines=lines, log_x=True, log_y=True)
    return [*rows, plot]


def _modelled(deployment: Deployment, found: Demand) -> list[Row]:
    d, f = deployment, found
    shown = {
        f"pushes at {d.keys:g} keys, {d.tags:g} tags a second": f"{number(f.pushes)} a second, "
        f"{number(f.push_bytes)}B a second, {f.push_cpu:.0%} of a core",
        "names a second that fill a core": number(f.most_names),
        "heartbeats": f"{number(f.beats)} a second, {number(f.beat_bytes)}B a second, {f.beat_cpu:.1%} of a core",
        "connections": f"{f.connections}, {number(f.connection_memory)}B",
        "stamps": f"{number(f.stamps)}, {number(f.stamp_memory)}B; in a process {number(f.stamp_memory_here)}B",
        "a process is informed": f"{f.received:g} names a second, {f.received_cpu:.2%} of a core",
    }
    where = f"model, {d.processes} processes, busiest of {d.primaries} primaries"
    return [Row(question=f"{where}: {what}", figure=figure) for what, figure in shown.items()]


def _cpu(client: Any) -> float:
    info = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


@contextmanager
def _listened() -> Iterator[tuple[Server, Cache, Listeners]]:
    """A server of its own, a cache whose channel lives, and what will listen beside it."""
    with (
        Server(port=0) as server,
        Cache(server.url, instance="bench") as cache,
        closing(Listeners(server, cache.space.pushed)) as others,
    ):
        if not cache.wait_coherent(30):
            raise RuntimeError("the channel did not come")
        yield server, cache, others


def _push_cpu(count: int, *, burst: bool = False) -> float:
    """Seconds of the server's CPU to invalidate a key that is pushed to `count` processes, the writer included."""
    with _listened() as (server, cache, others), redis.Redis.from_url(server.url) as client:
        others.open(count - 1)
        spent = 0.0
        for batch in range(BATCHES):
            before = _cpu(client)
            if burst:
                cache.invalidate_key(*(f"resource:get_by_id:{i:036}" for i in range(BATCH)))
            else:
                for i in range(BATCH):
                    WAYS["a key"](cache, batch * BATCH + i)
            spent += _cpu(client) - before
            if count > 1 and others.pushed()[1] < BATCH:
                raise RuntimeError("not all that was ended was pushed")
    return spent / BATCHES / BATCH


def _push_bytes() -> tuple[list[Row], float]:
    """Rows on what is pushed for each kind, alone and in bursts; and the bytes of a key's name, alone."""
    rows, of_key = [], 0.0
    with _listened() as (_, cache, others):
        others.open(1)
        for what, end in WAYS.items():
            for i in range(BATCH):
                end(cache, i)
            messages, names, bytes_ = others.pushed()
            of_key = of_key or bytes_ / names
            figure = f"{messages / BATCH:.3g} messages, {names / BATCH:.3g} names, {bytes_ / BATCH:.0f} bytes"
            rows.append(Row(question=f"push, {what} ended", figure=figure))
        cache.invalidate_key(*(f"resource:get_by_id:{i:036}" for i in range(BATCH)))
        messages, names, bytes_ = others.pushed()
        figure = f"{messages} messages, {names} names, {bytes_} bytes"
        rows.append(Row(question=f"push, {BATCH} keys ended at once", figure=figure))
    return rows, of_key


def _probe(tag: str) -> tuple[str, ...]:
    """The write of a heartbeat: it changes nothing."""
    return "SET", f"bench:v1:!probe:{tag}", "1", "XX"


def _beat(server: Server, *commands: tuple[str, ...]) -> tuple[float, int]:
    """Seconds of the server's CPU for a heartbeat, each on a connection of its own, and its bytes both ways."""
    port = server.port or 0
    with redis.Redis(port=port) as client, closing(Listeners(server, None)) as links:
        links.open(100)
        bytes_ = links.beat(*commands)
        before = _cpu(client)
        for _ in range(BEATS):
            links.beat(*commands)
        return (_cpu(client) - before) / BEATS / 100, bytes_


def _connection_memory(server: Server) -> tuple[float, float]:
    """Bytes of a channel's connection: new, with the buffers of its first words, and when the server took them back."""
    count = COUNTS[-1]
    with redis.Redis.from_url(server.url) as client, closing(Listeners(server, "bench:v1:~")) as links:

        def used() -> float:
            return float(client.info("memory")["used_memory"])

        before = used()
        links.open(count)
        new = used() - before
        wait_until(lambda: used() - before < new / 2, 30, "the server to take back buffers")
        time.sleep(2)
        links.beat(("PING",))
        return new / count, (used() - before) / count


def _stamp_memory(server: Server) -> float:
    with redis.Redis.from_url(server.url) as client, Cache(server.url, instance="bench") as cache:
        before = client.info("memory")["used_memory"]
        pipe = client.pipeline(transaction=False)
        for i in range(STAMPS):
            pipe.set(cache.space.stamp(f"#resource:{i:036}"), b"12345678", px=600_000)
        pipe.execute()
        return float(client.info("memory")["used_memory"] - before) / STAMPS


def _stamp_memory_here() -> float:
    stamps = Stamps(Guard(), time.monotonic)
    stamps.forget_all(trusted=True)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(STAMPS):
            stamps.remember([f"#resource:{i:036}"], [b"%08d" % i], stamps.epoch)
        return (tracemalloc.get_traced_memory()[0] - before) / STAMPS
    finally:
        tracemalloc.stop()


@contextmanager
def _listen(url: str) -> Iterator[Act]:
    """A process that holds nothing and receives many pushes. It gives its CPU time after so many names."""
    with Cache(url, instance="bench") as cache:
        cache.wait_coherent(30)

        def act(shown: int) -> float:
            wait_until(lambda: cache.stats().pushes >= shown, 30, "pushes")
            return time.process_time()

        yield act


def _receiver_cpu(url: str) -> float:
    with Crew(1, _listen, url) as crew, Cache(url, instance="bench") as cache:
        (before,) = crew.ask(0)
        for i in range(PUSHED):
            WAYS["a key"](cache, i)
        (after,) = crew.ask(PUSHED)
    return float(after - before) / PUSHED


def _opened(cluster: ClusterTopology, threads: int) -> str:
    """The connections of one process whose threads are all in Redis at once."""
    with Cache(cluster.url, instance=f"bench{threads}", local_ttl=0) as cache:

        @cache.cached("bench", ttl=60)
        def load(number: int) -> int:
            return number

        if not cache.wait_coherent(30):
            raise RuntimeError("the channels did not come")
        in_threads(threads, moment(), lambda: [load(i) for i in range(300)])
        names = [b"name=aikcache-channel ", b"name=aikcache "]
        found = [[cluster.ask(server, "CLIENT", "LIST").count(name) for name in names] for server in cluster.servers]
    return "; ".join(f"{channels} channel and {others} others" for channels, others in found)
