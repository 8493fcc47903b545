"""The names of one cache's keys in Redis: values, leases, stamps and invalidation markers."""

from __future__ import annotations

import re

from aikcache._keys.rendering import MAX_PARAMETERS, shortened
from aikcache.errors import InvalidKeyError

_UNFIT = re.compile(r"[\s*?\[\]{}\\\x00-\x20\x7f]")
_SURROGATE = r"[\ud800-\udfff]"  # compiled when it is needed, which takes long
MAX_KEY = 1024


class Keyspace:
    """The key space of one cache: everything below `{instance}:{version}:`.

    Beside the values it holds leases (`!lease:{KEY}`; the braces are a hash tag, so a lease lives in its value's slot),
    stamps (`~stamp:GROUP`) and invalidation markers (`~key:{KEY}:WRITER`, `~glob:WRITER:GLOB`). Only names that begin
    with `~` are pushed.
    """

    __slots__ = ("namespace_prefix", "news", "pushed", "stamps")

    def __init__(self, instance: str, version: str) -> None:
        self.namespace_prefix = f"{instance}:{version}:"
        self.pushed = self.namespace_prefix + "~"
        self.news = self.namespace_prefix + "~refused"  # a pub/sub channel for what a server refused to write
        self.stamps = self.namespace_prefix + "~stamp:"

    def full(self, key: str) -> str:
        """A key as people may write it, `prefix:operation:parameters`, with or without instance and version.

        Parameters that are too long are their SHA-256, as in the keys of calls and in patterns.
        """
        if not isinstance(key, str):
            raise InvalidKeyError(f"a key must be a str, got {type(key).__name__}. `Cache.key(...)` builds one.")
        short = key.removeprefix(self.namespace_prefix)
        if (
            len(short) > MAX_KEY
            or short[:1] in "~!:"  # of an empty one "", which is in any
            or _UNFIT.search(short)
            or (not short.isascii() and re.search(_SURROGATE, short))
        ):
            raise InvalidKeyError(
                "a key must be 1 to 1024 characters without spaces, wildcards, braces, control characters or lone "
                f"surrogates, and must not begin with ':', '~' or '!', got {short[:80]!r}. "
                "`Cache.key(prefix, operation, ...)` escapes."
            )
        if len(short) > MAX_PARAMETERS:
            *names, parameters = short.split(":", 2)
            short = ":".join([*names, shortened(parameters)]) if len(names) == 2 else short
        return self.namespace_prefix + short

    def lease(self, key: str) -> str:
        return f"{self.namespace_prefix}!lease:{{{key}}}"

    def key_marker(self, key: str, writer: str) -> str:
        return f"{self.pushed}key:{{{key}}}:{writer}"

    def glob_marker(self, glob: str, writer: str) -> str:
        return f"{self.pushed}glob:{writer}:{glob}"

    def stamp(self, group: str) -> str:
        return self.stamps + group
