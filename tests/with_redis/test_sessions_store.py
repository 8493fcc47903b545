"""Sessions on a real server: concurrent changes, logouts and logins, limits, hostile bytes, a server that is away."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aikcache._redis.pool import Pool
from aikcache.errors import ConfigError, EncodeError, RemoteError, SessionTooLargeError, SessionUnavailableError
from aikcache.prometheus import CacheCollector
from aikcache.sessions import Drop, Keep, KeyRing, Session, SessionStore, Set
from aikcache.testing import Server, wait_until

from ._rings import make_rings_patient
from ._workers import PATIENCE

MUTATIONS = int(os.environ.get("AIKCACHE_MUTATIONS", "20000")) // 133
MASTER = secrets.token_urlsafe(32)
PATIENT: dict[str, Any] = {"timeout": PATIENCE, "connect_timeout": PATIENCE}
Open = Callable[..., SessionStore]


@pytest.fixture
def open_store(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens stores as separate processes would have them."""
    make_rings_patient(monkeypatch)
    with ExitStack() as stack:

        def opened(url: str = redis_url, **arguments: Any) -> SessionStore:
            ring = stack.enter_context(closing(KeyRing(url, instance="shop", master_key=MASTER, refresh=3600.0)))
            given = {"ring": ring, "instance": "shop", **PATIENT, **arguments}
            return stack.enter_context(closing(SessionStore(url, **given)))

        yield opened


@pytest.fixture
def store(open_store: Open) -> SessionStore:
    return open_store()


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def begun(store: SessionStore, **data: Any) -> str:
    """A new session's cookie."""
    session = store.open(None)
    session.update(data or {"begun": True})
    cookie = store.commit(session)
    assert isinstance(cookie, Set)
    return cookie.value


def logged_in(store: SessionStore, subject: str, **data: Any) -> str:
    session = store.open(None)
    session.update(data)
    session.bind(subject, "laptop")
    cookie = store.commit(session)
    assert isinstance(cookie, Set)
    return cookie.value


def held(store: SessionStore, cookie: str) -> dict[str, Any]:
    return dict(store.open(cookie))


def names(client: Any) -> list[bytes]:
    return sorted(client.keys("shop:session:*"))


def test_what_one_request_writes_the_next_reads(store: SessionStore, open_store: Open, client: Any) -> None:
    """In another process too; the cookie has 92 characters, and a mere read sends none."""
    cookie = begun(store, user=7, cart=["tea"], seen={1, 2}, size=(3, b"x"))
    assert len(cookie) == 92
    other = open_store()
    session = other.open(cookie)
    assert dict(session) == {"user": 7, "cart": ["tea"], "seen": {1, 2}, "size": (3, b"x")}
    assert (session.new, session.modified) == (False, False)
    before = client.hgetall(names(client)[0])
    assert other.commit(session) == Keep()
    assert client.hgetall(names(client)[0]) == before


def test_nothing_is_asked_of_a_session_that_is_not_used(open_store: Open) -> None:
    """Opening and committing need no server, and a new session that stays empty leaves nothing behind."""
    away = open_store("redis://127.0.0.1:1/0")
    session = away.open("x" * 92)
    assert (away.commit(session), session.accessed) == (Keep(), False)


def test_a_new_session_that_stays_empty_is_not_stored(store: SessionStore, client: Any) -> None:
    """Reading, permanence and clearing alone store nothing."""
    session = store.open(None)
    session.permanent = True
    assert session.get("user") is None
    session.clear()
    assert (store.commit(session), names(client)) == (Keep(), [])


def test_changes_of_different_keys_all_survive(store: SessionStore) -> None:
    """32 requests that have read the same session each add a key: all are kept, in each of ten rounds."""
    cookie = begun(store)
    with ThreadPoolExecutor(32) as pool:
        for turn in range(10):
            line = threading.Barrier(32)

            def add(number: int, turn: int = turn, line: threading.Barrier = line) -> object:
                session = store.open(cookie)
                assert session["begun"]
                session[f"{turn}:{number}"] = number
                line.wait()
                return store.commit(session)

            assert set(pool.map(add, range(32))) == {Keep()}
            found = held(store, cookie)
            assert [found.pop(f"{turn}:{number}") for number in range(32)] == list(range(32))
            session = store.open(cookie)
            for number in range(32):
                del session[f"{turn}:{number}"]
            store.commit(session)


def test_a_deletion_beside_a_change_keeps_both(store: SessionStore) -> None:
    """One deletes a key, one sets another, one changes inside a third: none undoes another's."""
    cookie = begun(store, a=1, b={"list": [1]}, read={"x", "y"})
    one, two, three = (store.open(cookie) for _ in range(3))
    assert [len(session) for session in (one, two, three)] == [3, 3, 3]
    del one["a"]
    two["c"] = 3
    three["b"]["list"].append(2)
    for session in (one, two, three):
        assert store.commit(session) == Keep()
    assert held(store, cookie) == {"b": {"list": [1, 2]}, "c": 3, "read": {"x", "y"}}


def test_what_was_only_read_is_not_written_back(store: SessionStore, open_store: Open) -> None:
    """A set that another process changed meanwhile stays as that one left it."""
    cookie = begun(store, tags={"a", "b", "c"}, count=1)
    other = open_store()
    reader, writer = store.open(cookie), other.open(cookie)
    assert reader["tags"] == {"a", "b", "c"}
    reader["tags"].add("d")
    reader["tags"].remove("d")
    reader["count"] = 1
    reader.modified = True
    reader["mine"] = True
    writer["tags"] = {"z"}
    writer["count"] = 5
    other.commit(writer)
    store.commit(reader)
    assert held(store, cookie) == {"tags": {"z"}, "count": 5, "mine": True}


def test_a_logout_wins_over_requests_that_read_before(store: SessionStore, open_store: Open) -> None:
    """200 logouts race a writer, a reader and a page that regenerates: none lives on, no stale cookie."""
    other = open_store()
    for number in range(200):
        cookie = logged_in(store, f"user {number}", user=number)
        late = [other.open(cookie) for _ in range(3)]
        for session in late:
            assert session["user"] == number
        late[0]["late"] = True
        late[1].regenerate()
        logout = store.open(cookie)
        logout.end()
        assert store.commit(logout) == Drop()
        assert [other.commit(session) for session in late] == [Keep()] * 3
        assert held(store, cookie) == {}
        assert store.sessions(f"user {number}") == []


