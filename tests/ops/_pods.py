"""Redis servers and Sentinels as pods: each has an address, a volume, and the shipped scripts around it.

An address is one of 127.0.0.0/8, all of which lead to this machine on Linux, so that every pod has the usual port as on
Kubernetes, and no port has to be found. What the scripts write is started as it stands, but for `bind`.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import hiredis
import yaml

from aikcache.testing import wait_until

from ._names import Names
from ._users import PASSWORDS

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "ops" / "scripts"
CONFIG = REPOSITORY / "ops" / "redis"
K8S = REPOSITORY / "ops" / "k8s" / "base"
SERVICE = "aikcache"
WITHIN = 60.0


def _free_port(host: str) -> int:
    """Not the usual one: a server of the machine that listens on all addresses would answer for a pod that is down.

    Low enough for a cluster's bus, whose port is 10 000 higher.
    """
    while True:
        port = random.randint(10_000, 30_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind((host, port))
            return port


class Pod:
    """One server or Sentinel. Its volume outlives it."""

    def __init__(self, fleet: Fleet, kind: str, host: str, name: str | None = None) -> None:
        self.kind, self.host, self.port = kind, host, _free_port(host)
        self.name = name or host
        self.volume = fleet.root / host
        self.volume.mkdir()
        self._fleet = fleet
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{self.name}:{self.port}"

    @property
    def log(self) -> str:
        return (self.volume / "log").read_text(errors="replace")

    def run(self, script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """What a script of the pod says."""
        return subprocess.run(**self.call(script, *arguments, **settings), text=True, capture_output=True, check=False)

    def call(self, script: str, *arguments: str, **settings: str) -> dict[str, Any]:
        """How a script is started: with this pod's environment, by dash where it is installed."""
        shell = shutil.which("dash") or "sh"
        return {
            "args": [*self._fleet.around, shell, str(SCRIPTS / script), *arguments],
            "env": self.environment(**settings),
            "stdin": subprocess.DEVNULL,
        }

    def environment(self, **settings: str) -> dict[str, str]:
        own = {"SELF": self.address, "OWN": f"{self.host}:{self.port}", "DATA": str(self.volume)}
        path = f"{self._fleet.programs}:{os.environ['PATH']}"
        return {"PATH": path, "LC_ALL": "C", **self._fleet.environment, **own, **settings}

    def init(self, **settings: str) -> subprocess.Popen[str]:
        """The init container, started."""
        return subprocess.Popen(**self.call(f"init-{self.kind}.sh", **settings), text=True, stderr=subprocess.PIPE)

    def serve(self, *lines: str) -> None:
        """The server, as the init container has left its configuration."""
        path = self.volume / f"{self.kind}.conf"
        with path.open("a") as conf:
            conf.write("\n".join(["", f"bind {self.host}", *lines, ""]))
        extra = ["--sentinel"] if self.kind == "sentinel" else []
        self._launch([str(self._fleet.binary), str(path), *extra], {**os.environ, "LC_ALL": "C"})

    def restart_container(self, **settings: str) -> None:
        """The command of the manifest's container, without its init container, and with an option as overlays have."""
        text = (K8S / f"{self.kind}.yaml").read_text(encoding="utf-8")
        (workload,) = [one for one in yaml.safe_load_all(text) if one["kind"] == "StatefulSet"]
        command = workload["spec"]["template"]["spec"]["containers"][0]["command"]
        here = {"/scripts": str(SCRIPTS), "/data": str(self.volume)}
        words = [re.sub("^/(scripts|data)(?=/)", lambda found: here[found[0]], word) for word in command]
        self._launch([*words, "--bind", self.host], self.environment(**settings))

    def _launch(self, command: list[str], environment: dict[str, str]) -> None:
        with (self.volume / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._fleet.around, "setpriv", "--pdeathsig", "KILL", *command],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
            )

    def start(self, *lines: str, **settings: str) -> None:
        """Both, one after the other."""
        finish(self.init(**settings))
        self.serve(*lines)

    def end(self, kill: bool = False) -> None:
        if self._process is not None:
            self._process.kill() if kill else self._process.terminate()
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def ask(self, *words: str, user: str | None = None) -> Any:
        """The reply to a command; what is refused comes as an exception, not raised; None: no connection."""
        user = user or ("operator" if self.kind == "redis" else "sentinels")
        name = "default" if user == "sentinels" else user
        try:
            with closing(Wire(self.host, self.port)) as wire:
                login = wire.ask("AUTH", name, self._fleet.passwords[user])
                return login if isinstance(login, Exception) else wire.ask(*words)
        except OSError:
            return None

    def info(self) -> dict[str, str]:
        """INFO, empty when there is no answer."""
        reply = self.ask("INFO", user="monitor")
        lines = reply.decode().splitlines() if isinstance(reply, bytes) else []
        return dict(line.split(":", 1) for line in lines if ":" in line)


