"""The key ring on a real server: one maker, rotation, revocation, masters, and no key made because of an error."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from aikcache._concurrency import thread
from aikcache._keyring.store import Reading
from aikcache._redis.pool import Pool
from aikcache.errors import KeyRingError, RemoteError, SealError
from aikcache.prometheus import CacheCollector
from aikcache.sessions import KeyInfo, KeyRing
from aikcache.testing import Server, wait_until

from ._rings import Send, forked, make_rings_patient
from ._workers import PATIENCE, Background, in_threads

MASTER, OTHER = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
DAY = 86_400.0
NAME = "shop:keyring"
Open = Callable[..., KeyRing]


@pytest.fixture
def open_ring(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens rings as separate processes would have them; without a look in the background unless asked for."""
    make_rings_patient(monkeypatch)
    with ExitStack() as stack:

        def opened(**arguments: Any) -> KeyRing:
            given = {"url": redis_url, "instance": "shop", "master_key": MASTER, "refresh": 3600.0, **arguments}
            return stack.enter_context(closing(KeyRing(**given)))

        yield opened


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def _infos(ring: KeyRing) -> tuple[KeyInfo, ...]:
    return ring.keys()


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_what_one_process_seals_another_opens(open_ring: Open) -> None:
    """The token has the documented form, and opens with the same purpose and associated data alone."""
    one, two = open_ring(), open_ring()
    token = one.seal(b"user 7", "reset", b"mail")
    assert (token[0], len(token)) == (1, 1 + 8 + 12 + len(b"user 7") + 16)
    assert token[1:9].hex() == one.keys()[0].id
    assert two.unseal(token, "reset", b"mail") == b"user 7"
    assert two.unseal(one.seal(b"", "reset"), "reset") == b""
    for purpose, aad in (("login", b"mail"), ("reset", b""), ("resetm", b"ail")):
        with pytest.raises(SealError):
            two.unseal(token, purpose, aad)
    with pytest.raises(SealError):
        open_ring(instance="other").unseal(token, "reset", b"mail")


def test_any_change_of_sealed_data_is_refused_with_one_message(open_ring: Open) -> None:
    """Any changed byte, any shorter token and any other bytes raise `SealError`, always with the same words."""
    ring = open_ring()
    token = ring.seal(b"data", "p")
    messages = set()
    others = [token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :] for at in range(len(token))]
    for other in (*others, *(token[:at] for at in range(len(token))), token + b"x"):
        with pytest.raises(SealError) as raised:
            ring.unseal(other, "p")
        messages.add(str(raised.value))
    assert len(messages) == 1

    @given(st.binary(max_size=200))
    @settings(max_examples=200)
    def no_bytes_open(noise: bytes) -> None:
        with pytest.raises(SealError):
            ring.unseal(noise, "p")

    no_bytes_open()


def test_nothing_shows_a_key(open_ring: Open, client: Any) -> None:
    """Neither representations nor Redis hold a key in clear."""
    ring = open_ring()
    ring.seal(b"data", "p")
    (key,) = ring._live.ring.keys.values()
    raw = key.secret.reveal()
    shown = f"{ring!r} {ring.keys()!r} {ring._live.ring!r} {ring.health()!r}"
    assert raw.hex() not in shown
    assert repr(raw) not in shown
    assert client.hget(NAME, f"k:{key.id}").split()[3].startswith(b"aikw1.")
    assert client.ttl(NAME) == -1


def test_a_cold_start_makes_one_key(open_ring: Open, client: Any) -> None:
    """Twenty processes that begin at once, with clocks from five minutes behind to five ahead, make one key."""
    start = multiprocessing.get_context("fork").Barrier(20)

    def begin(number: int, send: Send) -> None:
        now = 1_800_000_000.0 + (-300, 300, *range(-270, 270, 30))[number]
        ring = open_ring(clock=lambda: now)
        start.wait(3 * PATIENCE)
        send(ring.seal(b"data", "p").hex().encode())

    with forked(20, begin) as received:
        tokens = [bytes.fromhex(line.decode()) for line in received]
    assert [name for name in client.hkeys(NAME) if name.startswith(b"k:")] == [b"k:" + tokens[0][1:9].hex().encode()]
    for skew in (-300, 300):
        ring = open_ring(clock=lambda skew=skew: 1_800_000_000.0 + skew)
        assert [ring.unseal(token, "p") for token in tokens] == [b"data"] * 20


