"""Servers that answer what is read and refuse what is written, while the checker's workers are at work.

Nothing else is done to a server meanwhile, nor was shortly before: so whatever its workers could not send it then was
refused, and not late for another reason.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import redis

from aikcache.testing import Server
from benchmarks.consistency.changes import CALM
from benchmarks.consistency.faults import Fault, Stage

NO_PRIMARY = "127.0.0.1", "1"
"""A primary that nobody answers for."""
_UNSAVED = {"replica-ignore-disk-write-errors": "yes", "stop-writes-on-bgsave-error": "yes", "save": "3600 1"}
Refusing = Callable[[Server, Any], Any]


@contextmanager
def _configured(client: Any, settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: client.config_get(name)[name] for name in settings}
    try:
        for name, value in settings.items():
            client.config_set(name, value)
        yield
    finally:
        for name, value in reversed(before.items()):
            client.config_set(name, value)


def oom(server: Server, client: Any) -> Any:
    """There is no memory left, and nothing may be evicted: no connection either, of which it has a share for all."""
    return _configured(client, {"maxmemory-clients": "0", "maxmemory-policy": "noeviction", "maxmemory": "1"})


def noreplicas(server: Server, client: Any) -> Any:
    """Fewer replicas are connected than a write asks for."""
    return _configured(client, {"min-replicas-to-write": "10"})


@contextmanager
def readonly(server: Server, client: Any) -> Iterator[None]:
    """It is made a replica, and clients that read from it get no error."""
    client.replicaof(*NO_PRIMARY)
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")


@contextmanager
def misconf(server: Server, client: Any) -> Iterator[None]:
    """It cannot save its data: a directory stands where the file belongs.

    On a busy machine it may count as gone meanwhile. A replica that cannot save ends itself at the first write of its
    new primary, unless it is configured to ignore that.
    """
    file = server.directory / "dump.rdb"
    file.unlink(missing_ok=True)
    file.mkdir()
    (file / "in the way").touch()
    try:
        with _configured(client, _UNSAVED):
            while client.info("persistence")["rdb_last_bgsave_status"] == "ok":
                with suppress(redis.ResponseError):  # it saves already, for a replica, or rewrites its log
                    client.bgsave()
            yield
    finally:
        shutil.rmtree(file)


def _refuse(refusing: Refusing, name: str, stage: Stage) -> Iterator[float]:
    yield CALM
    server = stage.random.choice(stage.primaries())
    with ExitStack() as stack:
        client = stack.enter_context(stage.client(server))
        stack.enter_context(refusing(server, client))
        stack.enter_context(stage.note(name, cuts=False, refuses=True))
        yield stage.max_staleness + stage.random.choice((1.0, 3.0))


def faults(*, alone: bool) -> dict[str, Fault]:
    """How writes are refused; `alone`: by a server that nobody watches, who would make a read-only one writable."""
    kinds: dict[str, Refusing] = {"oom": oom, "noreplicas": noreplicas, "misconf": misconf}
    if alone:
        kinds["readonly"] = readonly
    return {name: partial(_refuse, refusing, name) for name, refusing in kinds.items()}


ALL = tuple(faults(alone=True))
