"""Every error of aikcache, and when you meet it.

    AikcacheError
    ├── ConfigError (ValueError)        a setting, a decorator's argument, a template: raised where it was written
    ├── InvalidKeyError (ValueError)    an argument that no key can tell apart
    ├── EncodeError (TypeError)         a result that cannot be stored and come back equal
    ├── DecodeError (ValueError)        stored bytes that are not what they should be; inside, always a miss
    ├── RemoteError                     Redis did not do what was asked
    │   ├── RemoteTimeoutError          … within the time given
    │   └── RemoteUnavailableError      … because it cannot be reached, or refuses
    └── SessionError                    a session could not be read or written; sessions never fail open
        ├── SessionUnavailableError     … because Redis, or the key ring in it, is away
        ├── SessionTooLargeError        more is in a session than its limits allow; nothing of it was written
        ├── SealError                   what should be sealed by the key ring is not, or not any more
        └── KeyRingError                the key ring in Redis cannot be used as it is

A decorated call raises none of them, except `EncodeError`, `InvalidKeyError` and `ConfigError` (of a tag) under
`strict=True`. A problem is logged once per cause and counted, and the function's result is returned. Messages contain
keys and types, never values. Every error can be pickled, and keeps its cause.
"""

from __future__ import annotations

__all__ = [
    "AikcacheError",
    "ConfigError",
    "DecodeError",
    "EncodeError",
    "InvalidKeyError",
    "KeyRingError",
    "RemoteError",
    "RemoteTimeoutError",
    "RemoteUnavailableError",
    "SealError",
    "SessionError",
    "SessionTooLargeError",
    "SessionUnavailableError",
]


class AikcacheError(Exception):
    """The root of all errors that aikcache raises."""


class ConfigError(AikcacheError, ValueError):
    """A setting or a decorator's argument breaks a rule. The message has its name, the rule and the way out."""


class InvalidKeyError(AikcacheError, ValueError):
    """No key can tell this argument apart from others, or a key has a character that is not allowed."""


class EncodeError(AikcacheError, TypeError):
    """A result contains something that would not come back equal. `path` says where: `result['rows'][3]`."""

    def __init__(self, message: str, path: str = "result") -> None:
        super().__init__(message, path)
        self.path = path

    def __str__(self) -> str:
        return str(self.args[0])


class DecodeError(AikcacheError, ValueError):
    """Stored bytes are corrupt, forged, of another version, or of a class that has changed. Inside, it is a miss."""


class RemoteError(AikcacheError):
    """Redis did not do what it was asked to do. Of what an application calls only `Cache.ping` and `fleet` raise it."""

    sent = True
    """False if it was not asked: the circuit breaker is open, no majority stands behind it, or the cache is closed."""


class RemoteTimeoutError(RemoteError):
    """Redis did not answer in time. It may or may not have done what it was asked to do."""


class RemoteUnavailableError(RemoteError):
    """Redis cannot be reached, or refuses (loading, read-only, out of memory)."""


class SessionError(AikcacheError):
    """A session could not be read or written. The request must not go on as if it had been."""


class SessionUnavailableError(SessionError):
    """A session cannot be read or written now, because Redis or the key ring in it is away. Answer with 503."""


class SessionTooLargeError(SessionError):
    """A session holds more than `max_bytes` or `max_keys`. The message names its largest keys; nothing was written."""


class SealError(SessionError):
    """This was not sealed by the key ring for this purpose, was changed, or its key opens nothing any more."""


class KeyRingError(SessionError):
    """The key ring in Redis cannot be opened with these master keys, or is none. No key is made in its place."""
