"""All programs together, on ports after the fleet's own. What is started here ends with this process."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ops.local.fleet import Fleet
from ops.local.node import HOST

from .receiver import Receiver
from .shipped import Times, alertmanager, prometheus, rules

PROGRAMS = {
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "prometheus-redis-exporter": "prometheus-redis-exporter",
}
"""Each program, and Debian's package of it."""
ROOT = Path(__file__).parents[2]


class Stack:
    """Started as a context manager; `fleet` is up already, and its next ports from 3 to 9 are free."""

    def __init__(self, fleet: Fleet, directory: Path, times: Times) -> None:
        self.fleet, self.times = fleet, times
        self._directory = directory
        names = ("prometheus", "alertmanager", "exporter", "exporter-sentinel", "application", "other", "receiver")
        self.ports = {name: fleet.port + 3 + number for number, name in enumerate(names)}
        self.applications: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()

    def address(self, name: str) -> str:
        return f"{HOST}:{self.ports[name]}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._directory.mkdir(parents=True, exist_ok=True)
            self.receiver = Receiver(HOST, self.ports["receiver"])
            stack.callback(self.receiver.close)
            self._write_files()
            self._start_exporters(stack)
            for name in ("application", "other"):
                command = [sys.executable, "-m", "ops.live.application", str(self.ports[name])]
                environment = {"AIKCACHE_URL": self.fleet.url(), **(self._sessions() if name == "application" else {})}
                self.applications.append(self._run(stack, name, command, environment, stdin=subprocess.PIPE))
            data = self._directory / "prometheus"
            file = f"--config.file={self._directory / 'prometheus.yml'}"
            where = f"--web.listen-address={self.address('prometheus')}"
            self._run(stack, "prometheus", ["prometheus", file, where, f"--storage.tsdb.path={data}"])
            file = f"--config.file={self._directory / 'alertmanager.yml'}"
            where = f"--web.listen-address={self.address('alertmanager')}"
            kept = f"--storage.path={self._directory / 'alertmanager'}"
            alone = "--cluster.listen-address="
            self._run(stack, "alertmanager", ["prometheus-alertmanager", file, where, kept, alone])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def _sessions(self) -> dict[str, str]:
        """What one of the applications has sessions by."""
        return {
            "AIKCACHE_SESSION_URL": self.fleet.url("session"),
            "AIKCACHE_MASTER_KEY": secrets.token_urlsafe(32),
        }

    def _write_files(self) -> None:
        servers = {
            "redis": [f"redis://{node.address}" for node in self.fleet.servers],
            "sentinel": [f"redis://{node.address}" for node in self.fleet.sentinels],
            "application": [self.address("application"), self.address("other")],
        }
        named = {"exporter:9121": "exporter", "exporter-sentinel:9121": "exporter-sentinel"}
        named["alertmanager:9093"] = "alertmanager"
        addresses = {old: self.address(new) for old, new in named.items()}
        files = {
            "prometheus.yml": prometheus(self.times, servers, addresses),
            "aikcache.rules.yml": rules(self.times),
            "alertmanager.yml": alertmanager(self.address("receiver")),
        }
        for name, text in files.items():
            (self._directory / name).write_text(text, encoding="utf-8")

    def _start_exporters(self, stack: ExitStack) -> None:
        for name, nodes, user in (
            ("exporter", self.fleet.servers, "monitor"),
            ("exporter-sentinel", self.fleet.sentinels, "sentinels"),
        ):
            password = (self.fleet.base / "secrets" / user).read_text()
            passwords = self._directory / f"{name}.json"
            passwords.touch(mode=0o600)
            login = "monitor@" if user == "monitor" else ""
            # With and without the user: one release looks for this, another for that.
            hosts = [f"redis://{user}{node.address}" for node in nodes for user in {"", login}]
            passwords.write_text(json.dumps(dict.fromkeys(hosts, password)))
            environment = {
                "REDIS_ADDR": "",
                "REDIS_USER": "monitor" if user == "monitor" else "",
                "REDIS_PASSWORD_FILE": str(passwords),
                "REDIS_EXPORTER_WEB_LISTEN_ADDRESS": self.address(name),
                "REDIS_EXPORTER_CONNECTION_TIMEOUT": "1s",
            }
            self._run(stack, name, ["prometheus-redis-exporter"], environment)

    def _run(
        self,
        stack: ExitStack,
        name: str,
        command: list[str],
        environment: dict[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        if shutil.which("setpriv"):
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        log = stack.enter_context((self._directory / f"{name}.log").open("ab"))
        env = {**os.environ, **(environment or {})}
        process = subprocess.Popen(command, stdin=stdin, stdout=log, stderr=log, cwd=ROOT, env=env)
        stack.callback(_end, process)
        return process

    def send(self, word: str) -> None:
        """Changes the applications' load."""
        for application in self.applications:
            assert application.stdin is not None
            application.stdin.write(f"{word}\n".encode())
            application.stdin.flush()

    def ask(self, path: str, **parameters: str) -> Any:
        """What Prometheus answers; None: it does not, as while it starts."""
        url = f"http://{self.address('prometheus')}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                return json.load(reply)["data"]
        except OSError:
            return None

    def logs(self) -> str:
        """The last lines of each program."""
        said = []
        for path in sorted(self._directory.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-4:]
            said += [f"{path.name}: {line}" for line in lines]
        return "\n".join(said)


def missing() -> list[str]:
    """The programs that are not on this machine."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def _end(process: subprocess.Popen[bytes]) -> None:
    """By SIGTERM, and by SIGKILL after ten seconds; an application ends with its standard input."""
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    deadline = time.monotonic() + 10
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.05)
