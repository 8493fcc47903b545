"""A text that is not shown: passwords, keys, and URLs, which may hold a password.

It has no representation, cannot be pickled, and is compared in constant time. So a traceback with local variables, a
log of settings, or `dataclasses.asdict` of them holds nothing of it. `reveal()` gives the text back, and is called
where bytes are made of it for a socket or a cipher, in an expression and not into a variable. Immutable; any thread.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, Protocol, Self, TypeAlias, TypeVar, overload, runtime_checkable

Text = TypeVar("Text", str, bytes)
Keys: TypeAlias = "str | bytes | Secret[str] | Secret[bytes] | Sequence[str | bytes | Secret[str] | Secret[bytes]]"
"""What seals values: one, or several of which the first seals and each is read."""


class Secret(Generic[Text]):
    """Holds one text or some bytes. Equal to another that holds the same, and to the same text itself."""

    __slots__ = ("_text",)

    def __init__(self, text: Text) -> None:
        self._text: Text = text

    def reveal(self) -> Text:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret()"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Secret):
            other = other.reveal()
        if not isinstance(other, (str, bytes)) or type(other) is not type(self._text):
            return NotImplemented
        return hmac.compare_digest(_bytes(self._text), _bytes(other))

    __hash__ = None  # type: ignore[assignment]  # as a key of a dictionary it would be compared by its hash

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled: hand the setting over by itself, or let each process read its own.")


@overload
def hidden(value: Text | Secret[Text]) -> Secret[Text]: ...
@overload
def hidden(value: object) -> object: ...


def hidden(value: object) -> object:
    """A text as a `Secret`, a list as a tuple of them; anything else as it is."""
    if isinstance(value, str):
        return Secret(value)
    if isinstance(value, (list, tuple)):
        return tuple(map(hidden, value))
    return Secret(value) if isinstance(value, bytes) else value


@dataclass(frozen=True, slots=True)
class SubKey:
    """A key for one purpose. `id`: of the ring's key that it is derived from."""

    id: bytes
    secret: Secret[bytes]

    def reveal(self) -> bytes:
        return self.secret.reveal()


@runtime_checkable
class KeySource(Protocol):
    """A key ring, as the codec uses it to seal values."""

    def value_key(self) -> SubKey:
        """The key that seals now. Raises `RemoteError` or `KeyRingError` if there is none."""

    def value_key_of(self, id: bytes) -> SubKey | None:
        """The key with this id; None: it is not known here, or opens nothing. May raise the same."""

    def must_outlive(self, what: str, seconds: float) -> None:
        """Raises `ConfigError` if a key would be gone before data sealed for so long expires."""


class Opaque:
    """Holds an object of the application's whose representation or copy may show a password: a client, a provider."""

    __slots__ = ("_object",)

    def __init__(self, object: Any) -> None:
        self._object = object

    def reveal(self) -> Any:
        """The object itself."""
        return self._object

    def __repr__(self) -> str:
        return "Opaque()"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client is not pickled: let each process make its own.")


def opaque(value: Any) -> Opaque | None:
    """An object as an `Opaque`; None as it is."""
    return value if value is None or isinstance(value, Opaque) else Opaque(value)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
