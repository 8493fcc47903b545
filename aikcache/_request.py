"""One call, as the tiers need it, and what its result becomes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ._flights import Held
from ._local import Region
from ._patterns import ANY_TAG, tag_group
from ._policy import Policy
from ._remote import Read
from ._stamps import digest
from .errors import ConfigError

MISSING: Any = object()
"""No value; `None` is one."""


@dataclass(slots=True)
class Request:
    """One call, as the tiers need it. `tags` are known before the load; `late_tags` gives those of its result."""

    key: str
    region: Region
    local_key: Hashable
    policy: Policy
    ttl: float
    load: Callable[[], object]
    tags: tuple[str, ...] = ()
    late_tags: Callable[[object], Iterable[str]] | None = None
    relink: bool = True  # whether the wrapper looks entries up by `local_key`
    began: float = 0.0  # when the first question was asked, or what was believed was known; where the region stood then
    asked: float = 0.0  # when the latest was
    epoch: int = 0
    era: int = 0  # which server the stamps known are of
    groups: tuple[str, ...] = ()
    known: dict[str, bytes | None] = field(default_factory=dict)  # the stamps as of the first question
    fallback: Held | None = None  # a stale value, to answer with when the function fails
    fresh: float = 0.0  # until when the value found is, or was
    only_fresh: bool = False  # a stale value is none
    seen: bytes = b""  # what stood remotely and was of no use
    first: Read | Exception | None = None  # that a glance at Redis found nothing, or what it ran into

    def all_groups(self) -> tuple[str, ...]:
        return self.groups if self.late_tags is None else (*self.groups, ANY_TAG)

    def digest(self, tags: Iterable[str] | None = None) -> bytes:
        """Of the stamps known, for a frame with `tags`; None: for the lease, which all groups can doom."""
        base = self.groups[: len(self.groups) - len(self.tags)]
        names = self.all_groups() if tags is None else (*base, *map(tag_group, tags))
        return digest(b"".join(self.known[name] or b"" for name in names))

    def seconds(self, result: object) -> float:
        """How long to keep a result, 0 where it is not to be kept. The user's own functions cannot make a call fail."""
        policy = self.policy
        try:
            if policy.cache_if is not None and not policy.cache_if(result):
                return 0.0
            return policy.seconds(result, self.ttl)
        except Exception as error:
            raise ConfigError(f"cache_if or ttl failed on the result: {type(error).__name__}: {error}") from error

    def tags_of(self, result: object) -> tuple[str, ...]:
        """All tags: those known before the load, and those of its result."""
        if self.late_tags is None:
            return self.tags
        try:
            tags = tuple(dict.fromkeys((*self.tags, *self.late_tags(result))))
        except Exception as error:
            raise ConfigError(f"tags failed on the result: {type(error).__name__}: {error}") from error
        for name in tags:
            tag_group(name)
        return tags


class Ready(NamedTuple):
    """A result ready to be kept: its frame (empty where it is for this process alone), its seconds, its tags."""

    frame: bytes
    seconds: float  # fresh
    extra: float  # kept beyond that
    cost: float  # of the load
    tags: tuple[str, ...]

    @property
    def keep_ms(self) -> int:
        return milliseconds(self.seconds) + milliseconds(self.extra)


def milliseconds(seconds: float) -> int:
    """As Redis takes them: whole, and at least one of anything above zero."""
    return max(int(seconds * 1000), 1) if seconds > 0 else 0
