"""Another account on the machine: what it can reach of a journal and an embedded server, and what it has put there."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from aikcache import ConfigError
from aikcache._coherence.journal import Journal
from aikcache._embedded.attach import Attachment, attach
from aikcache._keys.keyspace import Keyspace
from aikcache.testing import available_servers, wait_until

NOBODY = 65534
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not hasattr(socket, "SO_PEERCRED"), reason="only root can be another user for a moment"
)


@contextmanager
def as_nobody() -> Iterator[None]:
    """The system takes this process for that of another user meanwhile."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory as /tmp is: all may write there, and only owners may remove."""
    path = Path(tempfile.mkdtemp(prefix="aik-all-", dir="/tmp"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.servers
@pytest.mark.skipif(not available_servers(), reason="no server is installed")
def test_another_user_reaches_neither_the_server_nor_the_journal(base: Path) -> None:
    """They can be neither read, written nor connected to, and nothing else can be put in their place."""
    with closing(Journal(str(base / "journal"), Keyspace("shop", "v1"))), closing(attach(base / "home")) as held:
        link = socket.socket(socket.AF_UNIX)
        attempts: list[Callable[[], object]] = [
            lambda: link.connect(held.socket),
            lambda: os.listdir(held.directory),
            lambda: (held.directory / "server.conf").read_text(),
            lambda: held.directory.rename(base / "mine"),
            lambda: (base / "journal").read_bytes(),
            lambda: (base / "journal").write_bytes(b""),
            lambda: (base / "journal").unlink(),
        ]
        with closing(link), as_nobody():
            for attempt in attempts:
                with pytest.raises(PermissionError):
                    attempt()
    wait_until(lambda: not Path(held.socket).exists(), what="the end of the server")


def test_what_another_user_has_put_there_is_refused(base: Path) -> None:
    """A directory and a file that another user made first are a `ConfigError`, and are left as they are."""
    with as_nobody():
        (base / "home").mkdir()
        (base / "journal").touch()
        (base / "above").mkdir()
    with pytest.raises(ConfigError, match=f"uid {NOBODY}"):
        attach(base / "home")
    with pytest.raises(ConfigError, match=f"uid {NOBODY}"):
        attach(base / "above" / "home")
    with pytest.raises(ConfigError, match=r"another user's|cannot: Permission denied"):
        Journal(str(base / "journal"), Keyspace("shop", "v1"))
    assert list((base / "above").iterdir()) == list((base / "home").iterdir()) == []
    assert (base / "journal").read_bytes() == b""


def test_no_connection_is_made_to_a_server_of_another_user(base: Path) -> None:
    """The system says which user listens at the socket: another user's server is sent nothing."""
    place = base / "server.sock"
    held = Attachment(base, place, os.open(os.devnull, os.O_RDONLY))
    with closing(held), socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as link:
        with as_nobody():
            server.bind(str(place))
            server.listen()
        link.connect(str(place))
        with pytest.raises(ConnectionRefusedError, match=f"belongs to uid {NOBODY}"):
            held.check_peer(link)
