"""Values in Redis under their groups' stamps: which are fresh, who may load, and what is written.

A value is fresh when the digest in its frame is that of its groups' current stamps. The stamps are those this process
believes, or are read in the value's own round trip; they are read after the value, so what ends in between is seen as
ended. Those that a load will be stored under are fixed before it begins.

It knows nothing of the local tier, and decodes no payload. Every method may raise `RemoteError`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence

from ._config import CacheConfig
from ._frame import Frame, Framer
from ._leases import Leases
from ._local import Packed
from ._patterns import ANY_TAG, tag_group
from ._remote import Busy, Read, Remote
from ._request import Request, milliseconds
from ._stamps import Stamps
from ._trouble import Trouble
from .errors import DecodeError, InvalidKeyError

FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05


class Stamped:
    """The remote tier of one cache, as its stamps make it."""

    def __init__(
        self,
        config: CacheConfig,
        remote: Remote,
        stamps: Stamps,
        trouble: Trouble,
        clock: Callable[[], float],
        ready: Callable[[], object],
    ) -> None:
        self.ready = ready  # before anything is read: the channel runs, and what was to be told has been
        self.remote = remote
        self.stamps = stamps
        self.trouble = trouble
        self.clock = clock
        self._max_staleness = config.max_staleness
        self._longest = max((*config.ttls.values(), config.default_ttl))
        self.framer = Framer(
            compress_min_bytes=config.compress_min_bytes,
            compress_level=config.compress_level,
            max_value_bytes=config.max_value_bytes,
            secret=config.secret,
        )
        # Granted for less than others wait, so that a loader's death is noticed while they still do.
        self.lease_seconds = min(config.lease_ttl, max(config.lease_wait / 2, 0.05))
        self.lease_ms = int(self.lease_seconds * 1000)
        self.leases = Leases(self.lease_seconds, remote.hold, trouble.report)

    # Reading

    def read(self, request: Request) -> Read:
        """What stands under the request's key, and with it all stamps that it needs and that are not believed."""
        read, request.first = request.first, None
        if isinstance(read, Exception):
            raise read
        self.ready()
        epoch, request.era, vouched = self._standing()
        groups = request.all_groups()
        stamps = self.stamps.known(groups)
        request.known = dict(zip(groups, stamps, strict=True))
        unknown = [group for group, stamp in zip(groups, stamps, strict=True) if stamp is None]
        if read is None:
            request.asked = self.clock()
            read = self.remote.read(request.key, unknown)
            self.stamps.remember(unknown, read.stamps, epoch)
            request.known.update(zip(unknown, read.stamps, strict=True))
        if len(unknown) < len(groups):
            request.began = min(request.began, vouched)
        return read

    def _standing(self) -> tuple[int, int, float]:
        """The epoch and era of the stamps, and as of when those believed are known to be current."""
        return self.stamps.epoch, self.stamps.era, self.stamps.horizon - self._max_staleness

    def read_many(self, requests: Sequence[Request]) -> list[Read]:
        """The same for many at once: one round trip for all values and stamps."""
        firsts = [request.first for request in requests]
        for request in requests:
            request.first = None
        for first in firsts:
            if isinstance(first, Exception):
                raise first
        self.ready()
        names = list(dict.fromkeys(group for request in requests for group in request.all_groups()))
        (epoch, era, vouched), asked = self._standing(), self.clock()
        known = dict(zip(names, self.stamps.known(names), strict=True))
        unknown = [name for name, stamp in known.items() if stamp is None]
        reads = [first for first in firsts if isinstance(first, Read)]
        if len(reads) < len(requests):
            reads, stamps = self.remote.read_many([request.key for request in requests], unknown)
            self.stamps.remember(unknown, stamps, epoch)
            known.update(zip(unknown, stamps, strict=True))
        for request in requests:
            request.asked, request.era = asked, era
            if len(unknown) < len(names):
                request.began = min(request.began, vouched)
            request.known = {name: known[name] for name in request.all_groups()}
        return reads

    def unpack(self, request: Request, data: bytes) -> tuple[Frame, bool] | None:
        """The frame, and whether its stamps are the current ones. None: it is no frame of this key."""
        (frame,) = self.parse([(request, data)])
        return None if frame is None else (frame, self.current(request, frame))

    def parse(self, found: Sequence[tuple[Request, bytes | None]]) -> list[Frame | None]:
        """The frames of many values. Tags that no request named have their stamps read in one round trip for all."""
        frames: list[Frame | None] = []
        unknown: dict[str, None] = {}
        for request, data in found:
            frame = None if data is None else self._parse(request, data)
            frames.append(frame)
            if frame is not None:
                unknown.update((tag_group(name), None) for name in frame.tags if tag_group(name) not in request.known)
        if unknown:
            names = list(unknown)
            epoch, _, vouched = self._standing()
            stamps = self.stamps.known(names)
            believed = None not in stamps
            if not believed:
                stamps = self.remote.read_stamps(names)
                self.stamps.remember(names, stamps, epoch)
            for request, _ in found:
                if believed:
                    request.began = min(request.began, vouched)
                for name, stamp in zip(names, stamps, strict=True):
                    request.known.setdefault(name, stamp)
        return frames

    def _parse(self, request: Request, data: bytes) -> Frame | None:
        try:
            frame = self.framer.unpack(request.key, data)
            for name in frame.tags:
                tag_group(name)
            if frame.tags:  # said before their stamps are read, so that their end is an end of what is being filed
                request.region.tagged = True
        except (DecodeError, InvalidKeyError) as error:
            request.region.counters.errors += 1
            self.trouble.report("decode", f"what Redis holds for {request.key} is not a frame of it: {error}")
            return None
        return frame

    def current(self, request: Request, frame: Frame) -> bool:
        """Whether a frame's stamps are the current ones, as far as is known."""
        groups = [tag_group(name) for name in frame.tags]
        base = request.groups[: len(request.groups) - len(request.tags)]
        if any(request.known[group] is None for group in (*base, *groups)):
            return False
        # Of another server's values (restored from a disk, perhaps) the stamps known of this one say nothing.
        return request.era == self.stamps.era and request.digest(frame.tags) == frame.digest

    # Loading

    def ensure(self, *requests: Request) -> None:
        """Before a load every group has a stamp, and those of tags will outlive what is stored under them."""
        wanted: dict[str, None] = {}
        for request in requests:
            for group, stamp in request.known.items():
                if stamp is None or (group.startswith("#") and group != ANY_TAG):
                    wanted[group] = None
        if wanted:
            epoch = self.stamps.epoch
            made = self.remote.ensure(list(wanted), max(map(self._keep_ms, requests)))
            self.stamps.remember(list(wanted), made, epoch)
            stamps = dict(zip(wanted, made, strict=True))
            for request in requests:
                request.known.update((group, stamps[group]) for group in request.known if group in stamps)

    def prolong(self, request: Request, tags: Sequence[str], keep_ms: int) -> None:
        """Let the stamps of `tags` outlive a value that is kept longer than could be known before its load."""
        groups = [tag_group(name) for name in tags]
        if groups and keep_ms > self._keep_ms(request):
            self.remote.ensure(groups, keep_ms)

    def lease(self, request: Request, deadline: float) -> bytes | Read | None:
        """The right to load, a token; or the value that has arrived instead; or None: waiting took too long."""
        pause = FIRST_PAUSE
        while True:
            request.asked = self.clock()
            (token,), (answer,) = self.ask_leases([request])
            if not isinstance(answer, Busy):
                return token if answer is None else answer
            left = deadline - self.clock()
            if left <= 0:
                return None
            time.sleep(min(pause * random.uniform(0.5, 1.5), left))
            pause = min(pause * 1.6, LONGEST_PAUSE)

    def ask_leases(
        self, requests: Sequence[Request], *, insist: bool = False, unlink: bool = False
    ) -> tuple[list[bytes], list[Read | Busy | None]]:
        """Ask for many at once, in one round trip: tokens, and for each `None` if it is ours, or why not.

        `insist`: whoever has them. `unlink`: and what stands there ends.
        """
        keys = [request.key for request in requests]
        self.leases.reclaim(keys)
        tokens = [os.urandom(16) for _ in requests]
        wanted = [
            (request.key, token, request.digest(), b"" if insist else request.seen)
            for request, token in zip(requests, tokens, strict=True)
        ]
        try:
            return tokens, self.remote.acquire(wanted, self.lease_ms, insist=insist, unlink=unlink)
        except BaseException:
            self.leases.lose(list(zip(keys, tokens, strict=True)))
            raise

    def late(self, request: Request, tags: tuple[str, ...]) -> bool:
        """Stamps of tags that only the result named. False: some tag ended since before the load, maybe one of them."""
        groups = [group for group in map(tag_group, tags) if group not in request.known]
        before = request.known.get(ANY_TAG)
        *stamps, after = self.remote.ensure([*groups, ANY_TAG], self._keep_ms(request))  # its stamp after theirs
        request.known.update(zip(groups, stamps, strict=True))
        return before == after

    def pack(self, request: Request, packed: Packed, seconds: float, cost: float, tags: tuple[str, ...]) -> bytes:
        """The frame of a value, under the stamps known before its load."""
        return self.framer.pack(
            request.key,
            codec=packed.codec,
            schema=packed.schema,
            digest=request.digest(tags),
            cost=cost,
            ttl_ms=milliseconds(seconds),
            keep_ms=milliseconds(seconds) + milliseconds(request.policy.extra),
            tags=tags,
            payload=packed.payload,
        )

    def _keep_ms(self, request: Request) -> int:
        """How long stamps must live for what this request may store."""
        ttl = request.policy.ttl
        longest = ttl if isinstance(ttl, float) else max(request.ttl, self._longest)
        return milliseconds(longest + request.policy.extra)
