"""What servers and Sentinels answer: INFO, their configuration, the time, and which commands they let us use.

One connection to each server, and a deadline for all of it. A refused command is noted as refused; a server that cannot
be reached raises `RemoteError`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Final

from aikcache._concurrency.foreign import clean, kind
from aikcache._redis.connection import Connection
from aikcache._redis.pool import Pool
from aikcache._redis.reply import Command, ErrorReply
from aikcache._redis.sentinel import Sentinels
from aikcache._remote.replies import are_like

PINGS: Final = 3
_ALLOWED: Final = ("NOSCRIPT", "MOVED", "ASK", "TRYAGAIN")
"""Refusals of what a user may do: a script not known yet, a key of another node."""
SETTINGS: Final = (
    "maxmemory*", "appendonly", "save", "min-replicas-to-write", "client-output-buffer-limit", "maxclients",
    "enable-*", "cluster-require-full-coverage", "requirepass", "port", "tls-port", "tls-replication", "tls-cluster",
    "tls-protocols",
)  # fmt: skip


@dataclass(frozen=True)
class Server:
    """One server.

    `settings`: None where CONFIG GET is refused. `refused`: the commands of ours that were refused, and how. `clock`:
    seconds by which the server's clock is ahead of ours. `latency`: seconds for a PING. `replicas_wanted`: it stands
    behind Sentinel.
    """

    name: str
    info: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    clock: float = 0.0
    latency: float = 0.0
    replicas_wanted: bool = False

    def number(self, name: str) -> float:
        """A figure of INFO; 0 if it is missing, or is no number."""
        try:
            value = float(self.info.get(name, "0"))
        except ValueError:
            return 0.0
        return value if isfinite(value) else 0.0

    def setting(self, name: str) -> str:
        """A setting's value, "" where it is not known."""
        return (self.settings or {}).get(name, "")


@dataclass(frozen=True)
class Sentinel:
    """What one Sentinel reports of the service; `error`: why there is no report."""

    name: str
    error: str = ""
    quorum: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str) -> int:
        value = self.facts.get(name, "")
        return int(value) if value.isdecimal() and len(value) < 16 else 0


def needed(instance: str) -> dict[str, Command]:
    """A harmless use of each command that the library sends, by the command's name; all on keys of the doctor's own."""
    key = f"{instance}:doctor:{secrets.token_hex(8)}"
    script = "return redis.call('GET', KEYS[1])"
    return {
        "SET": ("SET", key, "1", "PX", "10000"),
        "GET": ("GET", key),
        "MGET": ("MGET", key),
        "PTTL": ("PTTL", key),
        "STRLEN": ("STRLEN", key),
        "PEXPIRE": ("PEXPIRE", key, "1000"),
        "EVAL": ("EVAL", script, "1", key),
        "EVALSHA": ("EVALSHA", "0" * 40, "1", key),
        "UNLINK": ("UNLINK", key),
        "CLIENT TRACKING": ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", f"{key}:~"),
        "SCAN": ("SCAN", "0", "COUNT", "1", "MATCH", f"{key}*"),
        "PUBLISH": ("PUBLISH", f"{instance}:doctor", "1"),
        "WAIT": ("WAIT", "0", "1"),
        "INFO": ("INFO", "server"),
    }


def needed_by_sessions(instance: str) -> dict[str, Command]:
    """The same for sessions and their key ring."""
    key = f"{instance}:session:doctor-{secrets.token_hex(8)}"
    return {
        "HSET": ("HSET", key, "a", "1"),
        "HGETALL": ("HGETALL", key),
        "HGET": ("HGET", key, "a"),
        "EVAL": ("EVAL", "return redis.call('HGET', KEYS[1], 'a')", "1", key),
        "PEXPIRE": ("PEXPIRE", key, "1000"),
        "HDEL": ("HDEL", key, "a"),
        "DEL": ("DEL", key),
        "TIME": ("TIME",),
        "WAIT": ("WAIT", "0", "1"),
        "INFO": ("INFO", "server"),
    }