class Wire:
    """A connection that gives refusals as they are."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), 20)
        self._reader = hiredis.Reader()

    def ask(self, *words: str) -> Any:
        self._socket.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]
        while (reply := self._reader.gets()) is False:
            if not (data := self._socket.recv(1 << 16)):
                raise ConnectionResetError
            self._reader.feed(data)
        return reply

    def close(self) -> None:
        self._socket.close()


class Fleet:
    """Three of each, none of them started."""

    def __init__(self, binary: Path, root: Path, down_after_ms: int = 5000, names: Names | None = None) -> None:
        self.binary, self.root, self.names = binary, root, names
        self.around = names.command if names else []
        """What every process is started by."""
        self.passwords = {**PASSWORDS, "sentinels": "the Sentinels' own pässword"}
        self.secrets, self.config = root / "secrets", root / "config"
        self.secrets.mkdir()
        self.programs = root / "programs"
        """First on the PATH of what a pod runs: its server, under the image's name for it."""
        self.programs.mkdir()
        (self.programs / "valkey-server").symlink_to(binary)
        shutil.copytree(CONFIG, self.config)
        watch = self.config / "sentinel.conf"
        watch.write_text(watch.read_text().replace("5000", str(down_after_ms)))
        for name, password in self.passwords.items():
            (self.secrets / name).write_text(password)
        network = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}"
        self.redis, self.sentinels = (
            [
                Pod(self, kind, f"{network}.{first + number}", f"{kind}-{number}.{kind}" if names else None)
                for number in range(3)
            ]
            for kind, first in (("redis", 1), ("sentinel", 11))
        )
        self.resolve(*self.pods)
        self.environment = {
            "SENTINELS": " ".join(pod.address for pod in self.sentinels),
            "FIRST": self.redis[0].address,
            "SECRETS": str(self.secrets),
            "CONFIG": str(self.config),
        }
        self._stack = ExitStack()

    @property
    def pods(self) -> list[Pod]:
        return [*self.redis, *self.sentinels]

    def resolve(self, *pods: Pod) -> None:
        """From now on only these have addresses."""
        if self.names:
            self.names.resolve({pod.name: pod.host for pod in pods})

    def url(self, user: str = "cache") -> str:
        quoted = {name: quote(self.passwords[name], safe="") for name in (user, "sentinels")}
        hosts = ",".join(pod.address for pod in self.sentinels)
        return f"redis+sentinel://{user}:{quoted[user]}@{hosts}/{SERVICE}/0?sentinel_password={quoted['sentinels']}"

    def start(self, *lines: str, **settings: str) -> None:
        """All at once, as a StatefulSet with podManagementPolicy Parallel does."""
        running = [(pod, pod.init(**settings)) for pod in self.pods]
        try:
            wait_until(lambda: self._serve_ready(running, lines), 2 * WITHIN, "the init scripts")
        finally:
            for _, process in running:
                process.kill()
                process.communicate()
        self.wait()

    def _serve_ready(self, running: list[tuple[Pod, subprocess.Popen[str]]], lines: tuple[str, ...]) -> bool:
        for pair in [pair for pair in running if pair[1].poll() is not None]:
            pod, process = pair
            running.remove(pair)
            finish(process)
            pod.serve(*(lines if pod.kind == "redis" else ()))
        return not running

    def wait(self) -> Pod:
        """Until there is one primary, the others replicate from it, and all the probes say ready. Gives the primary."""
        wait_until(lambda: len(self.primaries()) == 1, WITHIN, "one primary")
        for pod in self.pods:
            wait_until(lambda pod=pod: self.ready(pod), WITHIN, f"{pod.address}")  # type: ignore[misc]
        (primary,) = self.primaries()
        wait_until(lambda: primary.info().get("connected_slaves") == "2", WITHIN, "both replicas")
        return primary

    def ready(self, pod: Pod) -> bool:
        return pod.run(f"ready-{pod.kind}.sh").returncode == 0

    def primaries(self) -> list[Pod]:
        return [pod for pod in self.redis if pod.info().get("role") == "master"]

    def known(self) -> bool:
        """Whether every Sentinel knows the others and both replicas."""
        for pod in self.sentinels:
            reply = pod.ask("SENTINEL", "MASTER", SERVICE)
            facts = dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else {}
            if (facts.get(b"num-slaves"), facts.get(b"num-other-sentinels")) != (b"2", b"2"):
                return False
        return True

    def stop(self) -> None:
        for pod in self.pods:
            pod.end(kill=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def finish(process: subprocess.Popen[str]) -> str:
    """What a script said, which must have worked."""
    said = process.communicate(timeout=2 * WITHIN)[1]
    assert process.returncode == 0, said
    return said
