"""One call, one attempt to answer it, its result, and the steps between which its function runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from copy import copy
from typing import Any, NamedTuple, TypeVar

from aikcache._concurrency.outside import let_out
from aikcache._engine.policy import Policy
from aikcache._engine.single_flight import CachedValue
from aikcache._keys.patterns import ANY_TAG, tag_group
from aikcache._local.entry import EncodedValue, Renewal
from aikcache._local.region import Region
from aikcache._remote.replies import Read
from aikcache._remote.stamps import digest
from aikcache.errors import ConfigError

MISSING: Any = object()
"""No value; `None` is a value."""
T = TypeVar("T")
Steps = Generator[Sequence[int], Sequence[Any], T]
"""The work of calls apart from running their function: each `yield` asks for a run for the calls at these places.

The reply is a result for each place, or an exception. So the function runs on the stack of the code that carries out
the steps, and a function that calls itself can do so as deeply.
"""
Run = Callable[[Sequence[int]], Sequence[Any]]
"""Runs the function for the calls at these places: returns a result for each, or `MISSING` where it gives none."""


class Call(NamedTuple):
    """A call. It never changes. `tags` are known before the load; `result_tags` gives the result's."""

    key: str
    region: Region
    local_key: Hashable
    policy: Policy
    ttl: float
    load: Callable[[], object]
    groups: tuple[str, ...]  # known before the load; those of `tags` come last
    tags: tuple[str, ...] = ()
    result_tags: Callable[[object], Iterable[str]] | None = None
    by_key: bool = False  # the stored value may have other tags than these
    relink: bool = True  # whether the wrapper looks entries up by `local_key`

    def all_groups(self) -> tuple[str, ...]:
        return self.groups if self.result_tags is None else (*self.groups, ANY_TAG)

    def seconds(self, result: object) -> float:
        """How long to keep a result; 0: not at all. An error in the user's functions becomes a `ConfigError`."""
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
        if self.result_tags is None:
            return self.tags
        try:
            tags = tuple(dict.fromkeys((*self.tags, *self.result_tags(result))))
        except Exception as error:
            let_out(error)
            raise ConfigError(f"tags failed on the result: {type(error).__name__}: {error}") from error
        for name in tags:
            tag_group(name)
        return tags


class Attempt:
    """One attempt to answer a call: the state of its region and of the server, and what it has found."""

    __slots__ = (
        "call", "epoch", "fallback", "first", "fresh_until", "groups", "key", "looked", "only_fresh", "policy",
        "read_started_at", "region", "renewal", "requested_at", "seen", "server_generation", "stamps", "token",
    )  # fmt: skip

    def __init__(
        self,
        call: Call,
        read_started_at: float,
        first: Read | Exception | None = None,
        looked: int = -1,
        *,
        only_fresh: bool = False,
    ) -> None:
        self.call = call
        self.key, self.region, self.policy = call.key, call.region, call.policy
        self.epoch = call.region.epoch
        """Of the region; a fill is refused if it has changed."""
        self.read_started_at = read_started_at
        """A value that is read counts from here: from when the first question was sent, or cached stamps were current.
        """
        self.first = first
        """The result of a fast-path read in Redis, or its error."""
        self.looked = looked
        """`LocalTier.changes` when the local tier had nothing fresh for this call; -1: it was not looked up."""
        self.only_fresh = only_fresh
        """A stale value does not answer."""
        self.renewal: Renewal | None = None
        """For a result that replaces what loads that began earlier will bring."""
        self.groups: list[str] | None = None
        """Of the flight that it leads. That of any tag is added when a stored value names other tags."""
        self.requested_at = 0.0
        """When the latest question was sent."""
        self.server_generation = 0
        """The server that the `stamps` are from."""
        self.stamps: dict[str, bytes | None] = {}
        """The stamps at the first question."""
        self.fresh_until = 0.0
        """Until when the value found is, or was, fresh."""
        self.fallback: CachedValue | None = None
        """A stale value, for the answer if the function fails."""
        self.token: bytes | None = None
        """Of a lease that Redis may have granted, until it is used or released."""
        self.seen = b""
        """The value in Redis that could not be used."""

    def begin(self, now: float) -> None:
        """Begin a load now: earlier invalidations do not concern it."""
        self.epoch = self.region.epoch
        self.read_started_at = now

    def copy(self) -> Attempt:
        """A copy for another thread."""
        return copy(self)

    def forget_lookups(self) -> None:
        """Earlier look-ups are out of date."""
        self.first, self.looked = None, -1

    def digest(self, tags: Iterable[str] | None = None) -> bytes:
        """The digest of the stamps, for a frame with `tags`; None: for the lease, which any group can invalidate."""
        call, stamps = self.call, self.stamps
        if tags is None:
            names = call.all_groups()
        else:
            names = (*call.groups[: len(call.groups) - len(call.tags)], *map(tag_group, tags))
        return digest(b"".join([stamps[name] or b"" for name in names]))


class Result(NamedTuple):
    """A result: as its caller gets it, as others can share it (None: not), and as it is stored."""

    attempt: Attempt
    value: Any
    cached: CachedValue | None = None
    encoded: EncodedValue | None = None
    seconds: float = 0.0
    cost: float = 0.0
    """Seconds that the load took."""
    tags: tuple[str, ...] = ()

    @property
    def lasts(self) -> bool:
        return self.cached is not None and self.seconds > 0

    @property
    def redis_ttl_ms(self) -> int:
        """How long Redis keeps it: it may be served for some time after it was fresh."""
        return milliseconds(self.seconds) + milliseconds(self.attempt.policy.extra)


class StoppedError(Exception):
    """Wraps a `StopIteration` that the function raised, which would otherwise end the steps."""

    def __init__(self, stop: StopIteration) -> None:
        super().__init__(stop)
        self.stop = stop


def carry_out(steps: Steps[T], run: Run) -> T:
    """Return the result of `steps`, with `run` to run the function."""
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
    """Seconds as Redis takes them: whole milliseconds, at least one for anything above zero."""
    return max(int(seconds * 1000), 1) if seconds > 0 else 0
