"""The journal of unsent invalidations: only this user's own file is used, and no content of it does harm."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aikcache import ConfigError
from aikcache._coherence import journal as _journal
from aikcache._coherence import news
from aikcache._coherence.journal import HEADER, Journal
from aikcache._keys.keyspace import Keyspace

SPACE = Keyspace("shop", "v1")
KEY = ("keys", "shop:v1:price:get:tea")
ROOT = os.geteuid() == 0
PATIENCE = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def lines(path: Path) -> list[tuple[str, str]]:
    """The names that a process takes over when it starts with this journal."""
    with closing(Journal(str(path), SPACE)) as journal:
        return journal.read()


def make_link(path: Path, other: Path) -> None:
    path.symlink_to(other)


def make_second_name(path: Path, other: Path) -> None:
    path.hardlink_to(other)


def make_directory(path: Path, other: Path) -> None:
    path.mkdir()


def make_pipe(path: Path, other: Path) -> None:
    os.mkfifo(path)


def make_writable(path: Path, other: Path) -> None:
    path.touch()
    path.chmod(0o666)


def make_foreign(path: Path, other: Path) -> None:
    path.touch()
    os.chown(path, 65534, 65534)


def make_other_content(path: Path, other: Path) -> None:
    path.write_bytes(b"root:x:0:0\n")


STAGES = [
    (make_link, "a symbolic link"),
    (make_second_name, "known under another name as well"),
    (make_directory, "cannot: Is a directory"),
    (make_pipe, "not a regular file"),
    (make_writable, "writable by other users"),
    (make_other_content, "not a journal, but has other content"),
    pytest.param(
        make_foreign, "another user's", marks=pytest.mark.skipif(not ROOT, reason="only root gives files away")
    ),
]


@pytest.mark.parametrize(("stage", "why"), STAGES)
def test_a_file_that_is_not_ones_own_is_refused(
    stage: Callable[[Path, Path], None], why: str, path: Path, tmp_path: Path
) -> None:
    """Any other file at the path is a `ConfigError` that says why, and is not changed."""
    other = tmp_path / "other"
    other.write_bytes(b"precious\n")
    other.chmod(0o600)
    stage(path, other)
    with pytest.raises(ConfigError, match=re.escape(why)):
        Journal(str(path), SPACE)
    assert other.read_bytes() == b"precious\n"
    assert path.is_symlink() or path.exists()


@pytest.mark.parametrize(("stage", "why"), STAGES)
def test_files_of_others_beside_it_are_left_alone(
    stage: Callable[[Path, Path], None], why: str, path: Path, tmp_path: Path
) -> None:
    """A neighbour is taken over, and removed, only if it is a journal of this user."""
    other = tmp_path / "other"
    other.write_bytes(HEADER + b'["groups","*"]\n')
    other.chmod(0o600)
    neighbour = Path(f"{path}.1")
    stage(neighbour, other)
    before = {file.name for file in tmp_path.iterdir()}
    assert lines(path) == []
    assert {file.name for file in tmp_path.iterdir()} == before | {"journal"}
    assert other.read_bytes() == HEADER + b'["groups","*"]\n'


@pytest.mark.parametrize(
    ("line", "names"),
    [
        (b'["keys","shop:v1:price:get:tea"]', True),
        (b'["groups","*"]', True),
        (b'["groups","#product:tea"]', True),
        (b'["groups","#"]', True),
        (b'["groups","price:get"]', True),
        (b'["groups","user:a@b.com"]', True),
        (b'["globs","price:*:tea"]', True),
        (b'["keys","other:v1:price:get:tea"]', False),
        (b'["keys","session:1"]', False),
        (b'["keys","shop:v1:~stamp:*"]', False),
        (b'["groups","a b"]', False),
        (b'["groups","price:get:tea"]', False),
        (b'["groups","#"' + b"x" * 600 + b"]", False),
        (b'["globs","price:get:tea"]', False),
        (b'["globs","p:[z-a]"]', False),
        (b'["globs","' + b"*?" * 2000 + b'"]', False),
        (b'["keys",5]', False),
        (b"5", False),
        (b"null", False),
        (b'{"keys":1}', False),
        (b"[" * 5000, False),
        (b"[" * 20000, False),
        (b'["keys","\\ud800"]', False),
        (b"\xff\xfe", False),
        (b'["keys","shop:v1:pri', False),
        (b"", False),
    ],
)
def test_a_line_of_another_cache_is_skipped(line: bytes, names: bool, path: Path) -> None:
    """Whatever a line is, those around it are read."""
    path.write_bytes(HEADER + b"\n".join([b'["keys","shop:v1:price:get:tea"]', line, b'["groups","search"]', b""]))
    path.chmod(0o600)
    found = lines(path)
    assert (found[0], found[-1]) == (KEY, ("groups", "search"))
    assert len(found) == 2 + names


@given(st.lists(st.binary(max_size=40) | st.text(max_size=20).map(str.encode), max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_can_be_read(tmp_path: Path, content: list[bytes]) -> None:
    """Any file gives names in this key space or none, and raises nothing."""
    path = tmp_path / "any"
    path.write_bytes(HEADER + b"\n".join(content))
    path.chmod(0o600)
    lines(path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_journal, "MAX_BYTES", 1000)


@pytest.mark.usefixtures("small")
def test_a_file_that_is_too_large_invalidates_everything(path: Path) -> None:
    """It is not read as a whole, and nothing in it is lost."""
    path.write_bytes(HEADER + b'["keys","shop:v1:price:get:tea"]\n' * 40)
    path.chmod(0o600)
    assert lines(path) == [("groups", "*")]


@pytest.mark.usefixtures("small")
def test_a_file_does_not_grow_without_bound(path: Path) -> None:
    """Lines that do not fit become one line of everything."""
    with closing(Journal(str(path), SPACE)) as journal:
        for number in range(200):
            journal.add(("keys", f"shop:v1:price:get:{number}"))
    assert path.stat().st_size < 1200
    assert ("groups", "*") in lines(path)


@pytest.mark.usefixtures("small")
def test_a_full_file_means_everything_though_its_next_line_cannot_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies at any moment leaves a file that means everything."""

    def refuse(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with closing(Journal(str(path), SPACE)) as journal:
        while path.stat().st_size <= 1000 + len(HEADER):
            journal.add(KEY)
        with monkeypatch.context() as patch, contextlib.suppress(OSError):
            patch.setattr(os, "write", refuse)
            journal.add(KEY)
    assert lines(path) == [("groups", "*")]


def test_a_line_that_did_not_fit_on_the_disk_spoils_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer gets an `OSError`; the next line is read."""
    with closing(Journal(str(path), SPACE)) as journal:
        write = os.write
        cut = [True]

        def cutting(fd: int, data: bytes) -> int:
            return write(fd, data[:7]) if cut and cut.pop() else write(fd, data)

        monkeypatch.setattr(os, "write", cutting)
        with pytest.raises(OSError, match="No space left"):
            journal.add(("groups", "lost"))
        journal.add(KEY)
    assert lines(path) == [KEY]


@pytest.mark.parametrize("generations", [1, 2, 3])
def test_a_child_of_a_child_has_a_journal_too(generations: int, path: Path) -> None:
    """Also where those between have never written a line."""
    with closing(Journal(str(path), SPACE)) as journal:
        for _ in range(generations):
            journal.after_fork()
        journal.add(KEY)
    assert lines(path) == [KEY]


def test_a_file_that_is_closed_is_not_emptied(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of its descriptor may be another file's by then."""
    journal = Journal(str(path), SPACE)
    real, emptying, go = os.ftruncate, threading.Event(), threading.Event()

    def ftruncate(fd: int, size: int) -> None:
        emptying.set()
        assert go.wait(PATIENCE)
        real(fd, size)

    monkeypatch.setattr(os, "ftruncate", ftruncate)
    clearing = threading.Thread(target=journal.clear, daemon=True)
    clearing.start()
    assert emptying.wait(PATIENCE)
    closing_ = threading.Thread(target=journal.close, daemon=True)
    closing_.start()
    fd = journal._fd
    assert fd >= 0
    os.fstat(fd)  # it is still open
    go.set()
    for each in (clearing, closing_):
        each.join(PATIENCE)
        assert not each.is_alive()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_child_that_opens_its_file_takes_over_others(path: Path) -> None:
    """The lines of processes that are gone are in its own file then."""
    mine, gone, other = (Journal(str(path), SPACE) for _ in range(3))
    gone.add(KEY)
    other.add(KEY)
    mine.after_fork()
    parent = Journal(str(path), SPACE)  # holds the first file
    gone.close()
    other.close()
    mine.add(("keys", "shop:v1:price:get:milk"))
    assert mine.read() == [KEY, KEY]
    mine.close()
    parent.close()
    assert set(lines(path)) == {("keys", "shop:v1:price:get:milk"), KEY}


@pytest.mark.parametrize(
    "name",
    [
        ("keys", SPACE.full("p:o:" + "\U0001f600" * 500)),
        ("keys", SPACE.full("\U0001f600" * 1024)),
        ("groups", "#" + "\U0001f600" * 512),
        ("globs", "\U0001f600" * 2047 + "*"),
    ],
    ids=["key", "longest key", "tag", "glob"],
)
def test_the_longest_names_are_read_again(name: tuple[str, str], path: Path) -> None:
    """Their lines are longer than others, and as good."""
    with closing(Journal(str(path), SPACE)) as journal:
        journal.add(name)
    assert lines(path) == [name]
    (message,) = news.pack("writer", [name] * news.PER_MESSAGE)
    assert news.unpack(message, SPACE) == ("writer", [name] * news.PER_MESSAGE)
