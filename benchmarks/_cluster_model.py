"""What many processes ask of a Redis Cluster, from costs measured on one server. The formulae of `docs/scaling.md`."""

from __future__ import annotations

from dataclasses import dataclass

PACKET = 66
"""Bytes that TCP, IP and Ethernet add to what is sent at once."""
BEATS_A_VIEW = 30
"""Heartbeats after which a process fetches a node's view (CLUSTER SHARDS)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Measured: seconds of the server's CPU, bytes on the wire without headers, bytes of memory."""

    push: float
    """Of a name that is pushed: writing it, and tracking it."""
    push_each: float
    """The same, for each connection it is pushed to."""
    push_bytes: float
    receive: float
    """CPU of a process that receives pushes."""
    beat: float
    beat_bytes: float
    view_bytes_each: float
    """CLUSTER SHARDS, for each node."""
    channel: float
    """Memory of a channel's connection."""
    connection: float
    """Memory of one that values were just fetched on."""
    stamp: float
    """Memory of a stamp in Redis, its name included."""
    stamp_here: float
    """The same in a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Processes that all use all primaries, and what they do together in a second."""

    processes: int
    primaries: int
    nodes: int
    threads: int
    """In Redis at once, of one process."""
    keys: float
    """Keys and groups ended, a second."""
    tags: float
    """Tags ended, a second, each by a call of its own: its stamp, and the one stamp of any tag."""
    stamps: int
    """Tags with values, all together."""
    stamps_used: int
    """Those whose values one process meets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Of the primary that owns the stamp of any tag, which has the most to do; and of one process."""

    names: float
    pushes: float
    push_cpu: float
    push_bytes: float
    beats: float
    beat_cpu: float
    beat_bytes: float
    connections: int
    connection_memory: float
    stamps: float
    stamp_memory: float
    received: float
    received_cpu: float
    stamp_memory_here: float
    most_names: float
    """Names a second at which the pushes take a whole core of a primary."""


def demand(costs: Costs, deployment: Deployment) -> Demand:
    """What it comes to."""
    d, share = deployment, 1 / deployment.primaries
    names = (d.keys + d.tags) * share + d.tags
    each = costs.push + costs.push_each * d.processes
    received = d.keys + 2 * d.tags
    stamps = d.stamps * share
    others = d.threads + 1  # one asks for the map alone
    view = costs.view_bytes_each * d.nodes / BEATS_A_VIEW
    return Demand(
        names=names,
        pushes=names * d.processes,
        push_cpu=names * each,
        push_bytes=names * d.processes * (costs.push_bytes + PACKET),
        beats=d.processes,
        beat_cpu=d.processes * costs.beat,
        beat_bytes=d.processes * (costs.beat_bytes + view + 2 * PACKET),
        connections=d.processes * (1 + others),
        connection_memory=d.processes * (costs.channel + others * costs.connection),
        stamps=stamps,
        stamp_memory=stamps * costs.stamp,
        received=received,
        received_cpu=received * costs.receive,
        stamp_memory_here=d.stamps_used * costs.stamp_here,
        most_names=1 / each,
    )
