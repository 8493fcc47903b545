"""Values written outside a call's own load: put by hand, reloaded on request, renewed in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from aikcache._concurrency import spans
from aikcache._engine import load as _load
from aikcache._engine.batch import Batch
from aikcache._engine.call import MISSING, Attempt, Call, Result, carry_out, milliseconds
from aikcache._engine.running import load
from aikcache._engine.single_flight import hold
from aikcache._keys.patterns import Invalidation
from aikcache._local.entry import EncodedValue
from aikcache._remote.replies import Read
from aikcache.errors import RemoteError

if TYPE_CHECKING:
    from aikcache._engine.engine import Engine
    from aikcache._engine.versioned_store import VersionedStore

BATCH, BATCH_BYTES = 500, 2**20
"""Values, and their bytes, that are put at once."""


def reload(engine: Engine, call: Call, invalidate: Callable[[Invalidation], None]) -> Any:
    """Run the function and store its result, whatever is cached; an invalidation meanwhile still takes effect."""
    if engine.passive or engine.covered(call):
        value = engine.call(call)
        if engine.passive:
            invalidate(Invalidation(keys=(call.key,)))  # other processes must not keep the old value
        return value
    batch = Batch(engine, [Attempt(call, engine.clock())], lambda places: [call.load()])
    carry_out(_load.reload(batch, [0]), batch.run)
    return batch.values[0]


def renew(engine: Engine, call: Call, fresh_until: float) -> bool:
    """Renew a value, in a trace of its own where tracing is on. True: it was renewed."""
    if spans.active is None:
        return _renew(engine, call, fresh_until)
    with spans.active.refresh(call.region.name):
        return _renew(engine, call, fresh_until)


def _renew(engine: Engine, call: Call, fresh_until: float) -> bool:
    """Load in the background what is fresh until then, unless another caller does. True: it was renewed.

    With Redis only a lease decides which process does, not a flight: callers that ask Redis meanwhile must not wait for
    it.
    """
    if engine.covered(call):
        return False
    attempt = Attempt(call, engine.clock(), only_fresh=True)
    batch = Batch(engine, [attempt], lambda places: [call.load()])
    if engine.remote_tier is None and not _load.join_alone(batch):
        return False
    try:
        if engine.remote_tier is not None:
            batch.accept(0, engine.remote_tier.read([attempt])[0], hit=False)
            # Two readings of one value's expiry differ by less than an operation takes.
            later = attempt.fresh_until > fresh_until + engine.config.timeout
            if batch.values[0] is not MISSING and (engine.clock() >= fresh_until or later):
                return True  # another process has renewed it
            engine.remote_tier.ensure(attempt)
            (answer,) = engine.remote_tier.ask_leases([attempt])
            if answer is not None:
                return isinstance(answer, Read) and batch.accept(0, answer, hit=False)
        results = carry_out(load(batch, [0], missed=False), batch.run)
        call.region.counters.refreshes += 1
        return any(result.cached is not None for result in results)
    except Exception as error:
        call.region.counters.error(error)
        engine.reporter.report(f"renew:{call.region.name}", f"{call.key} not renewed: {type(error).__name__}")
        return False
    finally:
        batch.land_rest()


class Put(NamedTuple):
    """A value that is put by hand."""

    attempt: Attempt
    value: Any  # as it came back from the codec
    encoded: EncodedValue
    shareable: bool
    seconds: float
    tags: tuple[str, ...]


def put(engine: Engine, call: Call, value: object, invalidate: Callable[[Invalidation], None]) -> None:
    """Store `value` as it is given; see `put_many`."""
    put_many(engine, [(call, value)], invalidate)


def put_many(engine: Engine, values: Iterable[tuple[Call, object]], invalidate: Callable[[Invalidation], None]) -> None:
    """Store values as they are given. `invalidate` invalidates the old ones, in all processes.

    In Redis this happens with the lease taken, and the value is stored under it: a write that is carried out late, on a
    server that hung, cannot replace what came after it. Of two at once the later counts. Up to four round trips for
    each `BATCH` values or `BATCH_BYTES`; all are encoded first, so none is stored when one cannot be.
    """
    puts = list({call.key: _encoded(engine, call, value) for call, value in values}.values())
    remote = None if engine.passive else engine.remote_tier
    unkept = [put.attempt.key for put in puts if engine.passive or put.seconds <= 0]
    if unkept:
        invalidate(Invalidation(keys=tuple(unkept)))
    for batch in _batches([put for put in puts if put.seconds > 0]):
        if remote is not None:
            _put_remotely(engine, remote, batch, invalidate)
        elif not engine.passive:
            for put in batch:
                _put_locally(engine, put)


def _encoded(engine: Engine, call: Call, value: object) -> Put:
    attempt = Attempt(call, engine.clock())
    if engine.remote_tier is None and call.policy.share:  # no bytes are needed, so it may be any object
        return Put(attempt, value, EncodedValue(0, b"", b""), True, call.seconds(value), call.tags_of(value))
    form = call.policy.codec.encode(value, unread=engine.remote_tier is not None)
    encoded = EncodedValue(form.codec, form.payload, call.policy.codec.schema)
    return Put(attempt, form.value, encoded, form.shareable, call.seconds(value), call.tags_of(value))


def _batches(puts: list[Put]) -> Iterator[list[Put]]:
    """Split, because an exchange has to be over within `timeout`, whatever its size."""
    batch: list[Put] = []
    size = 0
    for put in puts:
        if batch and (len(batch) == BATCH or size + len(put.encoded.payload) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(put)
        size += len(put.encoded.payload)
    if batch:
        yield batch


def _put_locally(engine: Engine, put: Put) -> None:
    attempt = put.attempt
    engine.drop_key(attempt.key)
    attempt.begin(engine.clock())
    cached = hold(put.value, put.encoded, attempt.policy.codec, shareable=put.shareable)
    engine.filler.fill_locally(Result(attempt, put.value, cached, put.encoded, put.seconds, 0.0, put.tags))


def _put_remotely(
    engine: Engine, remote: VersionedStore, batch: list[Put], invalidate: Callable[[Invalidation], None]
) -> None:
    attempts = [put.attempt for put in batch]
    ttls_ms = [milliseconds(put.seconds) + milliseconds(put.attempt.policy.extra) for put in batch]
    unknown: dict[str, None] = {}  # keys of which it is not known which value is there
    try:
        remote.read(attempts, values=False)
        remote.ensure(*attempts)
        remote.complete([(put.attempt, put.tags, ttl_ms) for put, ttl_ms in zip(batch, ttls_ms, strict=True)])
        frames = [remote.pack(put.attempt, put.encoded, put.seconds, 0.0, put.tags) for put in batch]
        keys = [attempt.key for attempt in attempts]
        unknown = dict.fromkeys(keys)
        taken_at = _servers_seen(engine)
        remote.take_leases(attempts, unlink=True)
        tokens = [attempt.token or b"" for attempt in attempts]
        servers_seen = _servers_seen(engine)  # not earlier: the first exchange may be what meets another server
        stored = remote.remote.put(list(zip(keys, tokens, frames, ttls_ms, strict=True)))
        if engine.recovery is not None:
            engine.recovery.wrote(Invalidation(keys=tuple(keys)), servers_seen)
        for attempt, frame, done in zip(attempts, frames, stored, strict=True):
            if done:
                engine.filler.wrote(attempt, len(frame))
            else:
                why = f"the value for {attempt.key} was not stored: it was invalidated, set or loaded meanwhile"
                engine.reporter.report(f"put:{attempt.region.name}", why)
            engine.drop_key(attempt.key)
            if done or taken_at == _servers_seen(engine):  # else the old value was removed from another server
                del unknown[attempt.key]
    except RemoteError as error:
        engine.filler.failed(attempts[0], error)
        unknown = dict.fromkeys(attempt.key for attempt in attempts)  # the value there is not the one that was put
    finally:
        if unknown:  # also where it was interrupted
            invalidate(Invalidation(keys=tuple(unknown)))


def _servers_seen(engine: Engine) -> int:
    return 0 if engine.recovery is None else engine.recovery.servers_seen