def test_a_flash_beside_a_logout_brings_nothing_back(store: SessionStore) -> None:
    """`clear()` with a message after it: the record lives on with the message alone, whatever others had read."""
    cookie = begun(store, user=7)
    stale, logout = store.open(cookie), store.open(cookie)
    assert (stale["user"], logout["user"]) == (7, 7)
    logout.clear()
    logout["_flashes"] = ["bye"]
    assert store.commit(logout) == Keep()
    stale["user"] = 8
    assert store.commit(stale) == Keep()
    assert held(store, cookie) == {"_flashes": ["bye"]}
    assert store.counts["dropped"] == 1


@pytest.mark.parametrize("beside", ["flash", "regenerate", "bind before", "bind after", "login"])
def test_a_cleared_session_has_no_subject(store: SessionStore, beside: str) -> None:
    """`clear()` ends the login as well, though the record lives on with a message, or gets a new id."""
    cookie = logged_in(store, "ann", role="admin")
    session = store.open(cookie)
    if beside == "bind before":
        session.bind("bob")
    session.clear()
    assert session.subject is None
    if beside != "bind after":
        session["_flashes"] = ["bye"]
    if beside == "regenerate":
        session.regenerate()
    if beside in ("bind after", "login"):
        session.bind("bob", regenerate=beside == "login")
    after = store.commit(session)
    here = store.open(after.value if isinstance(after, Set) else cookie)
    bound = beside in ("bind after", "login")
    assert (here.subject, "role" in here) == ("bob" if bound else None, False)
    assert (store.sessions("ann"), [info.label for info in store.sessions("bob")]) == ([], [None] if bound else [])
    assert store.end_all("ann") == 0


def test_what_is_done_after_a_logout_counts(store: SessionStore) -> None:
    """A login after `end()` in one request; a new id of nothing is none; everything is ended after `clear()` too."""
    cookie = logged_in(store, "ann")
    session = store.open(cookie)
    session.end()
    session.bind("bob")
    after = store.commit(session)
    assert isinstance(after, Set)
    assert (store.open(after.value).subject, store.sessions("ann")) == ("bob", [])
    session = store.open(after.value)
    session.clear()
    session.regenerate()
    assert (store.commit(session), store.sessions("bob")) == (Drop(), [])
    cookies = [logged_in(store, "ann") for _ in range(2)]
    session = store.open(cookies[0])
    session.clear()
    assert (session.end_all(), store.commit(session), store.sessions("ann")) == (1, Drop(), [])


def test_an_emptied_session_ends(store: SessionStore) -> None:
    """Its cookie is dropped; but not where another request has added something meanwhile."""
    cookie = begun(store, a=1)
    popped, added = store.open(cookie), store.open(cookie)
    assert popped.pop("a") + added["a"] == 2
    added["b"] = 2
    store.commit(added)
    assert store.commit(popped) == Keep()
    last = store.open(cookie)
    last.clear()
    assert store.commit(last) == Drop()
    assert held(store, cookie) == {}


def test_a_login_without_keys_stands(store: SessionStore) -> None:
    """Whether it was made before the last key went or in the same commit; `clear()` ends it."""
    cookie = logged_in(store, "user", flash="hello")
    session = store.open(cookie)
    assert session.pop("flash") == "hello"
    assert store.commit(session) == Keep()
    session = store.open(cookie)
    assert (session.new, session.subject, dict(session), len(store.sessions("user"))) == (False, "user", {}, 1)
    session["flash"] = "again"
    assert store.commit(session) == Keep()
    session = store.open(cookie)
    assert session.pop("flash") == "again"
    session.bind("user", regenerate=False)
    assert store.commit(session) == Keep()
    assert store.open(cookie).subject == "user"
    session = store.open(cookie)
    session.clear()
    assert (store.commit(session), store.sessions("user"), store.open(cookie).subject) == (Drop(), [], None)


def test_a_login_has_a_fresh_id_whatever_cookie_came(store: SessionStore) -> None:
    """The old id, a chosen one and one that has ended lead nowhere; a stale page beside the login sends no cookie."""
    before = begun(store, cart=["tea"])
    stale, login = store.open(before), store.open(before)
    assert stale["cart"] == login["cart"]
    login.bind("user 7")
    after = store.commit(login)
    assert isinstance(after, Set)
    assert after.value != before
    late = store.open(before)
    assert dict(late) == {}
    late["x"] = 1
    assert store.commit(late) == Keep()
    stale["theme"] = "dark"
    assert store.commit(stale) == Keep()
    assert held(store, after.value) == {"cart": ["tea"], "theme": "dark"}
    again = store.open(before)
    again.bind("user 8")
    assert isinstance(store.commit(again), Set)
    for chosen in ("x" * 92, base64.urlsafe_b64encode(os.urandom(69)).decode(), "é", ""):
        session = store.open(chosen)
        session["user"] = 1
        cookie = store.commit(session)
        assert isinstance(cookie, Set)
        assert cookie.value != chosen


@pytest.mark.parametrize("change", ["bind", "regenerate", "end", "write", "read", None])
def test_a_cookie_is_sealed_anew_only_while_its_session_lives(
    open_store: Open, redis_url: str, change: str | None
) -> None:
    """After a rotation: not by a page that had read it before the login or logout beside it, nor with Redis unasked."""
    clock = [1_800_000_000.0]
    ring = KeyRing(redis_url, instance="shop", master_key=MASTER, refresh=3600.0, clock=lambda: clock[0])
    with closing(ring):
        store = open_store(ring=ring)
        cookie = begun(store, a=1)
        ring.rotate()
        clock[0] += 60
        ring.refresh()
        late, beside = store.open(cookie), store.open(cookie)
        assert late["a"] == beside["a"]
        changes: dict[str | None, Callable[[], object]] = {
            "bind": lambda: beside.bind("user"), "regenerate": beside.regenerate, "end": beside.end,
            "write": lambda: beside.update(b=2), "read": lambda: beside["a"], None: lambda: None,
        }  # fmt: skip
        changes[change]()
        first, sent = store.commit(beside), store.commit(late)
        assert isinstance(first, Drop if change == "end" else Set)
        if change in ("bind", "regenerate", "end"):
            assert sent == Keep()
        else:
            assert isinstance(sent, Set)
            assert held(store, sent.value)["a"] == 1
            again = store.open(sent.value)
            assert (again["a"], store.commit(again)) == (1, Keep())
        assert store.commit(store.open(cookie)) == Keep()