def test_a_year_rotates_four_times(open_ring: Open) -> None:
    """Hour by hour through a year each cookie opens in another process until its life ends, and retired keys go."""
    clock = Clock()
    ring, reader = open_ring(clock=clock), open_ring(clock=clock)
    lives = 31 * 24
    sealed: list[bytes] = []
    made = set()
    for hour in range(365 * 24):
        sealed.append(ring.seal(b"%d" % hour, "session-cookie"))
        for age in {0, min(12, hour), min(lives, hour)}:  # just made, and at both ends of a session
            assert reader.unseal(sealed[hour - age], "session-cookie") == b"%d" % (hour - age)
        made |= {info.id for info in _infos(ring) if info.state != "pending"}
        assert sum(info.state == "active" for info in _infos(ring)) == 1
        clock.now += 3600
        ring.refresh()
        reader.refresh()
    assert len(made) == 5  # the first, and four rotations
    assert len(ring.keys()) <= 3


def test_a_key_opens_until_its_retention_ends(open_ring: Open) -> None:
    """A key is pending, active, expired and retired at the documented moments."""
    clock = Clock()
    ring = open_ring(clock=clock)
    token = ring.seal(b"data", "p")
    (info,) = ring.keys()
    assert (info.created, info.activates, info.expires) == (clock.now, clock.now - 600, clock.now - 600 + 90 * DAY)
    clock.now = info.expires - 2 * DAY
    ring.refresh()
    assert [(key.state, key.activates) for key in _infos(ring)][1:] == [("pending", info.expires)]
    clock.now = info.expires + 31 * DAY - 1
    assert ring.unseal(token, "p") == b"data"
    clock.now += 1
    assert ring.keys()[0].state == "retired"
    with pytest.raises(SealError):
        ring.unseal(token, "p")


def test_a_revoked_key_opens_nothing_anywhere(open_ring: Open) -> None:
    """Other processes learn of a revocation by themselves, and a new key seals at once."""
    ring, other = open_ring(), open_ring(refresh=0.05)
    token = ring.seal(b"data", "p")
    assert other.unseal(token, "p") == b"data"
    ring.revoke(ring.keys()[0].id, "laptop stolen")
    with pytest.raises(SealError):
        ring.unseal(token, "p")
    wait_until(lambda: any(key.state == "revoked" for key in _infos(other)), what="the other's look at the ring")
    with pytest.raises(SealError):
        other.unseal(token, "p")
    assert other.unseal(ring.seal(b"new", "p"), "p") == b"new"
    with pytest.raises(KeyRingError, match="has no key"):
        ring.revoke("0" * 16)


def test_a_revocation_reaches_every_worker(open_ring: Open) -> None:
    """By itself, at its next look, whether it uses the ring or not: the shipped time between two is 2 of 5 seconds."""
    assert inspect.signature(KeyRing).parameters["refresh"].default <= 2.5
    ring = open_ring()
    token = ring.seal(b"data", "p")

    def serve(number: int, send: Send) -> None:
        worker = open_ring(refresh=2.0)
        assert worker.unseal(token, "p") == b"data"
        send(b"serving")
        wait_until(lambda: not _opens(worker, token), 3 * PATIENCE, "the revocation")
        send(b"refused")
        assert worker.unseal(worker.seal(b"new", "p"), "p") == b"new"

    with forked(4, serve) as received:
        assert [received.readline() for _ in range(4)] == [b"serving\n"] * 4
        ring.revoke(ring.keys()[0].id)
        assert received.readlines() == [b"refused\n"] * 4


