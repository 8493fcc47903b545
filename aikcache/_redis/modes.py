"""What a URL of one server may lead to by mistake: a node of a cluster, or a Sentinel.

Both answer PING. A node takes an invalidation that reaches no one, and refuses or redirects most of the rest; so
neither is used. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from aikcache._redis.transport import NewServer
from aikcache.errors import RemoteUnavailableError

OTHERS = {
    "cluster": "this is a node of a Redis Cluster: the url begins with 'redis+cluster' or 'rediss+cluster'.",
    "sentinel": "this is a Sentinel: the url begins with 'redis+sentinel' and ends with the service that it watches.",
}


def mode(info: Mapping[str, str]) -> str:
    """From the fields of `INFO server`: "standalone", "cluster" or "sentinel"; "": not reported."""
    return info.get("server_mode") or info.get("redis_mode", "")  # Valkey, Redis


def single(new: NewServer) -> NewServer:
    """The server itself. Raises `RemoteUnavailableError` where the URL needs another beginning."""
    if message := OTHERS.get(new.identity.mode):
        raise RemoteUnavailableError(message)
    return new
