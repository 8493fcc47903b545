"""Values written beside a call: put by hand, loaded anew on request, renewed in the background."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._flights import Held
from ._local import Packed
from ._patterns import Ending
from ._request import Ready, Request
from ._tiers import Tiers
from .errors import RemoteError


def reload(tiers: Tiers, request: Request) -> Any:
    """Run the function and keep its result, whatever is kept now; an invalidation meanwhile still undoes it."""
    request.epoch = request.region.epoch
    request.began = tiers.clock()
    request.groups = tiers.groups_of(request)
    token: bytes | None = None
    if tiers.shared is not None:
        try:
            tiers.shared.read(request)
            tiers.shared.ensure(request)
            (token,), _ = tiers.shared.ask_leases([request], insist=True)
        except RemoteError as error:
            tiers.keeper.failed(request, error)
    return tiers.keeper.load(request, token)[0]


def put(tiers: Tiers, request: Request, value: object, end: Callable[[Ending], None]) -> None:
    """Keep `value` as it is told. `end` ends what was kept before, which all processes must hear of.

    In Redis that is done with the lease taken, and stored under it: a write that is carried out late, on a server that
    hung, cannot stand over what ended it meanwhile. Of two at once the later counts.
    """
    request.groups = tiers.groups_of(request)
    encoded = request.policy.codec.encode(value)
    packed = Packed(encoded.codec, encoded.payload, request.policy.codec.schema)
    seconds = request.seconds(value)
    tags = request.tags_of(value)
    if tiers.shared is None or seconds <= 0:
        end(Ending(keys=(request.key,)))
        if tiers.shared is None and seconds > 0:
            request.began, request.epoch = tiers.clock(), request.region.epoch
            held = Held(encoded.value, size=len(packed.payload)) if encoded.shared else Held(None, packed)
            tiers.keeper.keep_here(request, held, Ready(b"", seconds, request.policy.extra, 0.0, tags))
        return
    try:
        tiers.shared.read(request)
        tiers.shared.ensure(request)
        if request.late_tags is not None:
            tiers.shared.late(request, tags)
        ready = Ready(tiers.shared.pack(request, packed, seconds, 0.0, tags), seconds, request.policy.extra, 0.0, tags)
        (token,), _ = tiers.shared.ask_leases([request], insist=True, unlink=True)
        if tiers.shared.remote.put(request.key, token, ready.frame, ready.keep_ms):
            tiers.keeper.wrote(request, len(ready.frame))
        else:
            why = "its key was invalidated, set or loaded anew meanwhile"
            tiers.trouble.report(f"put:{request.region.name}", f"what was put under {request.key} was not kept: {why}")
        tiers.drop_key(request.key)
    except RemoteError as error:
        tiers.keeper.failed(request, error)
        end(Ending(keys=(request.key,)))  # what stands there now is not what was put