def test_all_keys_before_a_moment_are_revoked(open_ring: Open) -> None:
    """`revoke_before` goes by when keys were created, and says how many it revoked."""
    clock = Clock()
    ring = open_ring(clock=clock)
    first = ring.seal(b"data", "p")
    clock.now += DAY
    second = ring.rotate()
    clock.now += 5
    token = ring.seal(b"data", "p")
    assert (token[1:9].hex(), first[1:9].hex() == second.id) == (second.id, False)
    assert ring.revoke_before(clock.now - 60) == 1
    assert ring.revoke_before(clock.now - 60) == 0
    assert ring.unseal(token, "p") == b"data"
    with pytest.raises(SealError):
        ring.unseal(first, "p")


def test_all_keys_before_a_moment_are_revoked_whoever_wrapped_them(open_ring: Open) -> None:
    """While a master key is exchanged, also by who has only the new one: others open both keys."""
    token = open_ring().seal(b"data", "p")
    both = open_ring(master_key=f"{OTHER},{MASTER}")
    moment = both.rotate().created + 1
    assert [key.state for key in _infos(both)] == ["active", "pending"]
    only = open_ring(master_key=OTHER)
    assert only.revoke_before(moment) == 2
    both.refresh()
    assert [key.state for key in _infos(both)].count("revoked") == 2
    with pytest.raises(SealError):
        both.unseal(token, "p")
    assert both.unseal(only.seal(b"data", "p"), "p") == b"data"


def test_the_master_key_is_exchanged(open_ring: Open) -> None:
    """Deploy new and old, rewrap, deploy new: what was sealed before still opens, and the old one opens nothing."""
    token = open_ring().seal(b"data", "p")
    both = open_ring(master_key=f"{OTHER},{MASTER}")
    assert both.rewrap() == 1
    assert both.rewrap() == 0
    assert open_ring(master_key=OTHER).unseal(token, "p") == b"data"
    with pytest.raises(KeyRingError):
        open_ring().unseal(token, "p")


def test_nothing_is_made_because_of_an_error(open_ring: Open, client: Any) -> None:
    """A wrong master, changed times, a counter without keys and a name of another type raise, and change nothing."""
    ring = open_ring()
    ring.seal(b"data", "p")
    before = client.hgetall(NAME)

    def refused(ring: KeyRing) -> None:
        stood = client.dump(NAME)
        for use in (lambda: ring.seal(b"data", "p"), ring.refresh, ring.rotate, ring.keys):
            with pytest.raises(KeyRingError):
                use()
        assert client.dump(NAME) == stood
        assert not ring.health().ok

    refused(open_ring(master_key=OTHER))
    (name,) = (name for name in before if name.startswith(b"k:"))
    created, activates, expires, wrapped = before[name].split()
    for forged in (
        b"%b %b %d %b" % (created, activates, int(expires) + 1, wrapped),
        b"%b %b %b aikp1..%b" % (created, activates, expires, MASTER.encode()),
        b"",
        os.urandom(300),
    ):
        client.hset(NAME, name, forged)
        refused(open_ring())
    client.hdel(NAME, name)
    refused(open_ring())
    client.delete(NAME)
    client.set(NAME, "text")
    refused(open_ring())


@pytest.mark.parametrize(
    "replies",
    [[[b"1", b"2"], odd] for odd in (5, None, b"gg", [b"g"], [5, b"x"])]
    + [[odd, [b"g", b"1"]] for odd in (5, None, b"12", [b"1"], [b"x", b"2"])],
)
def test_an_answer_that_is_no_ring_is_an_error_of_the_server(
    open_ring: Open, monkeypatch: pytest.MonkeyPatch, replies: list[object]
) -> None:
    """What is known opens, and the thread that watches the ring goes on, so it learns of revocations afterwards."""
    ring = open_ring(refresh=0.01)
    token = ring.seal(b"data", "p")
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "exchange", lambda *_: replies)
        with pytest.raises(RemoteError):
            ring.refresh()
        wait_until(lambda: not ring.health().ok)
        assert ring.unseal(token, "p") == b"data"
    wait_until(lambda: ring.health().ok)


