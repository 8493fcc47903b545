"""Sessions in Redis: opened by a cookie, changed key by key, ended everywhere.

    store = SessionStore("rediss://cache:6379/0", ring=ring, instance="shop")
    session = store.open(request_cookie)        # asks nothing yet
    session["cart"] = ["tea"]
    outcome = store.commit(session)             # Keep, Set or Drop: what to do with the cookie

Nothing is kept in the process from one request to the next. Threads: any, each session for one at a time. After `fork`
the child connects again. `session` is what a request sees, `commit` what it writes, `records` the data in Redis.
"""

from __future__ import annotations

import binascii
import contextlib
import hmac
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar, get_args

from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._engine.session_tally import EVENTS
from aikcache._engine.tally import tally_of
from aikcache._keyring.keyring import KeyRing
from aikcache._settings.checks import check_metrics, check_name
from aikcache._settings.config import CacheConfig
from aikcache.errors import ConfigError, KeyRingError, RemoteError, RemoteUnavailableError, SealError
from aikcache.sessions import record_scripts as scripts
from aikcache.sessions.checks import check_idle, check_limits, check_one_of, milliseconds
from aikcache.sessions.commit import Commit
from aikcache.sessions.cookies import COOKIE, Cookie, Keep
from aikcache.sessions.record_store import Limits, RecordStore, Seen, Wait
from aikcache.sessions.records import SESSION_ID_BYTES, DamagedError, FieldCipher, Tombstone, name_of, text64
from aikcache.sessions.session import Session, View

