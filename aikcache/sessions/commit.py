"""Writes what a request did to its session to Redis, and decides about its cookie.

A write goes only to a session that lives, in the epoch that was read. If the session meanwhile continues under another
id, the write follows it. If it has ended, the write is dropped and no cookie is sent: it would overwrite a concurrent
login's. Only a login (`bind`, or `regenerate` of a session that had ended before it was read) begins a new one.

Failure: `RemoteError`, `KeyRingError`, `SessionTooLargeError`, `EncodeError`. A failure leaves nothing half done except
a session whose id no one has. All of it may be repeated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aikcache.errors import RemoteUnavailableError
from aikcache.sessions import record_scripts as scripts
from aikcache.sessions.checks import check_size, too_large
from aikcache.sessions.cookies import Cookie, Drop, Keep, Set
from aikcache.sessions.record_store import Outcome
from aikcache.sessions.records import (
    SEALED_EXTRA,
    SESSION_ID_BYTES,
    DamagedError,
    FieldCipher,
    Record,
    name_of,
    new_id,
    parse,
)
from aikcache.sessions.session import Changes, Session, View

if TYPE_CHECKING:
    from aikcache.sessions.store import SessionStore

_MOVES: Final = 16
"""How often a session may get a new id during one commit."""
_RENEWED: Final = "the session got new ids all the while that it was written."
_SUCCESSOR: Final = "~to"


class Commit:
    """One commit of one session."""

    def __init__(self, store: SessionStore, session: Session) -> None:
        self._store, self._session = store, session
        self._records, self._ring = store.records, store.ring
        self._token = os.urandom(12)
        self.id: bytes | None = None
        """The session's new id, if it has one."""

    def run(self) -> Cookie:
        session = self._session
        if not session.used:
            return Keep()
        view = session.view()
        if view.kind == "live":
            return self._live(view)
        begins = session.regenerating or session.bound is not None
        if view.kind in ("away", "damaged") or (view.kind == "ended" and not begins):
            return self._dropped() if session.modified else Keep()
        put = session.changes().put
        if not put and session.bound is None:
            return Keep()
        return self._create(put)

    def _live(self, view: View) -> Cookie:
        session = self._session
        if session.ending:
            ended = self._end(view)
            put = session.changes().put
            return self._create(put) if put or session.bound is not None else ended
        changes = session.changes()
        emptied = session.cleared and not changes.put and session.bound is None
        if session.regenerating and not emptied:
            return self._regenerate(view, changes)
        if changes or session.cleared or session.bound or session.permanence_changed:
            return self._update(view, changes)
        return self._resealed(view) if self._old_seal(view) and self._records.lives(view.name) else Keep()

    def _old_seal(self, view: View) -> bool:
        """Whether the request's cookie was sealed by a key that no longer seals."""
        return view.sealed is not None and not self._ring.seals_under(view.sealed)

    def _resealed(self, view: View) -> Cookie:
        """A new cookie for a session just seen to live under this id; another session's would overwrite a login's."""
        if not self._old_seal(view):
            return Keep()
        assert view.record is not None
        return self._cookie(view.id, view.record.finish - int(self._ring.now() * 1000))

    # A new session

    def _create(self, put: Mapping[str, bytes]) -> Cookie:
        """Create a session under a new id, with these values and nothing from before."""
        check_size(self._records.limits, {}, put)
        id = new_id()
        cipher = FieldCipher(self._ring, id)
        pairs = self._sealed(cipher, 0, put)
        outcome = self._made(id, cipher, [*pairs, b"~e", b"0"], None)
        if outcome.word != "ok":  # all sessions of the subject were ended at this moment
            return self._dropped()
        self._store.count("created")
        self.id = id
        return self._cookie(id, outcome.left)

    def _made(self, id: bytes, cipher: FieldCipher, pairs: list[str | bytes], like: View | None) -> Outcome:
        """Create a record. `like`: it continues this one, until the same end unless it is a login."""
        session, store = self._session, self._store
        name = name_of(id)
        lasting = store.lasting(permanent=session.permanent)
        created, finish, left = "", "", lasting
        record = None if like is None else like.record
        if record is not None and session.bound is None:
            end = record.created + lasting if session.permanence_changed else record.finish
            created, finish = str(record.created), str(end)
            left = max(end - int(self._ring.now() * 1000), 1) + 1000
        meta, subject = self._subject(cipher, name, like)
        if session.permanent:
            meta += ["~p", "1"]
        limits = store.records.limits
        arguments = [self._token, str(limits.touch), str(store.idle), str(lasting), created, finish, *meta, *pairs]
        calls = [] if subject is None else [self._records.index(subject, name, left)]
        calls.append(self._records.session(scripts.CREATE, name, *arguments))
        return self._records.run(calls, critical=True)

    def _subject(self, cipher: FieldCipher, name: str, like: View | None) -> tuple[list[str | bytes], bytes | None]:
        """The fields of a session's subject, and the name of its index."""
        session, store = self._session, self._store
        label: str | None = None
        if session.bound is not None:
            whose, label = session.bound
            subject = store.subject_name(whose)
        elif session.cleared or like is None or like.record is None or like.record.subject is None:
            return [], None
        else:
            whose = session.subject_of(like) or ""
            label = store.label_of(like.name, like.record.label)
            subject = store.subject_name(whose) if whose else like.record.subject
        meta: list[str | bytes] = ["~s", subject]
        if whose:  # else somebody else has written the subject, who cannot seal it
            meta += ["~u", cipher.close("~u", 0, whose.encode())]
        if label is not None:
            meta += ["~l", self._ring.seal(label.encode(), "session-label", name.encode())]
        return meta, subject

    # A session that continues

    def _update(self, view: View, changes: Changes) -> Cookie:
        session = self._session
        assert view.record is not None
        critical = session.cleared or session.bound is not None
        if not critical and not session.permanence_changed and self._written(view, changes):
            self._store.count("written")
            return self._resealed(view)
        check_size(self._records.limits, session.stored_fields(), changes.put, changes.drop)
        outcome, view = self._followed(view, changes, critical=critical)
        match outcome.word:
            case "ok":
                self._store.count("written")
                if not session.permanence_changed and not self._old_seal(view):
                    return Keep()
                self.id = view.id
                return self._cookie(view.id, outcome.left)
            case "emptied":
                self._store.count("ended")
                return Drop()
            case "large":
                raise too_large(self._records.limits, session.stored_fields(), changes.put)
        return self._dropped()

    def _written(self, view: View, changes: Changes) -> bool:
        """Write values to a session that was not written to since it was read. False: nothing was done."""
        record, limits = view.record, self._records.limits
        assert record is not None
        assert view.cipher is not None
        most = record.size + sum(4 * len(name) + len(data) + SEALED_EXTRA for name, data in changes.put.items())
        fits = most <= limits.bytes and len(record.fields) + len(changes.put) <= limits.keys
        if changes.drop or not fits or record.fixed or not record.token:
            return False
        ends = (str(record.finish), str(record.idle + limits.touch))
        pairs = self._sealed(view.cipher, record.epoch, changes.put)
        call = self._records.session(scripts.WRITE, view.name, self._token, record.token, *ends, *pairs)
        return self._records.run([call], critical=False).word == "ok"

    def _followed(self, view: View, changes: Changes, *, critical: bool) -> tuple[Outcome, View]:
        """Write to the session under its current id."""
        session, limits = self._session, self._records.limits
        for _ in range(_MOVES):
            assert view.record is not None
            assert view.cipher is not None
            epoch = view.record.epoch + session.cleared
            pairs = self._sealed(view.cipher, epoch, changes.put)
            calls = []
            anew, lasting = "", 0
            if session.permanence_changed:
                pairs += ["~p", "1" if session.permanent else "0"]
                anew, lasting = "created", self._store.lasting(permanent=session.permanent)
                if view.record.subject is not None and not session.cleared:  # its index must outlive it
                    calls = [self._records.index(view.record.subject, view.name, lasting)]
            if session.bound is not None:
                meta, subject = self._subject(view.cipher, view.name, None)
                pairs += meta
                anew, lasting = "now", self._store.lasting(permanent=session.permanent)
                if subject is not None:
                    calls = [self._records.index(subject, view.name, lasting)]
            head = (str(view.record.epoch), str(limits.touch), str(limits.grace), str(limits.bytes), str(limits.keys))
            tail = (
                "1" if session.cleared else "0",
                anew,
                str(lasting),
                str(len(pairs) // 2),
                view.record.token,
                *pairs,
            )
            dropped = [f"f{name}" for name in changes.drop]
            dropped += ["~l"] if session.bound is not None and session.bound[1] is None else []  # an earlier login's
            calls.append(self._records.session(scripts.UPDATE, view.name, self._token, *head, *tail, *dropped))
            outcome = self._records.run(calls, critical=critical)
            if outcome.word != "to" or (next_view := self._successor_of(view, outcome)) is None:
                return outcome, view
            self._store.count("followed")
            view = next_view
        raise RemoteUnavailableError(_RENEWED)

    def _successor_of(self, view: View, outcome: Outcome) -> View | None:
        """The session's view under its new id."""
        assert view.cipher is not None
        id = view.cipher.open(_SUCCESSOR, 0, outcome.rest[0])
        if id is None or len(id) != SESSION_ID_BYTES:
            return None
        return View("live", id, name_of(id), view.record, FieldCipher(self._ring, id))

    def _end(self, view: View) -> Cookie:
        for _ in range(_MOVES):
            grace = str(self._records.limits.grace)
            call = self._records.session(scripts.END, view.name, self._token, grace)
            outcome = self._records.run([call], critical=True)
            if outcome.word == "ok":
                self._store.count("ended")
                return Drop()
            if outcome.word != "to" or (next_view := self._successor_of(view, outcome)) is None:
                return Keep()
            view = next_view
        raise RemoteUnavailableError(_RENEWED)  # a logout that was not carried out is none

    # A session that gets a new id

    def _regenerate(self, view: View, changes: Changes) -> Cookie:
        """Values that others wrote while the new record was made are in the next attempt, within the limits."""
        session = self._session
        own = session.assigned()
        for _ in range(_MOVES):
            made, new = self._successor(view, changes)
            if made.word == "gone":  # with its new permanence it has already ended
                return self._end(view)
            if made.word != "ok":
                return self._dropped()
            outcome = self._move(view, new)
            if outcome.word == "ok":
                self._store.count("regenerated")
                self.id = new.id
                return self._cookie(new.id, made.left)
            self._discard(new)
            if outcome.word != "changed" or (found := self._read(outcome)) is None:
                break
            view = replace(view, record=found)
        else:
            raise RemoteUnavailableError("others wrote to the session all the while that it got a new id.")
        if session.bound is not None:
            return self._create(own)
        if outcome.word == "to":  # another request has given it a new id and sends that cookie
            return self._update(view, changes)
        return self._dropped()

    def _successor(self, view: View, changes: Changes) -> tuple[Outcome, View]:
        """Create a record with the values of the old one, and with the changes."""
        record, cipher = view.record, view.cipher
        assert record is not None
        assert cipher is not None
        stored = {} if self._session.cleared else record.fields
        check_size(self._records.limits, stored, changes.put, changes.drop)
        id = new_id()
        fresh = FieldCipher(self._ring, id)
        epoch = record.epoch + self._session.cleared
        kept = {name: closed for name, closed in stored.items() if name not in changes.drop}
        put = {**self._opened(cipher, record.epoch, kept), **changes.put}
        outcome = self._made(id, fresh, [*self._sealed(fresh, epoch, put), b"~e", b"%d" % epoch], view)
        return outcome, View("live", id, name_of(id))

    def _move(self, old: View, new: View) -> Outcome:
        """Replace the old record by a tombstone that leads to the new one, unless others have written to it."""
        assert old.record is not None
        assert old.cipher is not None
        bound = self._session.bound
        same_subject = bound is None or bound[0] == self._session.subject_of(old)
        grace, sealed = str(self._records.limits.grace), old.cipher.close(_SUCCESSOR, 0, new.id)
        head = (str(old.record.epoch), old.record.token, grace, sealed, new.name if same_subject else "")
        return self._records.run([self._records.session(scripts.MOVE, old.name, self._token, *head)], critical=True)

    def _read(self, outcome: Outcome) -> Record | None:
        """The current record, from a script's reply."""
        limits = self._records.limits
        try:
            found = parse(outcome.rest[0], 0, limits.bytes, limits.keys)
        except DamagedError:
            return None
        return found if isinstance(found, Record) else None

    def _discard(self, view: View) -> None:
        grace = str(self._records.limits.grace)
        self._records.run([self._records.session(scripts.END, view.name, self._token, grace)], critical=True)

    # Parts

    def _opened(self, cipher: FieldCipher, epoch: int, fields: Mapping[str, bytes]) -> dict[str, bytes]:
        """Encoded values; those that do not open are left out."""
        found = {name: cipher.open(f"f{name}", epoch, closed) for name, closed in fields.items()}
        return {name: data for name, data in found.items() if data is not None}

    def _sealed(self, cipher: FieldCipher, epoch: int, put: Mapping[str, bytes]) -> list[str | bytes]:
        pairs: list[str | bytes] = []
        for name, data in put.items():
            pairs += [f"f{name}", cipher.close(f"f{name}", epoch, data)]
        return pairs

    def _cookie(self, id: bytes, left: int) -> Set:
        value = self._store.cookie_value(id, self._session.cookie_name)
        return Set(value, max(left // 1000, 0) if self._session.permanent else None)

    def _dropped(self) -> Keep:
        self._store.count("dropped")
        return Keep()