def test_one_entry_that_does_not_open_is_left_out(open_ring: Open, client: Any) -> None:
    """The others go on, and health says so."""
    token = open_ring().seal(b"data", "p")
    client.hset(NAME, "k:" + "0" * 16, "1 2 3 aikw1.00000000.AAAA")
    client.hincrby(NAME, "g", 1)
    ring = open_ring()
    assert ring.unseal(token, "p") == b"data"
    assert ring.health().problems == ("1 of its entries cannot be opened with these master keys",)
    ring.seal(b"data", "p")
    assert client.hlen(NAME) == 3  # the counter, the key and the entry: none was made in its place


@pytest.mark.parametrize("master", [OTHER, MASTER], ids=["the new one", "the old one"])
def test_a_ring_that_opens_by_half_gets_no_key(open_ring: Open, client: Any, master: str) -> None:
    """Between a change of masters and `rewrap`, a process with one of them makes no key, even on request."""
    clock = Clock()
    token = open_ring(clock=clock).seal(b"data", "p")
    both = open_ring(clock=clock, master_key=f"{OTHER},{MASTER}")
    clock.now += 88.5 * DAY
    both.refresh()
    assert [(key.state, key.id == token[1:9].hex()) for key in _infos(both)] == [("active", True), ("pending", False)]
    stood = client.dump(NAME)
    half = open_ring(clock=clock, master_key=master)
    if master == MASTER:
        assert half.unseal(half.seal(b"data", "p"), "p") == b"data"
        clock.now += 2 * DAY
    half.refresh()
    for use in (lambda: half.seal(b"data", "p"), half.rotate):
        with pytest.raises(KeyRingError, match="No new key was made"):
            use()
    assert (client.dump(NAME), half.health().ok) == (stood, False)
    both.rewrap()
    if master == OTHER:
        half.refresh()
        assert both.unseal(half.seal(b"data", "p"), "p") == b"data"


@pytest.mark.parametrize("value", [b"%d %d %d aikw1.00000000.AAAA", b"noise"], ids=["its times", "nothing"])
def test_revoking_a_damaged_key_removes_it(open_ring: Open, client: Any, value: bytes) -> None:
    """Whatever can still be read of it: until then no key is made, since it might be the one that seals."""
    clock = Clock()
    ring = open_ring(clock=clock)
    token = ring.seal(b"data", "p")
    id = token[1:9].hex()
    ring.rotate()
    times = [int(part) for part in client.hget(NAME, f"k:{id}").split()[:3]]
    client.hset(NAME, f"k:{id}", value % tuple(times) if b"%" in value else value)
    late = open_ring(clock=clock)
    with pytest.raises(KeyRingError, match=id):
        late.seal(b"data", "p")
    assert client.hlen(NAME) == 3
    late.revoke(id)
    assert late.unseal(late.seal(b"data", "p"), "p") == b"data"


def test_a_lost_ring_is_restored(open_ring: Open, client: Any) -> None:
    """A process that knows keys and revocations restores both, instead of making a new key."""
    ring = open_ring(refresh=0.05)
    revoked = ring.seal(b"data", "p")
    ring.revoke(revoked[1:9].hex())
    token = ring.seal(b"data", "p")
    before = client.hgetall(NAME)
    client.flushall()
    wait_until(lambda: client.exists(NAME), what="the ring to be back")
    after = client.hgetall(NAME)
    assert {name: value for name, value in after.items() if name != b"g"} == {
        name: value for name, value in before.items() if name != b"g"
    }
    late = open_ring()
    assert late.unseal(token, "p") == b"data"
    with pytest.raises(SealError):
        late.unseal(revoked, "p")