def ask_server(pool: Pool, commands: Mapping[str, Command], name: str, deadline: float) -> Server:
    """Everything about the server that `pool` leads to. Raises `RemoteError`."""
    link = pool.connect(protocol=3, name="aikcache-doctor")
    try:
        pings = [_ping(link, deadline) for _ in range(PINGS)]
        before = time.time()
        info, user, now = link.ask([("INFO",), ("ACL", "WHOAMI"), ("TIME",)], deadline)
        middle = (before + time.time()) / 2
        replies = dict(zip(commands, link.ask(list(commands.values()), deadline), strict=True))
        if "PUBLISH" in commands:
            replies["SUBSCRIBE"] = _subscribe(pool, commands["PUBLISH"][1], deadline)
        return Server(
            name=name,
            info=_lines(info),
            settings=_settings(link, deadline),
            refused=_refused(replies),
            # Who may not ask is not the default user, which may. A server without the command says nothing of that.
            user=_text(user) if isinstance(user, bytes) or str(user) == "NOPERM" else "",
            clock=_time(now, middle) - middle,
            latency=min(pings),
            replicas_wanted=pool.sentinels is not None,
        )
    finally:
        link.close()


def with_settings(server: Server, pool: Pool, deadline: float) -> Server:
    """The same, with its settings as another user may see them. Raises `RemoteError`."""
    link = pool.connect(protocol=3, name="aikcache-doctor")
    try:
        return replace(server, settings=_settings(link, deadline))
    finally:
        link.close()


def ask_sentinel(sentinels: Sentinels, address: tuple[str, int], deadline: float) -> Sentinel:
    """What one Sentinel says of the service. Raises `RemoteError` or `OSError`."""
    link, _ = sentinels.connect(address, deadline)
    try:
        service = sentinels.service
        facts, quorum = link.ask([("SENTINEL", "MASTER", service), ("SENTINEL", "CKQUORUM", service)], deadline)
    finally:
        link.close()
    if isinstance(facts, dict):
        return Sentinel(place(address), "", _text(quorum), {_text(key): _text(value) for key, value in facts.items()})
    return Sentinel(place(address), kind(facts))  # its text could be anything, even our password


def _ping(link: Connection, deadline: float) -> float:
    began = time.perf_counter()
    link.ask([("PING",)], deadline)
    return time.perf_counter() - began


def _subscribe(pool: Pool, channel: str | bytes, deadline: float) -> Any:
    """The reply to SUBSCRIBE, on a connection where it is one: with RESP3 it would be a push."""
    link = pool.connect(name="aikcache-doctor")
    try:
        return link.ask([("SUBSCRIBE", channel)], deadline)[0]
    finally:
        link.close()


def _settings(link: Connection, deadline: float) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for reply in link.ask([("CONFIG", "GET", name) for name in SETTINGS], deadline):
        if not isinstance(reply, dict):
            return None
        found.update({_text(name): _text(value) for name, value in reply.items()})
    if "requirepass" in found:  # whether there is one is all that counts
        found["requirepass"] = "yes" if found["requirepass"] else ""
    return found


def _refused(replies: Mapping[str, Any]) -> dict[str, str]:
    """The refusals among them."""
    refusals = {name: str(reply) for name, reply in replies.items() if isinstance(reply, ErrorReply)}
    return {name: code for name, code in refusals.items() if code not in _ALLOWED}


def _time(reply: Any, otherwise: float) -> float:
    """The seconds in a reply of TIME; `otherwise` if the reply is malformed."""
    if not are_like(reply, (bytes, bytes)) or not all(part.isdigit() and len(part) < 16 for part in reply):
        return otherwise
    return int(reply[0]) + int(reply[1]) / 1e6


def _lines(info: Any) -> dict[str, str]:
    if not isinstance(info, bytes):
        return {}
    pairs = (line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line)
    return {name: clean(value) for name, value in pairs}


def _text(value: Any) -> str:
    return clean(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))


def place(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