def test_writes_during_a_change_of_id_are_carried_over(store: SessionStore, open_store: Open) -> None:
    """Between reading and the new id another request adds, changes and deletes: all of it goes on."""
    cookie = begun(store, a=1, b=2, c=3)
    renewing, writing = store.open(cookie), store.open(cookie)
    assert dict(renewing) == dict(writing)
    renewing.regenerate()
    renewing["mine"] = True
    writing["a"] = 10
    writing["new"] = "x"
    del writing["b"]
    store.commit(writing)
    after = store.commit(renewing)
    assert isinstance(after, Set)
    assert held(store, after.value) == {"a": 10, "c": 3, "new": "x", "mine": True}
    assert held(open_store(), cookie) == {}


def test_nothing_that_was_acknowledged_is_lost_to_a_new_id(open_store: Open) -> None:
    """What both wrote is too much for one session: an error, and the other's stays. The next attempt is as good."""
    store = open_store(max_bytes=1000)
    cookie = begun(store, a=1)
    renewing, writing = store.open(cookie), store.open(cookie)
    assert renewing["a"] == writing["a"]
    writing["other's"] = "x" * 500
    assert store.commit(writing) == Keep()
    renewing["mine"] = "y" * 500
    renewing.bind("user")
    with pytest.raises(SessionTooLargeError, match="Nothing was written"):
        store.commit(renewing)
    assert held(store, cookie) == {"a": 1, "other's": "x" * 500}
    assert store.sessions("user") == []
    del renewing["mine"]
    after = store.commit(renewing)
    assert isinstance(after, Set)
    assert sorted(held(store, after.value)) == ["a", "other's"]


@pytest.mark.parametrize("login", [True, False])
def test_a_new_id_is_not_lost_to_deletions_beside_it(store: SessionStore, login: bool) -> None:
    """Two requests delete all there was, each its half: the login stands, and what is new goes on."""
    cookie = begun(store, a=1, b=2)
    renewing, writing = store.open(cookie), store.open(cookie)
    assert dict(renewing) == dict(writing)
    del writing["a"]
    store.commit(writing)
    del renewing["b"]
    if login:
        renewing.bind("user")
    else:
        renewing.regenerate()
    after = store.commit(renewing)
    assert isinstance(after, Set)
    session = store.open(after.value)
    assert (session.new, session.subject, dict(session)) == (False, "user" if login else None, {})


def test_a_new_id_keeps_the_login_beside_it(store: SessionStore) -> None:
    """One that was made under the id that goes."""
    cookie = begun(store, a=1)
    renewing, login = store.open(cookie), store.open(cookie)
    assert renewing["a"] == login["a"]
    login.bind("user", regenerate=False)
    store.commit(login)
    renewing.regenerate()
    after = store.commit(renewing)
    assert isinstance(after, Set)
    assert (store.open(after.value).subject, len(store.sessions("user"))) == ("user", 1)


@pytest.mark.parametrize("change", [Session.end, Session.clear, lambda session: session.update(late=True)])
def test_a_request_follows_however_many_new_ids(store: SessionStore, change: Callable[[Session], Any]) -> None:
    """Those that the session got while the request ran: a logout ends it under the last one, or is an error."""

    def renewed(cookie: str, times: int) -> str:
        for _ in range(times):
            session = store.open(cookie)
            session.regenerate()
            after = store.commit(session)
            assert isinstance(after, Set)
            cookie = after.value
        return cookie

    def late(times: int) -> tuple[Session, str]:
        cookie = begun(store, a=1)
        session = store.open(cookie)
        assert session["a"] == 1
        change(session)
        return session, renewed(cookie, times)

    session, cookie = late(6)
    assert (store.commit(session), held(store, cookie)) in ((Drop(), {}), (Keep(), {"a": 1, "late": True}))
    session, cookie = late(20)
    with pytest.raises(SessionUnavailableError):
        store.commit(session)
    assert held(store, cookie) == {"a": 1}


def test_of_two_new_ids_at_once_one_counts(store: SessionStore) -> None:
    """Both requests' changes are under the one; the other sends no cookie. Of two logins both stand."""
    cookie = begun(store, a=1)
    one, two = store.open(cookie), store.open(cookie)
    for number, session in enumerate((one, two)):
        assert session["a"] == 1
        session.regenerate()
        session[f"key{number}"] = number
    first = store.commit(one)
    assert isinstance(first, Set)
    assert store.commit(two) == Keep()
    assert held(store, first.value) == {"a": 1, "key0": 0, "key1": 1}
    logins = [store.open(first.value) for _ in range(2)]
    for session in logins:
        assert session["a"] == 1
        session.bind("user")
    assert all(isinstance(store.commit(session), Set) for session in logins)
    assert len(store.sessions("user")) == 2


def test_a_new_id_does_not_prolong_and_a_login_does(store: SessionStore, client: Any) -> None:
    """The absolute end goes on with the id, and starts anew at a login."""
    cookie = begun(store, a=1)
    client.hset(names(client)[0], "~a", int(client.time()[0]) * 1000 + 5_000_000)
    (end,) = client.hmget(names(client)[0], "~a")

    def renewed(cookie: str, *, login: bool) -> tuple[str, Any]:
        session = store.open(cookie)
        session.bind("user") if login else session.regenerate()
        after = store.commit(session)
        assert isinstance(after, Set)
        (name,) = (name for name in names(client) if client.hexists(name, "~v"))
        return after.value, client.hget(name, "~a")

    cookie, after = renewed(cookie, login=False)
    assert after == end
    _, after = renewed(cookie, login=True)
    assert int(after) > int(end)