def test_with_the_server_down_no_key_is_made_or_revoked(own_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known goes on sealing and opening; what is not known is away, not forged."""
    arguments: dict[str, Any] = {"instance": "shop", "master_key": MASTER, "refresh": 3600.0}
    with ExitStack() as stack:
        make_rings_patient(monkeypatch, 5.0)
        ring = stack.enter_context(closing(KeyRing(own_server.url, **arguments)))
        make_rings_patient(monkeypatch, 1.0)  # it is asked only once the server hangs, and then until it answers
        late = stack.enter_context(closing(KeyRing(own_server.url, **arguments)))
        token = ring.seal(b"data", "p")
        own_server.pause()
        try:
            assert ring.unseal(ring.seal(b"more", "p"), "p") == b"more"
            for use in (lambda: late.seal(b"data", "p"), lambda: late.unseal(token, "p"), late.keys, ring.rotate):
                with pytest.raises(RemoteError):
                    use()
        finally:
            own_server.resume()
        wait_until(lambda: _opens(late, token), what="the server to be used again")
        with redis.Redis.from_url(own_server.url) as client:
            assert sum(name.startswith(b"k:") for name in client.hkeys(NAME)) == 1


@pytest.mark.parametrize(
    ("rights", "wait"),
    [("+@all", "WAIT"), ("+@all -wait", "WAIT"), ("+@all", "NO-WAIT")],
    ids=["no replica", "no right", "no such command"],
)
def test_what_no_replica_confirms_is_logged_and_not_undone(
    own_server: Server, open_ring: Open, caplog: pytest.LogCaptureFixture, rights: str, wait: str
) -> None:
    """Neither WAIT that says 0 nor WAIT that is refused: each change is made, once, and a log line says so."""
    with redis.Redis.from_url(own_server.url) as client:
        client.execute_command("ACL", "SETUSER", "ring", "on", ">word", "~*", *rights.split())
        ring = open_ring(url=f"unix://ring:word@{own_server.socket}?db=0")
        ring._live._store._wait = [(wait, "1", "1")]
        token = ring.seal(b"data", "p")
        assert "No replica confirmed a change of the key ring" in caplog.text
        assert client.hlen(NAME) == 2
        made = ring.rotate()
        assert {info.id for info in _infos(ring)} == {token[1:9].hex(), made.id}
        ring.revoke(made.id)
        assert (client.hlen(NAME), client.hget(NAME, "g")) == (4, b"3")
        assert ring.unseal(token, "p") == b"data"


def test_a_replica_gets_no_key(own_server: Server, open_ring: Open) -> None:
    """An empty ring that cannot be written is away: no key that only this process knows seals anything."""
    ring = open_ring(url=own_server.url)
    with redis.Redis.from_url(own_server.url) as client:
        client.replicaof("127.0.0.1", 1)  # nobody is there
        with pytest.raises(RemoteError, match="READONLY"):
            ring.seal(b"data", "p")
        assert (client.exists(NAME), ring.keys()) == (0, ())
        client.replicaof("NO", "ONE")
        open_ring(url=own_server.url).seal(b"data", "p")
        assert client.hlen(NAME) == 2


def _opens(ring: KeyRing, token: bytes) -> bool:
    try:
        return ring.unseal(token, "p") == b"data"
    except (RemoteError, SealError):
        return False


def test_a_forked_child_has_connections_of_its_own(open_ring: Open) -> None:
    """The child seals and opens what the parent does, and sees changes."""
    ring = open_ring()
    token = ring.seal(b"data", "p")
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            ring.refresh()
            os.write(write, ring.unseal(token, "p") + ring.seal(b"child", "p"))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        received = pipe.read()
    os.waitpid(child, 0)
    assert received[:4] == b"data"
    assert ring.unseal(received[4:], "p") == b"child"


def test_strangers_do_not_use_up_the_reading_for_a_new_key(open_ring: Open, client: Any) -> None:
    """A key made right after a revocation opens at once in every process, whatever ids strangers send meanwhile."""
    ring, other = open_ring(), open_ring()
    assert other.unseal(ring.seal(b"data", "p"), "p") == b"data"
    for _ in range(3):
        ring.revoke(next(info.id for info in _infos(ring) if info.state == "active"))
        token = ring.seal(b"new", "p")
        before = client.info("commandstats")["cmdstat_hgetall"]["calls"]
        for _ in range(20):
            with pytest.raises(SealError):
                other.unseal(b"\x01" + os.urandom(60), "p")
        assert client.info("commandstats")["cmdstat_hgetall"]["calls"] - before < 20
        threads = [Background(other.unseal, token, "p") for _ in range(8)]
        assert [thread.result() for thread in threads] == [b"new"] * 8


def test_of_two_readings_that_overlap_the_newer_one_is_known(open_ring: Open) -> None:
    """Whichever was asked for first: a process that has read a key seals with it, whatever others read meanwhile."""
    ring, other = open_ring(), open_ring()
    read = ring._live._store.read
    began, installed = threading.Event(), threading.Event()

    def slow() -> Reading:  # asked for first, answered last
        steps[0] = early
        began.set()
        assert installed.wait(PATIENCE)
        return read()

    def early() -> Reading:
        steps[0] = after
        reading = read()
        other.seal(b"data", "p")
        return reading

    def after() -> Reading:  # what `early` read is known by now
        steps[0] = read
        installed.set()
        sealed.append(first.result())
        return read()

    steps = [slow]
    sealed: list[bytes] = []
    ring._live._store.read = lambda: steps[0]()  # type: ignore[method-assign]
    first = Background(ring.seal, b"data", "p")
    assert began.wait(PATIENCE)
    assert ring.seal(b"data", "p")[1:9] == sealed[0][1:9]
    assert len(ring.keys()) == 1


def test_a_reading_that_others_overtook_is_no_loss(
    open_ring: Open, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What was read before a key was made, and arrives after, is neither used nor treated as a loss."""
    ring, other = open_ring(), open_ring()
    read = ring._live._store.read
    asked, known = threading.Event(), threading.Event()

    def late() -> Reading:
        ring._live._store.read = read  # type: ignore[method-assign]
        reading = read()
        asked.set()
        assert known.wait(PATIENCE)
        return reading

    ring._live._store.read = late  # type: ignore[method-assign]
    slow = Background(ring.refresh)
    assert asked.wait(PATIENCE)
    token = other.seal(b"data", "p")
    assert ring.unseal(token, "p") == b"data"
    known.set()
    slow.result()
    assert (ring.unseal(token, "p"), client.hget(NAME, "g"), caplog.records) == (b"data", b"1", [])


def test_the_ring_is_watched_by_one_thread_also_after_an_interrupt(
    open_ring: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt in the middle of the first use leaves nothing undone; many threads start one watcher."""
    ring = open_ring()
    start, started = thread.start, []

    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    def counted(*args: Any) -> Any:
        started.append(args[1])
        return start(*args)

    monkeypatch.setattr(thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ring.seal(b"data", "p")
    monkeypatch.setattr(thread, "start", counted)
    in_threads(lambda: ring.seal(b"data", "p"), 8)
    assert started == ["aikcache-keyring"]


def test_metrics_say_when_a_rotation_is_overdue(open_ring: Open) -> None:
    """By what is known here; a ring that was not read, and one that is closed, say nothing."""
    clock, prefix = Clock(), f"ring_{secrets.token_hex(4)}"
    ring = open_ring(clock=clock, metrics=prefix)

    def exported() -> dict[str, float]:
        metrics = {metric.name: metric for metric in CacheCollector(prefix).collect()}
        received = {sample.labels["state"]: sample.value for sample in metrics[f"{prefix}_keyring_keys"].samples}
        due = metrics[f"{prefix}_keyring_next_rotation_seconds"].samples
        return {**received, "due": due[0].value} if due else received

    assert exported() == {}
    ring.seal(b"", "test")
    first = {"pending": 0, "active": 1, "expired": 0, "retired": 0, "revoked": 0}
    assert exported() == {**first, "due": 88 * DAY - 600}
    clock.now += 88 * DAY
    assert exported()["due"] == -600
    ring.refresh()
    assert exported() == {**first, "pending": 1, "due": 90 * DAY - 600}
    ring.revoke(ring.keys()[0].id)
    assert exported()["revoked"] == 1
    ring.close()
    assert exported() == {}