MOST_COOKIES: Final = 4
LONGEST_COOKIE: Final = 200
_ROUNDS: Final = 64
_RENEWED: Final = "others gave the session new ids all the while that it was ended."
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+")
_HANDLE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
AnySession = TypeVar("AnySession", bound=Session)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session of a subject. Times are seconds since 1970; `last_seen` may be `touch_every` too early."""

    handle: str
    created: float
    last_seen: float
    label: str | None


@dataclass(frozen=True, slots=True)
class SessionHealth:
    """`ok`, and the problems if it is not."""

    ok: bool
    problems: tuple[str, ...] = ()


class SessionStore:
    """The sessions of one instance.

    Args:
        url: where they are, as for `Cache`. None: `AIKCACHE_SESSION_URL`, else `AIKCACHE_URL`.
        ring: seals cookies and records. Its `retention` must be as long as a session may last.
        instance: sessions of different instances are independent.
        idle_timeout: seconds without use after which a session ends; up to `touch_every` more.
        absolute_timeout: seconds after which it ends, however much it is used.
        permanent_timeout: the same for sessions whose `permanent` is set. None: `absolute_timeout`.
        touch_every: the precision with which a use is noted; at most a tenth of `idle_timeout`.
        grace: seconds for which an ended session is known to have ended.
        max_bytes, max_keys: the limits of one session, sealed; at most 3900 keys.
        on_unavailable: "error": if Redis is unavailable, using a session raises `SessionUnavailableError`. "empty": it
            is empty, and nothing is written.
        wait: which changes a replica must have confirmed, behind Sentinel and on a cluster: "critical" (begin, new id,
            login, logout, clear), "all" or "none".
        connect_timeout, timeout, metrics: as for `Cache`: seconds, and the prefix of metrics' names (None: no metrics).

    Raises:
        ConfigError: an argument breaks a rule. Redis is not asked yet.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        ring: KeyRing,
        instance: str = "aikernel",
        idle_timeout: float | timedelta = 1800,
        absolute_timeout: float | timedelta = 43_200,
        permanent_timeout: float | timedelta | None = None,
        touch_every: float | timedelta | None = None,
        grace: float | timedelta = 30,
        max_bytes: int = 65_536,
        max_keys: int = 256,
        on_unavailable: Literal["error", "empty"] = "error",
        wait: Wait = "critical",
        connect_timeout: float = 1.0,
        timeout: float = 0.5,
        metrics: str | None = "aikernel",
    ) -> None:
        url = url or os.environ.get("AIKCACHE_SESSION_URL") or os.environ.get("AIKCACHE_URL")
        if not url:
            raise ConfigError("sessions need a server: pass url=, or set AIKCACHE_SESSION_URL or AIKCACHE_URL.")
        check_name("instance", instance)
        idle, touch = check_idle(idle_timeout, touch_every)
        check_one_of("on_unavailable", on_unavailable, ("error", "empty"))
        check_one_of("wait", wait, get_args(Wait))
        check_limits(max_bytes, max_keys)
        absolute = milliseconds("absolute_timeout", absolute_timeout)
        permanent = absolute if permanent_timeout is None else milliseconds("permanent_timeout", permanent_timeout)
        for what, longest in (("absolute_timeout", absolute), ("permanent_timeout", permanent)):
            ring.must_outlive(what, longest / 1000)
        self.ring = ring
        self.idle = idle
        self.fails_open = on_unavailable == "empty"
        self._absolute, self._permanent = absolute, permanent
        self.counts = dict.fromkeys(EVENTS, 0)
        self._exported = _exported(metrics)
        self._reporter = RateLimitedReporter()
        config = CacheConfig(url=url, instance=instance, connect_timeout=connect_timeout, timeout=timeout)
        limits = Limits(touch, milliseconds("grace", grace), max_bytes, max_keys)
        self.records = RecordStore(config, limits, wait)

    def open(self, cookie: str | Sequence[str] | None, *, name: str = COOKIE) -> Session:
        """The session of a cookie, or of the first of several that has one. `name`: the cookie is bound to it."""
        return self.open_as(Session, cookie, name)

    def open_as(self, kind: type[AnySession], cookie: str | Sequence[str] | None, name: str) -> AnySession:
        """As `open`, with another class of sessions."""
        cookies = (cookie,) if isinstance(cookie, str) else tuple(cookie or ())
        return kind(self, cookies[:MOST_COOKIES], name)

    def commit(self, session: Session) -> Cookie:
        """Write what has changed, and return what to do with the cookie. The session may be used afterwards.

        Raises:
            SessionUnavailableError: it could not be written; with `on_unavailable="empty"` that is counted instead.
            SessionTooLargeError, EncodeError: it cannot be written; nothing was.
        """
        commit = Commit(self, session)
        try:
            cookie = commit.run()
        except (RemoteError, KeyRingError) as error:
            self.count("unavailable")
            if not self.fails_open:
                raise session.unavailable(f"the session was not written: {error}") from error
            self.count("dropped")
            return Keep()
        session.committed(commit.id)
        return cookie

    def sessions(self, subject: str) -> list[SessionInfo]:
        """The live sessions of a subject, the latest used first. Raises `RemoteError` or `KeyRingError`."""
        names = self._subject_names(subject)
        now = int(self.ring.now() * 1000)
        found, gone = [], []
        for seen in self.records.listed(names):
            form, created, idle, whose, label, fixed = seen.record
            if form == b"1" and whose in names and seen.ttl > 0:
                spent = max(_int(idle) + self.records.limits.touch - seen.ttl, 0)
                used = max(now - spent, _int(fixed)) / 1000
                found.append(SessionInfo(seen.name, _int(created) / 1000, used, self.label_of(seen.name, label)))
            elif self._is_gone(seen, now):
                gone.append(seen)
        self.records.prune(gone)
        return sorted(found, key=lambda info: -info.last_seen)

    def end(self, handle: str) -> bool:
        """End one session, named by `SessionInfo.handle`. Returns whether it was alive. Raises `RemoteError`.

        It is also ended under an id that it has got since, unless that was another user's login. Check that the handle
        is one of the user who asks for it: `sessions(subject)` lists those.
        """
        if not _HANDLE.fullmatch(handle):
            return False
        token, grace = os.urandom(12), str(self.records.limits.grace)
        for _ in range(_ROUNDS):
            outcome = self.records.run([self.records.session(scripts.END, handle, token, grace)], critical=True)
            if outcome.word != "to" or len(outcome.rest) < 2:
                break
            handle = outcome.rest[1].decode("ascii", "replace")
        else:
            raise RemoteUnavailableError(_RENEWED)
        self.count("ended", outcome.word == "ok")
        return outcome.word == "ok"

    def end_all(self, subject: str, keep: Session | None = None) -> int:
        """End all sessions of a subject but `keep`. Returns the number alive. Raises `RemoteError` or `KeyRingError`.

        A session that is just beginning is ended too, or does not begin.
        """
        done, ended = {None if keep is None else keep.handle}, 0
        token, grace = os.urandom(12), str(self.records.limits.grace)
        for _ in range(_ROUNDS):
            names = self._subject_names(subject)
            listed = [seen for seen in self.records.listed(names) if seen.name not in done]
            calls = [self.records.session(scripts.END, seen.name, token, grace, *names) for seen in listed]
            words = [outcome.word for outcome in self.records.run_all(calls)]
            self.records.prune([seen for seen, word in zip(listed, words, strict=True) if word != "gone"])
            ended += words.count("ok")
            self.count("ended", words.count("ok"))
            if "to" not in words:  # else it is in the index under its new id, and perhaps was not yet
                return ended
            done.update(seen.name for seen in listed)
        raise RemoteUnavailableError(_RENEWED)

    def health(self) -> SessionHealth:
        """Problems of the ring, of the server's eviction and of its persistence. Asks the server."""
        problems = list(self.ring.health().problems)
        try:
            info = self.records.info()
        except RemoteError as error:
            return SessionHealth(False, (*problems, f"the server does not answer: {error}"))
        if policy := re.search(r"^maxmemory_policy:(allkeys-\w+)", info, re.MULTILINE):
            problems.append(f"the server may evict sessions and their keys ({policy[1]}): set noeviction or volatile-*")
        if re.search(r"^aof_enabled:0", info, re.MULTILINE):
            problems.append("the server keeps no append-only file: a restart ends all sessions. Set appendonly yes")
        return SessionHealth(not problems, tuple(problems))

    def close(self) -> None:
        """Close the connections. The ring stays open."""
        self.records.close()

    # For sessions

    def find(self, cookies: Sequence[str], id: bytes | None, name: str) -> View:
        """The session behind the first of the cookies that opens and leads to one. Raises `RemoteError`."""
        if id is not None:
            return self._load(id, None) or View("new")
        ended = None
        for cookie in cookies:
            sealed = _unpacked(cookie)
            if sealed is None:
                self.refuse("cookie", "A session's cookie is none of ours.")
                continue
            try:
                opened = self.ring.unseal(sealed, "session-cookie", name.encode())
            except SealError:
                self.refuse("cookie", "A session's cookie is none of ours.")
                continue
            view = self._load(opened, sealed) if len(opened) == SESSION_ID_BYTES else None
            if view is not None and view.kind == "live":
                return view
            ended = ended or view
        return ended or View("new")

    def _load(self, id: bytes, sealed: bytes | None) -> View | None:
        name = name_of(id)
        try:
            record = self.records.load(name)
        except DamagedError as error:
            self.refuse("record", f"A session in Redis is taken for none: {error}.")
            return None
        if record is None:
            return None
        if isinstance(record, Tombstone):
            return View("ended", id, name)
        self.count("loaded")
        if record.unused(self.records.limits.touch) >= self.records.limits.touch:
            self._touch(name)
        return View("live", id, name, record, FieldCipher(self.ring, id), sealed)

    def _touch(self, name: str) -> None:
        """If the server takes no writes now, readers continue, and the session ends a little early."""
        with contextlib.suppress(RemoteError):
            call = self.records.session(scripts.TOUCH, name, str(self.records.limits.touch))
            self.records.run([call], critical=False)
            self.count("touched")

    def cookie_value(self, id: bytes, name: str) -> str:
        """A session's cookie."""
        return text64(self.ring.seal(id, "session-cookie", name.encode()))

    def lasting(self, *, permanent: bool) -> int:
        """Milliseconds that a session may live in all."""
        return self._permanent if permanent else self._absolute

    def subject_name(self, subject: str) -> bytes:
        """The name under which a subject is filed now."""
        return _subject_name(self.ring.subkey("session-subject").reveal(), subject)

    def _subject_names(self, subject: str) -> list[bytes]:
        return [_subject_name(key.reveal(), subject) for key in self.ring.known_subkeys("session-subject")]

    def label_of(self, name: str, sealed: bytes | None) -> str | None:
        """A session's label; None: it has none, or it does not open."""
        if sealed is None:
            return None
        try:
            return self.ring.unseal(sealed, "session-label", name.encode()).decode("utf-8", "replace")
        except SealError:
            return None

    def _is_gone(self, seen: Seen, now: int) -> bool:
        """Whether to remove an entry of an index. A session that does not exist may be about to begin."""
        if seen.record[0] is not None:
            return True
        return seen.finish - now + self.records.limits.grace <= self._absolute

    def count(self, event: str, number: int = 1) -> None:
        """Count an event, for `counts` and for the exported metrics."""
        self.counts[event] += number
        self._exported[event] += number

    def changed_too_late(self) -> None:
        """A session was changed after its response had begun."""
        self.count("dropped")
        self._reporter.report("session:late", "A session was changed after its response had begun: that is lost.")

    def refuse(self, cause: str, message: str) -> None:
        """A foreign or damaged value: counted, and logged once a minute for each cause."""
        self.count("refused")
        self._reporter.report(f"session:{cause}", message)


def _exported(metrics: str | None) -> dict[str, int]:
    """The counts of all stores with this prefix of metrics."""
    check_metrics(metrics)
    if metrics is None:
        return dict.fromkeys(EVENTS, 0)
    if "opentelemetry.metrics" in sys.modules:  # as a cache does
        from aikcache.metrics import instrument

        instrument(metrics)
    return tally_of(metrics).sessions.join()


def _unpacked(cookie: Any) -> bytes | None:
    if not isinstance(cookie, str) or len(cookie) > LONGEST_COOKIE or not _TOKEN.fullmatch(cookie):
        return None
    try:
        return binascii.a2b_base64(cookie.replace("-", "+").replace("_", "/") + "==")
    except (binascii.Error, ValueError):
        return None


def _subject_name(key: bytes, subject: str) -> bytes:
    return text64(hmac.digest(key, subject.encode("utf-8", "surrogatepass"), "sha256")).encode()


def _int(data: bytes | None) -> int:
    return int(data) if data is not None and data.isdigit() and len(data) <= 15 else 0
