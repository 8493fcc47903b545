"""What the local tier holds: one value, or what a mutable one is decoded or copied from."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from aikcache._compiled import fast
from aikcache._local.original import LEAVES, Original
from aikcache._local.size import held_bytes
from aikcache.errors import DecodeError

if TYPE_CHECKING:
    from aikcache._local.region import Region
if TYPE_CHECKING or fast is None:
    from aikcache._local.s3fifo import Node
else:
    Node = fast.Node  # the same attributes and all of an entry's as C fields, which the compiled wrapper reads


class EncodedValue(NamedTuple):
    """A mutable value at rest: the payload that each caller's own copy is decoded from."""

    codec: int
    payload: bytes
    schema: bytes
    decoded: bool = False
    """It goes on being decoded for each caller: no `Original` can be made of it."""


def hand_out(cached: Any, giver: Any, codec: Any) -> Any:
    """A cached value, which `giver` decoded or accepted, for one more caller.

    Raises `DecodeError` where it has another type than requested.
    """
    if type(cached) is EncodedValue:
        return codec.decode(cached.codec, cached.payload, cached.schema, checked=True)
    value = cached.copy() if type(cached) is Original else cached
    if giver is not codec and not codec.takes(value, giver):
        raise DecodeError("it was loaded as another type.")
    return value


def decoded_once(encoded: EncodedValue, value: object, room: int | None, *, quick: bool) -> tuple[object, int]:
    """What to keep of a value that was decoded, in place of `encoded`, and how many bytes more that takes.

    An `Original`, if the value is of types that are copied, and takes no more than `room`. `quick`: no policy
    counts hits.
    """
    growth = 0
    try:
        original = Original(value, LEAVES, quick)
    except TypeError:
        return encoded._replace(decoded=True), 0
    if room is not None:
        growth = held_bytes(original) - held_bytes(encoded)
        if growth > room:
            return encoded._replace(decoded=True), 0
    return original, growth


class Entry(Node):
    """One value in the local tier. Times are this process's monotonic seconds."""

    __slots__ = (
        () if fast is not None else (
            "_tags", "codec", "created_at", "expires_at", "epoch", "fresh_until", "local_key", "refresh_at", "region",
            "size", "until",
        )
    )  # fmt: skip

    region: Region
    local_key: Hashable
    codec: Any  # that gave the value, where it is not an `EncodedValue`
    size: int
    _tags: str | tuple[Hashable, ...]  # one alone as it is: a tuple for it would take 64 bytes
    until: float  # handed out as it is before this
    refresh_at: float  # to be renewed in the background from here on
    fresh_until: float  # stale from here on
    expires_at: float  # not handed out at all from here on
    created_at: float  # when it was requested
    epoch: int  # of its region, when it was filled

    @property
    def tags(self) -> tuple[Hashable, ...]:
        """Of an entry in OTHER also its groups, each in a tuple."""
        tags = self._tags
        return (tags,) if type(tags) is str else tags  # type: ignore[return-value]

    @tags.setter
    def tags(self, tags: tuple[Hashable, ...]) -> None:
        self._tags = tags[0] if len(tags) == 1 and type(tags[0]) is str else tags

    def served(self) -> None:
        """Count a hit that was decided on after the look-up: the entry may have left its table, and been counted."""
        self.region.hits += 1
        self.spent -= 1  # `hits - spent` is what eviction goes by


class Renewal:
    """A renewal of some keys: when it began, and `LocalTier.forgot` after it had looked at the epochs of their regions.

    `given`: keys whose function has answered, and whose new value is not stored yet.
    """

    __slots__ = ("forgot", "given", "since")

    def __init__(self, since: float) -> None:
        self.since, self.forgot = since, 0
        self.given: set[str] = set()
