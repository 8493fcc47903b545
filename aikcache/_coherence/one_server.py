"""The heartbeats of a single server: PING, or what shows the role of a primary behind Sentinel."""

from __future__ import annotations

from aikcache._coherence.channel import HEARTBEAT
from aikcache._redis.pool import Pool
from aikcache._redis.reply import Command
from aikcache._remote.store import RedisStore


class OneServer:
    """The heartbeats of a single server, or of the primary behind Sentinel."""

    rest = HEARTBEAT

    def __init__(self, connections: Pool, remote: RedisStore) -> None:
        self.connections = connections
        self.checked = connections.sentinels is not None
        self.check = connections.check_heartbeat
        self._probe = remote.commands.probe

    @property
    def heartbeat(self) -> Command:
        return self.connections.heartbeat

    def fast_heartbeat(self) -> bool:
        return False

    def probe(self, number: int) -> Command | None:
        return self._probe()
