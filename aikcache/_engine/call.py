"""One call, the try to answer it, and how its function is run in between."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from aikcache._concurrency.outside import let_out
from aikcache._engine.policy import Policy
from aikcache._engine.single_flight import CachedValue
from aikcache._keys.patterns import ANY_TAG, tag_group
from aikcache._local.region import Region
from aikcache._remote.stamps import digest
from aikcache._remote.store import Read
from aikcache.errors import ConfigError

MISSING: Any = object()
"""No value; `None` is one."""
T = TypeVar("T")
Steps = Generator[Sequence[int], Sequence[Any], T]
"""What calls do beside running their function: each `yield` asks for a run for the calls at these places.

The answer is a result for each place, or an exception. So the function runs on the stack of whoever carries the steps
out, and one that calls itself can do so as deeply.
"""
Run = Callable[[Sequence[int]], Sequence[Any]]
"""Runs the function for the calls at these places: a result for each, or `MISSING` where it gives none."""


class Call(NamedTuple):
    """What is asked for, which nothing changes. `tags` are known before the load; `late_tags` gives the result's."""

    key: str
    region: Region
    local_key: Hashable
    policy: Policy
    ttl: float
    load: Callable[[], object]
    groups: tuple[str, ...]  # known before the load; those of `tags` come last
    tags: tuple[str, ...] = ()
    late_tags: Callable[[object], Iterable[str]] | None = None
    by_key: bool = False  # what is there may have other tags than these
    relink: bool = True  # whether the wrapper looks entries up by `local_key`

    def all_groups(self) -> tuple[str, ...]:
        return self.groups if self.late_tags is None else (*self.groups, ANY_TAG)

    def seconds(self, result: object) -> float:
        """How long to keep a result, 0 where it is not to be kept. The user's own functions cannot make a call fail."""
        policy = self.policy
        try:
            if policy.cache_if is not None and not policy.cache_if(result):
                return 0.0
            return policy.seconds(result, self.ttl)
        except Exception as error:
            let_out(error)
            raise ConfigError(f"cache_if or ttl failed on the result: {type(error).__name__}: {error}") from error

    def tags_of(self, result: object) -> tuple[str, ...]:
        """All tags: those known before the load, and those of its result."""
        if self.late_tags is None:
            return self.tags
        try:
            tags = tuple(dict.fromkeys((*self.tags, *self.late_tags(result))))
        except Exception as error:
            let_out(error)
            raise ConfigError(f"tags failed on the result: {type(error).__name__}: {error}") from error
        for name in tags:
            tag_group(name)
        return tags


@dataclass(slots=True)
class Attempt:
    """What one try to answer a call has found out: where its region and the server stood, and what it may use."""

    call: Call
    read_started_at: float
    """What is read counts from here: when the first question was asked, or when what was held here was known."""
    first: Read | Exception | None = None
    """That a fast-path read at Redis found nothing, or what it ran into."""
    looked: int = -1
    """How the local tier stood (`LocalTier.changes`) when it had nothing fresh for this call; -1: nobody looked."""
    only_fresh: bool = False
    """A stale value is none."""
    key: str = field(init=False)
    region: Region = field(init=False)
    policy: Policy = field(init=False)
    epoch: int = field(init=False)
    """Of the region; a fill is refused if it has moved."""
    requested_at: float = 0.0
    """When the latest question was asked."""
    server_generation: int = 0
    """Of which server the stamps in `known` are."""
    known: dict[str, bytes | None] = field(default_factory=dict)
    """The stamps as of the first question."""
    fresh_until: float = 0.0
    """Until when the value found is, or was, fresh."""
    fallback: CachedValue | None = None
    """A stale value, to answer with when the function fails."""
    token: bytes | None = None
    """Of a lease that Redis may have granted, until it is used or given back."""
    seen: bytes = b""
    """What stood in Redis and was of no use."""

    def __post_init__(self) -> None:
        self.key, self.region, self.policy = self.call.key, self.call.region, self.call.policy
        self.epoch = self.region.epoch

    def begin(self, now: float) -> None:
        """A load begins now: what was invalidated before does not concern it."""
        self.epoch = self.region.epoch
        self.read_started_at = now

    def copy(self) -> Attempt:
        """For another thread to go on with."""
        return copy(self)

    def again(self) -> None:
        """What was looked up is from long ago."""
        self.first, self.looked = None, -1

    def digest(self, tags: Iterable[str] | None = None) -> bytes:
        """Of the stamps known, for a frame with `tags`; None: for the lease, which all groups can doom."""
        call, known = self.call, self.known
        if tags is None:
            names = call.all_groups()
        else:
            names = (*call.groups[: len(call.groups) - len(call.tags)], *map(tag_group, tags))
        return digest(b"".join([known[name] or b"" for name in names]))


class StoppedError(Exception):
    """A `StopIteration` that the function raised, on its way through steps, which it would have ended."""

    def __init__(self, stop: StopIteration) -> None:
        super().__init__(stop)
        self.stop = stop


def carry_out(steps: Steps[T], run: Run) -> T:
    """The result of `steps`, with `run` to run the function."""
    stopped: StopIteration | None = None
    try:
        places = next(steps)
        while True:
            try:
                results = run(places)
            except StopIteration as stop:
                places = steps.throw(StoppedError(stop))
            except BaseException as error:
                places = steps.throw(error)
            else:
                places = steps.send(results)
    except StopIteration as done:
        value: T = done.value
        return value
    except StoppedError as error:
        stopped = error.stop
    finally:
        steps.close()
    assert stopped is not None
    raise stopped


def milliseconds(seconds: float) -> int:
    """As Redis takes them: whole, and at least one of anything above zero."""
    return max(int(seconds * 1000), 1) if seconds > 0 else 0
