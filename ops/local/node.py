"""One server or Sentinel on loopback: its configuration by the shipped script, its process, its answers.

A process outlives the program that started it, so what is known of it is kept in its directory: its pid is believed
only where that process was started with that directory's configuration.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

OPS = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
WITHIN = 60.0


class LocalError(Exception):
    """What went wrong, for people."""


@dataclass(frozen=True, slots=True)
class Node:
    """A place for a server: `kind` is redis or sentinel."""

    base: Path
    kind: str
    number: int
    port: int
    tls: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}"

    @property
    def volume(self) -> Path:
        return self.base / self.name

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def conf(self) -> Path:
        return self.volume / f"{self.kind}.conf"

    @property
    def secrets(self) -> Path:
        return self.base / "secrets"

    @property
    def certificates(self) -> Path:
        """With TLS: tls.crt and tls.key, which all nodes share, and the authority's ca.crt."""
        return self.base / "tls"

    def pid(self) -> int | None:
        """Its process, if it runs."""
        try:
            pid = int((self.volume / "pid").read_text())
        except (OSError, ValueError):
            return None
        command = command_line(pid)
        # A server puts its address into its title, in place of its configuration.
        return pid if str(self.conf) in command or f":{self.port}" in command else None

    def check_ports(self, *, cluster: bool) -> None:
        """`LocalError` when another program has its port, or the one on which the nodes of a cluster talk."""
        for port in (self.port, self.port + 10000) if cluster else (self.port,):
            if taken(port):
                raise LocalError(
                    f"Port {port} on {HOST}, for {self.name}, is in use by another program. "
                    "Choose others: make redis-up PORT=17000 (it takes that port and the next fifteen)."
                )

    def start(self, binary: Path, environment: dict[str, str]) -> None:
        """Writes its configuration and starts it; `wait` tells whether that went well."""
        self.volume.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "SELF": self.address,
            "DATA": str(self.volume),
            "SECRETS": str(self.secrets),
            "CONFIG": str(OPS / "redis"),
            "TLS": str(self.certificates) if self.tls else "",
            **environment,
        }
        script = OPS / "scripts" / f"init-{self.kind}.sh"
        made = subprocess.run(["sh", str(script)], env=own, capture_output=True, text=True, check=False)
        if made.returncode:
            raise LocalError(f"{script.name} for {self.name} failed: {made.stderr.strip()}")
        with self.conf.open("a") as conf:
            conf.write(f"\nbind {HOST}\n")
        command = [str(binary), str(self.conf), *(["--sentinel"] if self.kind == "sentinel" else [])]
        with (self.volume / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.volume,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,  # Ctrl-C in the terminal is not for it
            )
        (self.volume / "pid").write_text(str(process.pid))
        self._wait(process)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + WITHIN
        while not isinstance(self.ask("PING"), bytes):
            if process.poll() is not None or time.monotonic() > deadline:
                log = (self.volume / "log").read_text(errors="replace").splitlines()
                raise LocalError(f"{self.name} did not start. The end of its log:\n" + "\n".join(log[-8:]))
            time.sleep(0.05)
        process.returncode = 0  # it goes on without us, and is nobody's zombie to warn about

    def ask(self, *words: str | int, user: str | None = None) -> Any:
        """The reply to a command; None: no answer. A refusal comes as the exception, not raised."""
        user = user or ("operator" if self.kind == "redis" else "sentinels")
        client = redis.Redis(
            HOST,
            self.port,
            username="default" if user == "sentinels" else user,
            password=(self.secrets / user).read_text(),
            socket_timeout=5,
            socket_connect_timeout=5,
            retry=Retry(NoBackoff(), 0),
            ssl=self.tls,
            ssl_ca_certs=str(self.certificates / "ca.crt"),
        )
        try:
            with client:
                reply = client.execute_command(*words, **{"NEVER_DECODE": True})  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            return error
        except (redis.ConnectionError, redis.TimeoutError):
            return None
        return b"PONG" if reply is True else reply

    def info(self) -> dict[str, str]:
        """INFO; empty when there is no answer."""
        reply = self.ask("INFO", user="monitor" if self.kind == "redis" else None)
        if isinstance(reply, dict):
            return {str(key): str(value) for key, value in reply.items()}
        return {}

    def end(self) -> None:
        """Ends its process, by SIGKILL after 10 seconds."""
        pid = self.pid()
        if pid is None:
            return
        deadline = time.monotonic() + 10
        for number in (signal.SIGTERM, signal.SIGCONT):
            os.kill(pid, number)
        while self.pid() is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def command_line(pid: int) -> str:
    """With what a process was started; empty when it has ended."""
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:
            return ""
    found = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "" if "defunct" in found.stdout else found.stdout


def has_tls(binary: Path) -> bool:
    """Whether a server was built with TLS: asked for it without a certificate it ends, and says what it lacks."""
    command = [str(binary), "--port", "0", "--tls-port", "1", "--save", "", "--daemonize", "no"]
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(command, cwd=empty, capture_output=True, text=True, timeout=WITHIN, check=False)
    return not any(word in done.stdout + done.stderr for word in ("Failed finding TLS support", "Bad directive"))


def taken(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False
