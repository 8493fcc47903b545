"""How commands reach a key ring: read as it lies, or opened so that no key is made or removed that nobody asked for.

The command does not know the applications' `lifetime`, `propagation` and `retention`. So it makes no successor (unless
no key seals at all) and takes no expired key out: both are for the processes that use the ring.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from aikcache._settings.config import CacheConfig
from aikcache._settings.secret import Secret
from aikcache.cli.failures import Failure, Misuse, at
from aikcache.cli.target import Command, Target, shown, targeted, variable

if TYPE_CHECKING:
    from aikcache._keyring.keyring import KeyRing
    from aikcache._keyring.records import Ring

DAY = 86_400.0


class RingTarget(NamedTuple):
    """Where the ring lies; `plain`: it may lie there without a master key."""

    target: Target
    plain: bool

    @property
    def instance(self) -> str:
        return self.target.instance

    @property
    def url(self) -> Secret[str]:
        return self.target.session_url

    @property
    def place(self) -> str:
        return shown(self.url)

    def config(self) -> CacheConfig:
        from aikcache._keyring.store import LARGEST  # here and below, because it needs cryptography

        wait = self.target.timeout
        return CacheConfig(
            url=self.url, instance=self.instance, max_value_bytes=LARGEST, timeout=wait, connect_timeout=wait
        )


class NoRing(Failure):
    """Nobody has made one there yet."""


class Reading(NamedTuple):
    """The ring, and the primary's time in milliseconds."""

    ring: Ring
    now: int


def with_ring(command: Command) -> Command:
    """Options that say which ring; the command gets a `RingTarget` as its first argument."""

    @targeted
    @click.option("--allow-plaintext", is_flag=True, envvar="AIKCACHE_SESSION_ALLOW_PLAINTEXT_RING",
                  help="The ring has no master key (experiments).")  # fmt: skip
    @functools.wraps(command)
    def with_target(target: Target, *, allow_plaintext: bool, **rest: Any) -> None:
        where = RingTarget(target, allow_plaintext)
        with at(lambda: where.place):
            command(where, **rest)

    return with_target


def read(where: RingTarget) -> Reading:
    """The ring as it lies in Redis; nothing is changed. Raises `Failure`: there is none, or none of it opens."""
    from aikcache._keyring import ciphers, records
    from aikcache._keyring.store import RingStore

    master = variable("AIKCACHE_MASTER_KEY")
    if not master and not where.plain:
        raise Misuse(
            "which master key? Set AIKCACHE_MASTER_KEY to the applications' own. Where there is none yet, "
            "`aikcache keyring new-master` makes one. For a ring without one (experiments) pass --allow-plaintext."
        )
    wrapper = ciphers.wrapper(master, allow_plaintext=where.plain)
    with closing(RingStore(where.config())) as store:
        found = store.read()
    ring = records.read(where.instance, found.fields, wrapper)
    if not ring.keys and not ring.unreadable:
        raise NoRing(f"there is no key ring {where.instance}:keyring at {where.place}. Is --instance right?")
    if not ring.keys:
        raise Failure(
            f"none of the {ring.unreadable} keys of {where.instance}:keyring can be opened. Is AIKCACHE_MASTER_KEY the "
            "one that wrapped them?"
        )
    return Reading(ring, found.time)


@contextmanager
def opened(where: RingTarget, lifetime: float = 90 * DAY) -> Iterator[KeyRing]:
    """The ring, to be changed; `lifetime` in seconds is that of a key that is made. It must be there already."""
    from aikcache._keyring.keyring import KeyRing
    from aikcache._keyring.of_cache import LONGEST

    read(where)
    with closing(
        KeyRing(
            instance=where.instance, config=where.config(), master_key=variable("AIKCACHE_MASTER_KEY"),
            allow_plaintext=where.plain, lifetime=lifetime,
            propagation=0, retention=LONGEST, refresh=3600, metrics=None,
        )
    ) as ring:  # fmt: skip
        yield ring
