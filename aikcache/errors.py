"""Every error of aikcache, and when a caller meets one.

    AikcacheError
    ├── ConfigError (ValueError)        a setting, a decorator's argument, a template: raised where it was written
    ├── InvalidKeyError (ValueError)    an argument that no key can tell apart
    ├── EncodeError (TypeError)         a result that cannot be stored and come back equal
    ├── DecodeError (ValueError)        stored bytes that are not what they should be; inside, always a miss
    ├── RemoteError                     Redis did not do what was asked
    │   ├── RemoteTimeoutError          … within the time given
    │   └── RemoteUnavailableError      … because it cannot be reached, or refuses
    └── SessionError                    a session could not be read or written; sessions never fail open

A decorated call raises none of them, but `EncodeError` and `InvalidKeyError` under `strict=True`: trouble is logged
once per cause and counted, and the function's own result is returned. Messages hold keys and types, never values.
All of them survive pickling, and keep their cause where they are raised.
"""

from __future__ import annotations

__all__ = [
    "AikcacheError",
    "ConfigError",
    "DecodeError",
    "EncodeError",
    "InvalidKeyError",
    "RemoteError",
    "RemoteTimeoutError",
    "RemoteUnavailableError",
    "SessionError",
]


class AikcacheError(Exception):
    """The root: `except AikcacheError` catches everything this library raises on its own account."""


class ConfigError(AikcacheError, ValueError):
    """A setting or a decorator's argument breaks a rule; the message names it, the rule and the way out."""


class InvalidKeyError(AikcacheError, ValueError):
    """An argument has a type that no key can tell apart from others, or a key has a character it may not have."""


class EncodeError(AikcacheError, TypeError):
    """A result holds something that would not come back equal; `path` says where, as in `result['rows'][3]`."""

    def __init__(self, message: str, path: str = "result") -> None:
        super().__init__(message, path)
        self.path = path

    def __str__(self) -> str:
        return str(self.args[0])


class DecodeError(AikcacheError, ValueError):
    """Stored bytes are corrupt, forged, of another version, or of a class that has changed."""


class RemoteError(AikcacheError):
    """Redis did not do what was asked."""


class RemoteTimeoutError(RemoteError):
    """Redis did not answer in time. Whether it did what was asked is not known."""


class RemoteUnavailableError(RemoteError):
    """Redis cannot be reached, or answers that it will not serve (loading, read-only, out of memory)."""


class SessionError(AikcacheError):
    """A session could not be read or written, and the request must not go on as if it had been."""
