"""A session as a request sees it: a mapping that is read when it is first used and written when it is committed.

It remembers what was read, and what was done to it. `commit` derives the smallest change from that, by keys, so that
concurrent requests which change different keys all keep theirs. One thread at a time. Failure:
`SessionUnavailableError` on first use, unless the store has `on_unavailable="empty"`.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from aikcache.errors import DecodeError, EncodeError, KeyRingError, RemoteError, SessionUnavailableError
from aikcache.sessions import values
from aikcache.sessions.records import FieldCipher, Record

if TYPE_CHECKING:
    from aikcache.sessions.store import SessionStore

Kind: TypeAlias = Literal["new", "live", "ended", "damaged", "away"]
"""new: not stored yet. live: read. ended: a moment ago. damaged, away: empty, and nothing is written."""


@dataclass(slots=True)
class View:
    """The session behind a cookie, never changed. `sealed`: the cookie's token, None if it is not known."""

    kind: Kind
    id: bytes = b""
    name: str = ""
    record: Record | None = None
    cipher: FieldCipher | None = None
    sealed: bytes | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What a commit writes: encoded values, and keys to delete."""

    put: dict[str, bytes]
    drop: set[str]

    def __bool__(self) -> bool:
        return bool(self.put or self.drop)


class Session(MutableMapping[str, Any]):
    """A mapping of str to any value that the codec keeps. Made by `SessionStore.open`, written by
    `SessionStore.commit`.
    """

    unavailable: type[SessionUnavailableError] = SessionUnavailableError

    def __init__(self, store: SessionStore, cookies: Sequence[str], cookie_name: str) -> None:
        self._store = store
        self.cookie_name = cookie_name
        self._begin_anew(cookies, None)

    def _begin_anew(self, cookies: Sequence[str], id: bytes | None) -> None:
        """The state before first use: the session of `id`, or of the first of the cookies that opens."""
        self._cookies, self._id = cookies, id
        self._view: View | None = None
        self._values: dict[str, Any] = {}
        self._data: dict[str, bytes] = {}  # the encoded values that were read
        self._assigned: set[str] = set()
        self._deleted: set[str] = set()
        self._all = False
        self._permanent: bool | None = None
        self.accessed = False
        self.cleared = False
        self.ending = False
        self.regenerating = False
        self.bound: tuple[str, str | None] | None = None

    # Its state

    def view(self) -> View:
        """The session that was found; the first call reads it."""
        self.accessed = True
        if self._view is None:
            try:
                self._view = self._store.find(self._cookies, self._id, self.cookie_name)
            except (RemoteError, KeyRingError) as error:
                self._store.count("unavailable")
                if not self._store.fails_open:
                    raise self.unavailable(f"the session cannot be read: {error}") from error
                self._view = View("away")
        return self._view

    @property
    def used(self) -> bool:
        """Whether it was read, or an attempt was made."""
        return self._view is not None

    @property
    def new(self) -> bool:
        """Whether there was no session behind the cookie."""
        return self.view().kind != "live"

    @property
    def handle(self) -> str | None:
        """What `SessionStore.sessions` calls this session. None: it is new."""
        view = self.view()
        return view.name if view.kind == "live" else None

    @property
    def subject(self) -> str | None:
        """Whose session this is, by `bind`."""
        view = self.view()
        if self.bound is not None:
            return self.bound[0]
        return None if self.cleared else self.subject_of(view)

    def subject_of(self, view: View) -> str | None:
        """Whose it was when it was read."""
        record = view.record
        if view.cipher is None or record is None or record.sealed_subject is None:
            return None
        data = self._opened(view.cipher, "~u", 0, record.sealed_subject)
        return None if data is None else data.decode("utf-8", "replace")

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser's session."""
        if self._permanent is not None:
            return self._permanent
        record = self.view().record
        return record is not None and record.permanent

    @permanent.setter
    def permanent(self, value: bool) -> None:
        self.view()
        self._permanent = bool(value)

    @property
    def modified(self) -> bool:
        """Whether a commit would write. Set to True, all values that were read are compared with what was stored."""
        if self._view is None:
            return False
        requested = self.cleared or self.ending or self.regenerating or self.bound is not None
        return requested or self.permanence_changed or bool(self.changes())

    @modified.setter
    def modified(self, value: bool) -> None:
        self._all = bool(value)

    @property
    def permanence_changed(self) -> bool:
        record = None if self._view is None else self._view.record
        return record is not None and self._permanent is not None and self._permanent != record.permanent

    # Changes

    def clear(self) -> None:
        """Delete everything, the login too, and what concurrent requests write that have read it before."""
        self.view()
        self._values, self._assigned, self._deleted = {}, set(), set()
        self.cleared, self.bound = True, None

    def regenerate(self) -> None:
        """Give it a new id at the commit. Call it at a login and at any change of rights."""
        self.view()
        self.regenerating = True

    def bind(self, subject: str, label: str | None = None, *, regenerate: bool = True) -> None:
        """A login: the session belongs to `subject` from now on, under a new id, and its absolute time starts again.

        Args:
            subject: by which `SessionStore.sessions` and `end_all` find it, for example a user's id.
            label: what a list of devices shows of it.
            regenerate: False: the id stays, which lets anyone who knows it into the login.

        Raises:
            EncodeError: the subject or the label is no text.
        """
        if not isinstance(subject, str) or not subject:
            raise EncodeError(f"a subject is a str that is not empty, got {type(subject).__name__}.", "subject")
        values.check_text("subject", subject)
        if label is not None:
            values.check_text("label", label)
        self.view()
        self.bound = (subject, label)
        self.regenerating = self.regenerating or regenerate

    def end(self) -> None:
        """A logout: once this is committed, the session cannot be read any more. Later writes begin a new session."""
        self.clear()
        self.ending, self.regenerating = True, False

    def end_all(self, subject: str | None = None) -> int:
        """End all sessions of a subject (None: of this session's), at once, and this one. Returns how many others
        were alive.

        Raises `SessionUnavailableError`.
        """
        whose = subject or self.subject or self.subject_of(self.view())  # also after `clear()`
        ended = 0
        if whose is not None:  # also where this session could not be read
            try:
                ended = self._store.end_all(whose, keep=self)
            except (RemoteError, KeyRingError) as error:
                self._store.count("unavailable")
                raise self.unavailable(f"the sessions were not ended: {error}") from error
        self.end()
        return ended

    # The mapping

    def __getitem__(self, name: str) -> Any:
        self.view()
        if name in self._values:
            return self._values[name]
        if not self._read(name):
            raise KeyError(name)
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.view()
        name = values.check_name(name)
        self._values[name] = value
        self._assigned.add(name)

    def __delitem__(self, name: str) -> None:
        self[name]  # KeyError
        del self._values[name]
        self._assigned.discard(name)
        self._deleted.add(name)

    def __contains__(self, name: object) -> bool:
        self.view()
        return name in self._values or (isinstance(name, str) and self._read(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'not read' if self._view is None else self._view.kind}>"

    def _names(self) -> list[str]:
        self.view()
        for name in list(self._stored()):
            if name not in self._values:
                self._read(name)  # finds damage before anything is returned
        stored = [name for name in self._stored() if name in self._values]
        return stored + [name for name in self._values if name not in self._stored()]

    def _stored(self) -> dict[str, bytes] | Any:
        record = None if self._view is None else self._view.record
        return {} if record is None or self.cleared else record.fields

    def _read(self, name: str) -> bool:
        """Whether there is such a key. If so, its value is loaded."""
        closed = self._stored().get(name)
        if closed is None or name in self._deleted:
            return False
        view = self.view()
        assert view.cipher is not None
        assert view.record is not None
        try:
            data = self._opened(view.cipher, f"f{name}", view.record.epoch, closed)
            if data is None:
                raise DecodeError("it does not open.")
            self._values[name] = values.decode(data)
            self._data[name] = data
        except DecodeError:
            self._damaged()
            return False
        return True

    def _opened(self, cipher: FieldCipher, name: str, epoch: int, closed: bytes) -> bytes | None:
        try:
            return cipher.open(name, epoch, closed)
        except (RemoteError, KeyRingError) as error:
            self._store.count("unavailable")
            raise self.unavailable(f"the session cannot be read: {error}") from error

    def _damaged(self) -> None:
        """Becomes a new visitor's, or empty and read-only if something of it was seen or changed already."""
        seen = self._values or self._deleted or self.cleared or self.regenerating or self.bound
        self._store.refuse("record", "A session in Redis is taken for none: a field of it does not open.")
        self._view = View("damaged" if seen else "new")
        self._values, self._assigned, self._deleted = {}, set(), set()

    # For a commit

    def changes(self) -> Changes:
        """The differences from what was read. Raises `EncodeError`."""
        stored, put = self._stored(), {}
        for name, value in self._values.items():
            if (closed := stored.get(name)) is not None:
                untouched = name not in self._assigned and not self._all and not values.may_have_changed(value)
                if untouched or values.unchanged(value, self.stored_data(name, closed) or b""):
                    continue
            put[name] = values.encode(name, value)
        return Changes(put, {name for name in self._deleted if name in stored and name not in self._values})

    def assigned(self) -> dict[str, bytes]:
        """What this request has assigned, encoded: a session that ended meanwhile may begin again only with that."""
        return {name: values.encode(name, self._values[name]) for name in self._assigned}

    def stored_data(self, name: str, closed: bytes) -> bytes | None:
        """The encoded value of a field. None: it does not open."""
        if (data := self._data.get(name)) is not None:
            return data
        view = self.view()
        assert view.cipher is not None
        assert view.record is not None
        return self._opened(view.cipher, f"f{name}", view.record.epoch, closed)

    def stored_fields(self) -> dict[str, bytes]:
        """The fields that were read, sealed; none after `clear()`."""
        return dict(self._stored())

    def committed(self, id: bytes | None) -> None:
        """After a commit it begins again, under this id (None: as it came)."""
        self._begin_anew((), id) if id is not None else self._begin_anew(self._cookies, self._id)
