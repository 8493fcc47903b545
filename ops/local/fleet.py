"""All nodes of one topology on this machine: started, looked at, failed over, ended.

What there is lies in one directory: volumes, throw-away passwords, logs, `fleet.json`. Ending it removes the directory.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .node import HOST, WITHIN, LocalError, Node, has_tls

SERVICE = "aikcache"
PASSWORDS = ("cache", "session", "monitor", "replication", "sentinel", "operator", "sentinels")
SLOTS = 16384
ELSEWHERE = "Choose another place: python -m ops.local up --directory PATH --port 17000"
SENTINELS_FROM = 10
"""How far above the servers' ports the Sentinels' are."""


class Fleet:
    """A primary, two replicas and three Sentinels, or a cluster of three and three."""

    def __init__(self, base: Path, topology: str, port: int, profile: str, *, tls: bool = False) -> None:
        self.base, self.topology, self.port, self.profile, self.tls = base, topology, port, profile, tls
        count = 3 if topology == "sentinel" else 6
        self.servers = [Node(base, "redis", number, port + number - 1, tls) for number in range(1, count + 1)]
        watching = range(1, 4) if topology == "sentinel" else ()
        first = port + SENTINELS_FROM
        self.sentinels = [Node(base, "sentinel", number, first + number - 1, tls) for number in watching]

    @classmethod
    def found(cls, base: Path) -> Fleet | None:
        """The one whose directory this is; `None`: there is no directory."""
        try:
            kept = json.loads((base / "fleet.json").read_text())
        except PermissionError:
            raise LocalError(f"{base} is another user's, who has to end it. {ELSEWHERE}") from None
        except (OSError, ValueError):
            if not base.exists():
                return None
            raise LocalError(f"{base} is not of `make redis-up`, or its start was cut off: remove it.") from None
        return cls(base, kept["topology"], kept["port"], kept["profile"], tls=kept["tls"])

    @property
    def nodes(self) -> list[Node]:
        return [*self.servers, *self.sentinels]

    def url(self, user: str = "cache") -> str:
        """Where the library finds it. These passwords are random, so they need no quoting."""
        login = f"{user}:{(self.base / 'secrets' / user).read_text()}"
        scheme = "rediss" if self.tls else "redis"
        trusted = [f"ssl_ca_certs={quote(str(self.base / 'tls' / 'ca.crt'))}"] if self.tls else []
        if self.topology == "cluster":
            hosts = ",".join(node.address for node in self.servers[:3])
            return "?".join([f"{scheme}+cluster://{login}@{hosts}", *trusted])
        own = f"sentinel_password={(self.base / 'secrets' / 'sentinels').read_text()}"
        hosts = ",".join(node.address for node in self.sentinels)
        return f"{scheme}+sentinel://{login}@{hosts}/{SERVICE}/0?" + "&".join([own, *trusted])

    # Starting

    def create(self, binary: Path) -> None:
        """Starts all of it for the first time; when anything goes wrong, nothing is left."""
        for node in self.nodes:
            node.check_ports(cluster=self.topology == "cluster")
        try:  # apart from the rest: a directory that was there before is not to be removed
            self.base.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise LocalError(f"{self.base} cannot be made: {error.strerror}. {ELSEWHERE}") from None
        try:
            (self.base / "secrets").mkdir(mode=0o700)
            for name in PASSWORDS:
                (self.base / "secrets" / name).write_text(secrets.token_urlsafe(24))
            kept = {"topology": self.topology, "port": self.port, "profile": self.profile, "tls": self.tls}
            (self.base / "fleet.json").write_text(json.dumps(kept))
            if self.tls:
                self._certify(binary)
            self.start_missing(binary, self.servers[0].address)
            if self.topology == "cluster":
                self._form_cluster()
            self.until(self.healthy, "all of it to work together")
        except BaseException:
            self.remove()
            raise

    def _certify(self, binary: Path) -> None:
        if not has_tls(binary):
            raise LocalError(f"{binary} was built without TLS. Install one that has it: Debian's redis-server has.")
        try:
            from .authority import Authority
        except ImportError:
            raise LocalError("Certificates need cryptography: pip install 'aikcache[crypto]'") from None
        directory = self.base / "tls"
        directory.mkdir(mode=0o700)
        pair = Authority(directory, "ca").sign(HOST, "localhost")
        pair.certificate.rename(directory / "tls.crt")
        pair.key.rename(directory / "tls.key")

    def start_missing(self, binary: Path, primary: str | None = None) -> list[Node]:
        """Starts what does not run: a server as a replica of who is the primary now."""
        missing = [node for node in self.nodes if node.pid() is None]
        primary = primary or self.primary_address()
        for node in missing:
            leader = node.address if self.topology == "cluster" else primary
            profile = "cluster" if self.topology == "cluster" else self.profile
            environment = {"PROFILE": profile, "PRIMARY": leader, "FIRST": primary, "SENTINELS": ""}
            node.start(binary, environment)
        return missing

    def primary_address(self) -> str:
        """Who is the primary for the Sentinel with the newest configuration, running or on disk."""
        best = (-1, self.servers[0].address)
        for sentinel in self.sentinels:
            facts = sentinel_facts(sentinel)
            if facts:
                best = max(best, (int(facts["config-epoch"]), f"{facts['ip']}:{facts['port']}"))
            elif sentinel.conf.exists():
                epoch, address = 0, best[1]
                for words in map(str.split, sentinel.conf.read_text().splitlines()):
                    if words[:2] == ["sentinel", "config-epoch"]:
                        epoch = int(words[3])
                    elif words[:2] == ["sentinel", "monitor"]:
                        address = f"{words[3]}:{words[4]}"
                best = max(best, (epoch, address))
        return best[1]

    def _form_cluster(self) -> None:
        for number, node in enumerate(self.servers):
            if number < 3:
                first, last = (SLOTS * n // 3 for n in (number, number + 1))
                node.ask("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        again = 0.0

        def acquainted() -> bool:
            nonlocal again
            if all(f"cluster_known_nodes:{len(self.servers)}" in cluster_info(node) for node in self.servers):
                return True
            if time.monotonic() > again:  # on a busy machine a handshake takes too long, and is forgotten
                again = time.monotonic() + 3
                for node in self.servers[1:]:
                    self.servers[0].ask("CLUSTER", "MEET", HOST, node.port)
            return False

        self.until(acquainted, "the nodes to know each other")
        for primary, replica in zip(self.servers[:3], self.servers[3:], strict=True):
            name = primary.ask("CLUSTER", "MYID")
            self.until(
                lambda replica=replica, name=name: replica.ask("CLUSTER", "REPLICATE", name.decode()) == b"OK",  # type: ignore[misc]
                f"{replica.name} to become a replica",
            )

    # Looking

    def primaries(self) -> list[Node]:
        return [node for node in self.servers if node.info().get("role") == "master"]

    def healthy(self) -> bool:
        """Whether every node does its part."""
        infos = [node.info() for node in self.servers]
        roles = [info.get("role") for info in infos]
        wanted = 1 if self.topology == "sentinel" else 3
        linked = all(info.get("master_link_status", "up") == "up" for info in infos)
        if roles.count("master") != wanted or roles.count("slave") != len(roles) - wanted or not linked:
            return False
        if self.topology == "cluster":
            return all("cluster_state:ok" in cluster_info(node) for node in self.servers)
        facts = [sentinel_facts(sentinel) for sentinel in self.sentinels]
        return all((fact.get("num-slaves"), fact.get("num-other-sentinels")) == ("2", "2") for fact in facts)

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Polls; `LocalError` after a minute."""
        deadline = time.monotonic() + WITHIN
        while not done():
            if time.monotonic() > deadline:
                raise LocalError(f"Waited {WITHIN:g} seconds for {what}. The logs: {self.base}/*/log")
            time.sleep(0.1)

    # Changing

    def fail_over(self) -> tuple[Node, Node, float]:
        """Hands over from a primary to a replica as the runbook does; gives both, and the seconds without writes."""
        old = self.primaries()[0]
        if self.topology == "cluster":
            return self._fail_over_in_cluster(old)
        began = time.monotonic()
        # Writes wait, so that the replicas have all of them when one takes over.
        old.ask("CLIENT", "PAUSE", 60000, "WRITE")
        try:
            self.until(lambda: self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE) == b"OK", "the failover's begin")
            self.until(lambda: self._led_by_another(old), "a replica to take over")
            seconds = time.monotonic() - began
            # What waits in the pause is refused, instead of being written to a server that nobody copies any more.
            kept = old.ask("CONFIG", "GET", "min-replicas-to-write")
            old.ask("CONFIG", "SET", "min-replicas-to-write", len(self.servers))
            old.ask("CLIENT", "UNPAUSE")
            self.until(lambda: old.info().get("role") == "slave", f"{old.name} to become a replica")
            old.ask("CONFIG", "SET", *_words(kept))
        finally:
            old.ask("CLIENT", "UNPAUSE")
        self.until(self.healthy, "the replicas to follow")
        return old, self.primaries()[0], seconds

    def _led_by_another(self, old: Node) -> bool:
        named = {f"{fact['ip']}:{fact['port']}" for fact in map(sentinel_facts, self.sentinels) if fact}
        return old.address not in named and any(node != old for node in self.primaries())

    def _fail_over_in_cluster(self, old: Node) -> tuple[Node, Node, float]:
        replica = next(node for node in self.servers if node.info().get("master_port") == str(old.port))
        began = time.monotonic()
        again = 0.0

        def promoted() -> bool:
            nonlocal again
            if replica.info().get("role") == "master":
                return True
            if time.monotonic() > again:  # it gives up silently after 5 seconds
                again = time.monotonic() + 6
                replica.ask("CLUSTER", "FAILOVER")  # the primary holds its writes until the replica has all of them
            return False

        self.until(promoted, f"{replica.name} to take over")
        seconds = time.monotonic() - began
        self.until(self.healthy, "the others to follow")
        return old, replica, seconds

    def remove(self) -> None:
        """Ends every process and removes every file."""
        for node in [*self.sentinels, *self.servers]:  # else the Sentinels would promote somebody meanwhile
            node.end()
        shutil.rmtree(self.base, ignore_errors=True)

    def differences(self, **asked: object) -> str:
        """Where it is another than what was asked for, `None` being no wish; empty when it is that."""
        unlike = [name for name, value in asked.items() if value not in (None, getattr(self, name))]
        return ", ".join(f"{name} {getattr(self, name)} and not {asked[name]}" for name in unlike)


def sentinel_facts(sentinel: Node) -> dict[str, str]:
    """What a Sentinel knows of the primary; empty when it does not answer."""
    reply: Any = sentinel.ask("SENTINEL", "MASTER", SERVICE)
    if isinstance(reply, dict):
        return {_text(name): _text(value) for name, value in reply.items()}
    if isinstance(reply, list):
        words = [_text(word) for word in reply]
        return dict(zip(words[::2], words[1::2], strict=True))
    return {}


def _words(pairs: Any) -> list[str]:
    """The names and values of a reply, as arguments."""
    flat = [part for pair in pairs.items() for part in pair] if isinstance(pairs, dict) else pairs
    return [_text(part) for part in flat]


def cluster_info(node: Node) -> str:
    reply: Any = node.ask("CLUSTER", "INFO")
    return reply.decode() if isinstance(reply, bytes) else ""


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