def test_a_subjects_sessions_are_listed_and_ended(store: SessionStore, open_store: Open, client: Any) -> None:
    """By their handles, with labels; everywhere, but for the one that asks if it wishes."""
    cookies = [logged_in(store, "user 7", n=number) for number in range(3)]
    other = logged_in(store, "user 8", n=9)
    infos = open_store().sessions("user 7")
    assert ([info.label for info in infos], len({info.handle for info in infos})) == (["laptop"] * 3, 3)
    assert all(abs(info.last_seen - client.time()[0]) < 60 for info in infos)
    mine = store.open(cookies[0])
    assert mine.subject == "user 7"
    assert store.end(infos[0].handle) != store.end(infos[0].handle)
    assert store.end_all("user 7", keep=mine) in (1, 2)
    assert [info.handle for info in store.sessions("user 7")] in ([], [mine.handle])
    session = store.open(logged_in(store, "user 7"))
    session.end_all()
    assert store.commit(session) == Drop()
    assert (store.sessions("user 7"), [held(store, cookie) for cookie in cookies]) == ([], [{}, {}, {}])
    assert held(store, other) == {"n": 9}


def test_however_many_sessions_a_subject_has_all_end(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has a password begins as many as they like: no exchange is so long that the server answers too late."""
    exchange, lengths = Pool.exchange, []

    def counted(pool: Pool, commands: Any, *more: Any) -> Any:
        lengths.append(len(commands))
        return exchange(pool, commands, *more)

    for _ in range(1100):
        logged_in(store, "user")
    monkeypatch.setattr(Pool, "exchange", counted)
    assert (len(store.sessions("user")), store.end_all("user"), store.sessions("user")) == (1100, 1100, [])
    assert max(lengths) <= 1000


def test_a_login_that_end_all_overtakes_does_not_begin(store: SessionStore, client: Any) -> None:
    """A session that is in its subject's index, but not there yet, is ended before it begins."""
    run, ended = store.records.run, []

    def overtaken(calls: Any, *, critical: bool) -> Any:
        store.records.run = run  # type: ignore[method-assign]
        run([*calls[:1]], critical=True)
        ended.append(store.end_all("user"))
        return run(calls, critical=critical)

    store.records.run = overtaken  # type: ignore[method-assign]
    session = store.open(None)
    session.bind("user")
    assert store.commit(session) == Keep()
    assert (ended, store.sessions("user")) == ([0], [])


@pytest.mark.parametrize("change", [Session.regenerate, lambda session: session.bind("user", regenerate=False)])
def test_a_list_beside_a_new_id_loses_no_session(
    store: SessionStore, client: Any, monkeypatch: pytest.MonkeyPatch, change: Callable[[Session], Any]
) -> None:
    """On a cluster the index is written in an exchange of its own: a list may find no session of the subject there."""
    monkeypatch.setattr(Pool, "ordered", False)
    cookie = logged_in(store, "user", a=1) if change is Session.regenerate else begun(store, a=1)
    client.hincrby(names(client)[0], "~a", -20_000_000)  # it ends earlier than one that has just begun
    ask = store.records._ask

    def listed_beside(calls: Any, *, critical: bool) -> Any:
        outcomes = ask(calls, critical=critical)
        monkeypatch.setattr(store.records, "_ask", ask)
        store.sessions("user")
        return outcomes

    session = store.open(cookie)
    assert session["a"] == 1
    change(session)
    monkeypatch.setattr(store.records, "_ask", listed_beside)
    after = store.commit(session)
    last = after.value if isinstance(after, Set) else cookie
    assert [info.handle for info in store.sessions("user")] == [store.open(last).handle]
    assert (store.end_all("user"), held(store, last)) == (1, {})


def test_end_all_beside_a_new_id_ends_that_session_too(store: SessionStore) -> None:
    """The session gets it between the list of the subject's sessions and their end; somebody else's login stays."""
    listed = store.records.listed
    sent: list[str] = []

    def beside(subjects: Any) -> Any:
        found = listed(subjects)
        for _ in range(min(2, len(changes))):
            session = store.open(sent[-1])
            changes.pop()(session)
            after = store.commit(session)
            assert isinstance(after, Set)
            sent.append(after.value)
        return found

    store.records.listed = beside  # type: ignore[method-assign]
    changes: list[Callable[[Session], Any]] = [Session.regenerate] * 5
    sent.append(logged_in(store, "user", a=1))
    assert (store.end_all("user"), store.sessions("user"), len(sent)) == (1, [], 6)
    assert held(store, sent[-1]) == {}
    changes = [lambda session: session.bind("other")]
    sent.append(logged_in(store, "user", a=1))
    assert (store.end_all("user"), held(store, sent[-1])) == (0, {"a": 1})


def test_a_session_ends_by_the_handle_that_it_had(store: SessionStore) -> None:
    """Also where it got another id since the handle was listed, twice; but not where that was another's login."""
    cookie = logged_in(store, "user", a=1)
    (info,) = store.sessions("user")
    changes: list[Callable[[Session], Any]] = [
        Session.regenerate, lambda session: session.bind("user"), lambda session: session.bind("other")
    ]  # fmt: skip
    for change in changes:
        session = store.open(cookie)
        change(session)
        after = store.commit(session)
        assert isinstance(after, Set)
        cookie = after.value
    (mine,) = store.sessions("other")
    assert (store.end(info.handle), held(store, cookie)) == (False, {"a": 1})
    session = store.open(cookie)
    session.regenerate()
    after = store.commit(session)
    assert isinstance(after, Set)
    assert (store.end(mine.handle), held(store, after.value), store.end(mine.handle)) == (True, {}, False)


def test_both_timeouts_are_the_time_to_live(open_store: Open, client: Any) -> None:
    """A use extends it once `touch_every` has gone by, and never beyond the absolute end."""
    store = open_store(idle_timeout=1000, absolute_timeout=1500, touch_every=100)
    cookie = begun(store)
    (name,) = names(client)
    assert 1_060_000 < client.pttl(name) <= 1_100_000
    client.pexpire(name, 1_050_000)
    held(store, cookie)
    assert client.pttl(name) <= 1_050_000
    client.pexpire(name, 990_000)
    held(store, cookie)
    assert client.pttl(name) > 1_060_000
    client.hset(name, "~a", int(client.time()[0]) * 1000 + 500_000)
    client.pexpire(name, 400_000)
    held(store, cookie)
    assert (client.pttl(name) <= 501_000, client.hexists(name, "~f")) == (True, True)
    client.pexpire(name, 400_000)
    held(store, cookie)
    assert client.pttl(name) <= 400_000


def test_the_last_use_is_known_until_the_end(open_store: Open, client: Any) -> None:
    """Also once the absolute end rules the time to live, which then says nothing of when the session was used."""
    store = open_store(idle_timeout=1000, absolute_timeout=1500, touch_every=100)
    cookie = logged_in(store, "user", a=1)
    (name,) = names(client)

    def seen() -> float:
        """How long ago the last use was, as the list says."""
        return float(client.time()[0] - store.sessions("user")[0].last_seen)

    end = int(client.time()[0]) * 1000 + 400_000
    for marked, change in ((None, None), ("1", None), ("old", None), ("old", 2)):
        client.hset(name, "~a", end)
        client.pexpireat(name, end)
        if marked:
            client.hset(name, "~f", int(client.time()[0]) * 1000 - 200_000 if marked == "old" else marked)
            assert seen() > 150
        session = store.open(cookie)
        assert session["a"] in (1, 2)
        if change:
            session["a"] = change
        store.commit(session)
        assert abs(seen()) < 60
    counted = store.counts["touched"]
    held(store, cookie)
    assert store.counts["touched"] == counted  # once in `touch_every`


def test_a_permanent_session_has_an_age_in_its_cookie(open_store: Open) -> None:
    """And a lifetime of its own; another permanence is another cookie."""
    store = open_store(permanent_timeout=1_000_000)
    cookie = begun(store)
    session = store.open(cookie)
    session.permanent = True
    assert session["begun"]
    after = store.commit(session)
    assert isinstance(after, Set)
    assert after.max_age is not None
    assert 999_000 < after.max_age <= 1_000_000
    again = store.open(after.value)
    again.permanent = True
    assert (again["begun"], again.permanent, store.commit(again)) == (True, True, Keep())


def test_a_session_becomes_permanent_though_nothing_else_is_read_of_it(open_store: Open) -> None:
    """As where a form has a box "stay logged in" and its handler does nothing else."""
    store = open_store(permanent_timeout=1_000_000)
    cookie = begun(store)
    session = store.open(cookie)
    session.permanent = True
    assert isinstance(store.commit(session), Set)
    assert store.open(cookie).permanent


def test_another_permanence_counts_beside_a_new_id(open_store: Open, client: Any) -> None:
    """From when the session began; one that would have ended by that ends."""
    store = open_store(permanent_timeout=1_000_000)
    cookie = begun(store)
    session = store.open(cookie)
    session.permanent = True
    session.regenerate()
    after = store.commit(session)
    assert isinstance(after, Set)
    assert 999_000 < (after.max_age or 0) <= 1_000_000
    (name,) = (name for name in names(client) if client.hexists(name, "~v"))
    created, end = map(int, client.hmget(name, "~c", "~a"))
    assert end - created == 1_000_000_000
    client.hincrby(name, "~c", -900_000_000)
    session = store.open(after.value)
    session.permanent = False
    session.regenerate()
    assert (store.commit(session), held(store, after.value)) == (Drop(), {})


def test_a_session_that_becomes_permanent_is_listed_for_as_long(open_store: Open, client: Any) -> None:
    """Its subject's index would expire before it otherwise, and `end_all` no longer find it."""
    store = open_store(permanent_timeout=1_000_000)
    session = store.open(logged_in(store, "user", a=1))
    assert session["a"] == 1
    session.permanent = True
    assert isinstance(store.commit(session), Set)
    (index,) = client.keys("shop:subject:*")
    assert client.pttl(index) > 999_000_000


def test_a_write_prolongs_no_session_beyond_its_end(open_store: Open, client: Any) -> None:
    """Beyond the idle time while that ends first; and a mark of a process with other times does not stay."""
    store = open_store(idle_timeout=1000, absolute_timeout=1500, touch_every=100)
    cookie = begun(store)
    (name,) = names(client)
    now = int(client.time()[0]) * 1000
    for finish, marked, least, most in (
        (now + 1_400_000, None, 1_060_000, 1_100_000),
        (now + 500_000, None, 400_000, 501_000),
        (now + 1_400_000, "1", 1_060_000, 1_100_000),
    ):
        client.hset(name, "~a", finish)
        client.hdel(name, "~f")
        session = store.open(cookie)
        session["count"] = session.get("count", 0) + 1
        if marked:
            client.hset(name, "~f", marked)
        client.pexpire(name, 300_000)
        store.commit(session)
        assert least < client.pttl(name) <= most
        assert client.hexists(name, "~f") == (most < 1_000_000)
    assert held(store, cookie)["count"] == 3


def test_the_same_commit_sent_twice_is_one(store: SessionStore) -> None:
    """A repetition after a lost reply changes nothing, and is answered alike."""
    run = store.records.run
    store.records.run = lambda calls, **how: (run(calls, **how), run(calls, **how))[1]  # type: ignore[method-assign]
    cookie = begun(store, a=1)
    session = store.open(cookie)
    session["b"] = 2
    assert store.commit(session) == Keep()
    session = store.open(cookie)
    session.bind("user")
    after = store.commit(session)
    assert isinstance(after, Set)
    assert held(store, after.value) == {"a": 1, "b": 2}
    session = store.open(after.value)
    session.clear()
    assert store.commit(session) == Drop()


def test_a_session_over_its_limits_is_not_written(open_store: Open) -> None:
    """The error names the largest keys; what is there already stays. Two requests together do not get past them."""
    store = open_store(max_bytes=1000, max_keys=5)
    cookie = begun(store, a=1)
    for data in ({"big": "x" * 2000, "b": 1}, {str(n): n for n in range(6)}):
        session = store.open(cookie)
        session.update(data)
        with pytest.raises(SessionTooLargeError, match=r"at most 1000 bytes under 5 keys .* The largest: '"):
            store.commit(session)
    assert held(store, cookie) == {"a": 1}
    pair = [store.open(cookie) for _ in range(2)]
    for number, session in enumerate(pair):
        assert session["a"] == 1
        session[f"half{number}"] = "x" * 500
    store.commit(pair[0])
    with pytest.raises(SessionTooLargeError):
        store.commit(pair[1])
    assert sorted(held(store, cookie)) == ["a", "half0"]


def test_a_session_holds_as_many_keys_as_the_setting_may_allow(open_store: Open) -> None:
    """In each script that writes: a login that begins, another id, a change of all, and their end."""
    store = open_store(max_keys=3900, max_bytes=10**7)
    many = {str(number): number for number in range(3900)}
    session = store.open(None)
    session.permanent = True
    session.update(many)
    session.bind("user", "laptop")
    sent = store.commit(session)
    assert isinstance(sent, Set)
    session = store.open(sent.value)
    session.update(dict.fromkeys(many, True))
    session.permanent = False
    session.bind("user", "laptop", regenerate=False)
    sent = store.commit(session)
    assert isinstance(sent, Set)
    session = store.open(sent.value)
    session.clear()
    session.update(many)
    assert store.commit(session) == Keep()
    session = store.open(sent.value)
    session.update(dict.fromkeys(many, True))
    assert store.commit(session) == Keep()
    session = store.open(sent.value)
    for name in many:
        del session[name]
    session["last"] = 1
    assert store.commit(session) == Keep()
    assert held(store, sent.value) == {"last": 1}


def test_what_cannot_be_kept_is_an_error_with_its_path(store: SessionStore) -> None:
    """Nothing is written then."""
    session = store.open(None)
    session["rows"] = [object()]
    with pytest.raises(EncodeError, match=r"session\['rows'\]\[0\]"):
        store.commit(session)
    for name in ("x" * 257, 7, "\ud800"):
        with pytest.raises(EncodeError, match="session's keys"):
            session[name] = 1  # type: ignore[index]


@pytest.mark.parametrize("login", [("\ud800",), ("",), ("user", "\ud800"), ("user", 7), (7,)])
def test_a_login_is_text(store: SessionStore, login: tuple[Any, ...]) -> None:
    """Another subject, or label, is an error where it is given, and changes nothing."""
    session = store.open(None)
    with pytest.raises(EncodeError, match=r"^a (subject|label) is "):
        session.bind(*login)
    session["a"] = 1
    assert (isinstance(store.commit(session), Set), store.counts["created"]) == (True, 1)


def test_neither_redis_nor_logs_show_a_session(
    store: SessionStore, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No id, cookie, value, subject or label; key names do show. Without the cookie the ring opens nothing."""
    cookie = logged_in(store, "subject-in-clear", field="value-in-clear")
    dump = repr([(name, client.dump(name)) for name in client.keys("*")]) + caplog.text + repr(store.open(cookie))
    view = store.open(cookie).view()
    id, record = view.id, view.record
    assert record is not None
    for secret in ("subject-in-clear", "value-in-clear", "laptop", cookie, id.hex(), repr(id)[2:-1]):
        assert secret not in dump
    for purpose in ("session-record", "session-cookie"):
        closed = record.fields["field"]
        assert store.ring.opening_subkey(purpose, closed[:8]) is not None
        for aad in (b"", b"field", b"ffield"):
            with pytest.raises(Exception, match="not sealed"):
                store.ring.unseal(b"\x01" + closed, purpose, aad)


def test_a_moved_field_does_not_open(store: SessionStore, client: Any) -> None:
    """Under another name, in another session, or from before a `clear()`."""
    cookies = begun(store, a="user", b="admin"), begun(store, a="other")
    name, other = (f"shop:session:{store.open(cookie).view().name}" for cookie in cookies)
    a, b = client.hmget(name, "fa", "fb")
    client.hset(other, "fa", a)
    assert "a" not in store.open(cookies[1])
    client.hset(name, "fa", b)
    assert "a" not in store.open(cookies[0])
    session = store.open(cookies[0])
    session.clear()
    session["c"] = 1
    store.commit(session)
    client.hset(name, "fb", b)
    assert "b" not in store.open(cookies[0])


def test_a_revoked_key_ends_what_it_sealed(store: SessionStore, open_store: Open) -> None:
    """The cookie leads nowhere, and the next session has a new key."""
    cookie = begun(store, a=1)
    store.ring.revoke(store.ring.keys()[0].id)
    assert held(store, cookie) == {}
    assert held(store, begun(store, b=2)) == {"b": 2}


@pytest.mark.parametrize("reply", [[b"ok"], [b"ok", b"x"], [b"to"], [b"to", 5], [b"changed"], [b"changed", b"x"]])
def test_a_reply_that_no_script_gives_is_an_error_of_the_server(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch, reply: list[object]
) -> None:
    """So it is answered as a server that is away, by a 503."""
    session = store.open(logged_in(store, "user", a=1))
    assert session["a"] == 1
    session.permanent = True
    session.regenerate()
    monkeypatch.setattr(Pool, "exchange", lambda _, commands: [reply for _ in commands])
    for _ in range(2):
        with pytest.raises(SessionUnavailableError):
            store.commit(session)
        session.regenerating = False


@pytest.mark.parametrize("reply", [[b"a"], [5, b"1"], [b"a", b"x"]])
def test_a_reply_that_is_no_index_is_an_error_of_the_server(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch, reply: list[object]
) -> None:
    """The list of a subject's sessions raises what it raises for a server that is away."""
    logged_in(store, "user", a=1)
    monkeypatch.setattr(Pool, "exchange", lambda _, commands: [reply for _ in commands])
    with pytest.raises(RemoteError):
        store.sessions("user")


@pytest.mark.parametrize("subject", [b"\xff\xfe", b"", b"x" * 43])
def test_a_foreign_subject_stops_no_request(store: SessionStore, client: Any, subject: bytes) -> None:
    """Somebody put it into the record in Redis; a new id, and another permanence, take it along."""
    cookie = logged_in(store, "user", a=1)
    name = f"shop:session:{store.open(cookie).view().name}"
    client.hset(name, "~s", subject)
    client.hdel(name, "~u")
    for change in (lambda session: session.regenerate(), lambda session: setattr(session, "permanent", True)):
        session = store.open(cookie)
        assert (session["a"], session.subject) == (1, None)
        change(session)
        after = store.commit(session)
        assert isinstance(after, Set)
        cookie = after.value


def test_any_cookie_and_any_record_is_a_new_visitor(
    store: SessionStore, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Never an exception; a read sends no cookie; two kinds of log line, a minute for each."""
    cookie = begun(store, a=[1, {"b": 2}])
    (key,) = names(client)
    record = client.hgetall(key)

    @settings(max_examples=MUTATIONS, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def anything(data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(cookie) - 1))
        mutated = cookie[:at] + data.draw(st.characters()) + cookie[at + data.draw(st.integers(0, 2)) :]
        forged = dict(record)
        name = data.draw(st.sampled_from(sorted(forged)))
        forged[name] = data.draw(st.binary(max_size=60) | st.just(forged[name][:-1]))
        client.delete(key)
        client.hset(key, mapping=forged)
        if data.draw(st.booleans()):
            client.pexpire(key, 60_000)
        for sent in {mutated, cookie}:  # a character may be replaced by itself
            session = store.open(sent)
            assert dict(session) in ({}, {"a": [1, {"b": 2}]})
            assert store.commit(session) == Keep()
            session = store.open(sent)
            session["x"] = 1
            assert isinstance(store.commit(session), (Keep, Set))

    anything()
    for other in ("text", ["list"]):
        client.delete(key)
        client.set(key, other) if isinstance(other, str) else client.rpush(key, *other)
        assert held(store, cookie) == {}
    assert held(store, "none of ours") == {}
    kinds = {getattr(record, "aikcache_cause", record.getMessage()) for record in caplog.records}
    assert kinds == {"session:cookie", "session:record"}


def test_of_several_cookies_the_first_that_leads_somewhere_counts(store: SessionStore) -> None:
    """At most four are tried."""
    cookie = begun(store, a=1)
    assert held(store, cookie) == {"a": 1}
    assert dict(store.open(["x", "y" * 500, cookie])) == {"a": 1}
    assert dict(store.open(["x", "y", "z", "0", cookie])) == {}
    assert dict(store.open(cookie, name="other")) == {}


def test_with_redis_down_no_change_is_acknowledged(own_server: Server, open_store: Open) -> None:
    """Reading and writing raise; under "empty" a session is empty, and what is written is dropped and counted."""
    store, empty = open_store(own_server.url), open_store(own_server.url, on_unavailable="empty")
    cookie = begun(store, a=1)
    assert held(empty, cookie) == {"a": 1}
    read = store.open(cookie)
    assert read["a"] == 1
    read["b"] = 2
    own_server.kill()
    with pytest.raises(SessionUnavailableError):
        store.commit(read)
    with pytest.raises(SessionUnavailableError):
        held(store, cookie)
    session = empty.open(cookie)
    session["c"] = 3
    assert (empty.commit(session), empty.counts["dropped"]) == (Keep(), 1)
    with pytest.raises(SessionUnavailableError, match="not ended"):
        session.end_all("user")


def test_a_server_that_refuses_writes_lets_readers_go_on(own_server: Server, open_store: Open) -> None:
    """OOM fails a commit that writes, and no other."""
    store = open_store(own_server.url)
    cookie = begun(store, a=1)
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("maxmemory", "1")
        assert held(store, cookie) == {"a": 1}
        session = store.open(cookie)
        session["b"] = 2
        with pytest.raises(SessionUnavailableError, match="OOM"):
            store.commit(session)


def test_a_use_that_cannot_be_noted_is_a_use(own_server: Server, open_store: Open) -> None:
    """A server without replicas that wants some refuses to extend a session, and the session is read all the same."""
    store = open_store(own_server.url)
    cookie = begun(store, a=1)
    with redis.Redis.from_url(own_server.url) as client:
        (name,) = client.keys("shop:session:*")
        client.pexpire(name, 1_000_000)
        client.config_set("min-replicas-to-write", "1")
        assert held(store, cookie) == {"a": 1}
        assert client.pttl(name) <= 1_000_000
        client.config_set("min-replicas-to-write", "0")
        assert held(store, cookie) == {"a": 1}
        assert client.pttl(name) > 1_000_000


def test_a_logout_everywhere_that_fails_says_so(own_server: Server, open_store: Open) -> None:
    """With the error that a web framework answers with 503."""
    store = open_store(own_server.url, timeout=5)
    session = store.open(logged_in(store, "user", a=1))
    assert session["a"] == 1
    own_server.pause()
    try:
        with pytest.raises(SessionUnavailableError, match="not ended"):
            session.end_all()
    finally:
        own_server.resume()


def test_logouts_win_every_race(store: SessionStore, open_store: Open) -> None:
    """A slow reader, a writer, a flash, a page that regenerates and a logout commit at once: nothing is alive after.

    Every other logout is a `clear()` with a flash of its own, which lives on, as nobody's.
    """
    other = open_store()
    line = threading.Barrier(5)

    def at_once(session: Session, change: Callable[[Session], object], by: SessionStore) -> object:
        change(session)
        line.wait()
        return by.commit(session)

    with ThreadPoolExecutor(5) as pool:
        for number in range(200):
            cookie, cleared = logged_in(store, "user", user=number), number % 2
            sessions = [store.open(cookie), *(other.open(cookie) for _ in range(4))]
            assert [session["user"] for session in sessions] == [number] * 5
            changes: list[Callable[[Session], Any]] = [
                _goodbye if cleared else Session.end, lambda session: session.update(late=1),
                lambda session: session.update({"_flashes/late": "late"}), lambda session: session["user"],
                Session.regenerate,
            ]  # fmt: skip
            done = list(pool.map(at_once, sessions, changes, (store, *[other] * 4)))
            assert done[1:4] == [Keep()] * 3
            sent = [cookie, *(one.value for one in done if isinstance(one, Set))]
            left = [found for found in (held(store, one) for one in sent) if found]
            assert left == ([{"_flashes/bye": "bye"}] if cleared else [])
            assert store.sessions("user") == []


def _goodbye(session: Session) -> None:
    session.clear()
    session["_flashes/bye"] = "bye"


def test_a_replica_that_does_not_answer_confirms_nothing(binary: Path, open_store: Open) -> None:
    """A login and a logout are then errors that may be repeated, and are once it answers; other commits go on."""
    with (
        Server(binary=binary, port=0, config=["repl-diskless-sync-delay 0"]) as server,
        Server(binary=binary, port=0, config=[f"replicaof 127.0.0.1 {server.port}"]) as replica,
    ):
        with redis.Redis.from_url(server.url) as client:
            wait_until(lambda: client.info("replication").get("slave0", {}).get("state") == "online", 60, "the replica")
        store = open_store(server.url, timeout=6)  # a replica has half of it
        login, cookie = store.open(None), begun(store, a=1)
        store.records.waits = True
        logout, page = store.open(cookie), store.open(cookie)
        assert logout["a"] == page["a"]
        login.bind("user")
        logout.end()
        page["b"] = 2
        replica.pause()
        try:
            assert store.commit(page) == Keep()
            for session in (login, logout):
                with pytest.raises(SessionUnavailableError, match="no replica confirmed"):
                    store.commit(session)
        finally:
            replica.resume()
        sent: list[object] = []
        wait_until(lambda: _goes(lambda: sent.append(store.commit(logout))), 3 * PATIENCE, "the logout")
        wait_until(lambda: _goes(lambda: sent.append(store.commit(login))), 3 * PATIENCE, "the login")
        assert isinstance(sent.pop(), Set)
        assert held(store, cookie) == {}


def _goes(change: Callable[[], object]) -> bool:
    with contextlib.suppress(SessionUnavailableError):
        change()
        return True
    return False


def test_a_refused_wait_confirms_nothing(binary: Path, open_store: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Where a replica must have a login or a logout, a server without the command is a 503, and a line says why."""
    with Server(binary=binary, config=['rename-command WAIT ""']) as server:
        store = open_store(server.url)
        cookies = [begun(store, a=1) for _ in range(2)]
        store.records.waits = True
        for cookie, change in zip(cookies, (Session.end, Session.regenerate), strict=True):
            session = store.open(cookie)
            assert session["a"] == 1
            change(session)
            with pytest.raises(SessionUnavailableError, match="no replica confirmed"):
                store.commit(session)
        session = store.open(cookies[1])
        session["b"] = 2
        assert store.commit(session) == Keep()
    assert [line for line in caplog.messages if "WAIT" in line] == [
        "The server refuses WAIT, which sessions need here: ERR unknown command."
    ]


def test_health_names_a_server_without_persistence(own_server: Server, open_store: Open) -> None:
    """An evicting policy and a missing append-only file."""
    store = open_store(own_server.url)
    begun(store)
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        problems = store.health().problems
        assert [word in " ".join(problems) for word in ("allkeys-lru", "append-only")] == [True, True]
        client.config_set("maxmemory-policy", "volatile-lru")
        assert store.health().problems == problems[1:]


def test_a_forked_child_has_connections_of_its_own(store: SessionStore) -> None:
    """Both go on with the same session."""
    cookie = begun(store, a=1)
    if (child := os.fork()) == 0:
        try:
            session = store.open(cookie)
            session["child"] = True
            store.commit(session)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert held(store, cookie) == {"a": 1, "child": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"touch_every": 200}, "touch_every must be at most a tenth of idle_timeout, got 200 s and 1800 s"),
        ({"absolute_timeout": 32 * 86_400}, "absolute_timeout must not be longer than the key ring's retention"),
        ({"permanent_timeout": 32 * 86_400}, "permanent_timeout must not be longer than the key ring's retention"),
        ({"on_unavailable": "open"}, "on_unavailable must be one of 'error', 'empty', got 'open'"),
        ({"wait": "some"}, "wait must be one of 'critical', 'all', 'none'"),
        ({"max_keys": 0}, "max_keys must be a whole number greater than 0, got 0"),
        ({"max_keys": 3901}, "max_keys must be at most 3900, which is what one script .*, got 3901"),
        ({"idle_timeout": -1}, "idle_timeout must be between"),
        ({"instance": "a:b"}, "instance must be letters"),
    ],
)
def test_a_bad_setting_is_refused(open_store: Open, arguments: dict[str, Any], message: str) -> None:
    """Before anything is asked of the server, by a message with the rule."""
    with pytest.raises(ConfigError, match=message):
        open_store("redis://127.0.0.1:1/0", **arguments)


def test_a_session_is_used_on_after_its_commit(store: SessionStore) -> None:
    """It is then as a request after this one would see it."""
    session: Session = store.open(None)
    session["a"] = 1
    assert isinstance(store.commit(session), Set)
    assert dict(session) == {"a": 1}
    session["a"] = 2
    assert store.commit(session) == Keep()
    session.bind("user")
    store.commit(session)
    assert (dict(session), session.subject) == ({"a": 2}, "user")


def test_what_happens_to_sessions_is_exported(open_store: Open) -> None:
    """By events alone; what a closed store has counted stays."""
    prefix = f"sessions_{secrets.token_hex(4)}"

    def exported() -> dict[str, float]:
        metrics = {metric.name: metric for metric in CacheCollector(prefix).collect()}
        return {sample.labels["event"]: sample.value for sample in metrics[f"{prefix}_session"].samples if sample.value}

    assert exported() == {}
    store = open_store(metrics=prefix)
    cookie = logged_in(store, "ada", cart=1)
    assert held(store, cookie) == {"cart": 1}
    assert held(store, "none of ours") == {}
    store.close()
    assert open_store(metrics=prefix).end_all("ada") == 1
    assert exported() == {"created": 1, "loaded": 1, "refused": 1, "ended": 1}
