"""Pure functions for Redis Cluster: the slot of a key, the owners of slots, and redirections.

A slot is CRC-16 (XMODEM) of the key, or of the part in its first non-empty braces, modulo 16384. A `Topology` is one
node's view at one moment, from `CLUSTER INFO` and `CLUSTER SHARDS`, and right after a takeover `CLUSTER NODES`. It
includes primaries without slots, because they already answer for a slot that is moving to them. Immutable.

Source: Redis, "Redis cluster specification".
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from aikcache._concurrency import foreign
from aikcache._redis.reply import Command
from aikcache._settings import url
from aikcache.errors import RemoteUnavailableError

SLOTS = 16384
MAX_NODES = 2000
"""Twice the maximum that Redis recommends; each primary has a thread that listens to it."""
Address = tuple[str, int]
QUESTION: tuple[Command, Command] = (("CLUSTER", "INFO"), ("CLUSTER", "SHARDS"))
NODES: Command = ("CLUSTER", "NODES")


def slot_of(key: str | bytes) -> int:
    """The slot of a key."""
    data = key if isinstance(key, bytes) else key.encode("utf-8", "surrogateescape")
    start = data.find(b"{")
    if start >= 0:
        end = data.find(b"}", start + 1)
        if end > start + 1:
            data = data[start + 1 : end]
    return binascii.crc_hqx(data, 0) % SLOTS


def slot_of_command(command: Command) -> int | None:
    """The slot of a command's first key; None for those without a key."""
    name = command[0]
    if name in ("EVALSHA", "EVAL"):
        return slot_of(command[3])
    return slot_of(command[1]) if len(command) > 1 and name != "WAIT" else None


def hash_tag_of_each(owners: Mapping[int, Address]) -> Sequence[str]:
    """For each owner a hash tag, such as `{17}`, in one of its slots."""
    left = set(owners.values())
    found: list[str] = []
    for number in range(SLOTS):
        if not left:
            break
        tag = f"{{{number}}}"
        owner = owners.get(slot_of(tag))
        if owner in left:
            left.discard(owner)
            found.append(tag)
    return found


def hash_tag_on(owners: Mapping[int, Address], address: Address, number: int) -> str | None:
    """The hash tag of this number, from 0 on, among those in slots of an owner; None: it owns none."""
    if address not in owners.values():
        return None
    tags = (tag for n in range(8 * SLOTS) if owners.get(slot_of(tag := f"{{{n}}}")) == address)
    return next(islice(tags, number, None), None)


class Redirection(NamedTuple):
    """The new owner of a slot (`moved`), or the node to try for this one command (`ASK`)."""

    moved: bool
    slot: int
    address: Address


def redirection(text: str, asked: Address) -> Redirection | None:
    """Parse an error reply of `asked`; None: no redirection. An empty host means the host of `asked`."""
    kind, _, rest = text.partition(" ")
    if kind not in ("MOVED", "ASK"):
        return None
    slot, _, place = rest.partition(" ")
    host, _, port = place.rpartition(":")
    try:
        found = Redirection(kind == "MOVED", int(slot), url.announced(host, port or "none", otherwise=asked))
    except ValueError:
        return None
    return found if 0 <= found.slot < SLOTS else None


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """The owners of slots. `primaries` are all that accept writes, with or without slots; `nodes` are all."""

    epoch: int
    owners: Mapping[int, Address]
    primaries: frozenset[Address]
    nodes: frozenset[Address]
    is_disputed: bool = False
    """Whether only `CLUSTER NODES` can tell which of two masters owns a shard's slots."""

    def joined(self, address: Address) -> Topology:
        """The same, with one more primary. Raises `RemoteUnavailableError` where these are too many."""
        primaries = self.primaries | {address}
        if len(primaries) > MAX_NODES:
            raise RemoteUnavailableError(f"the cluster redirects to more than {MAX_NODES} nodes.")
        return replace(self, primaries=primaries)

    def moved(self, slot: int, address: Address) -> Topology:
        """The same, with one slot at another address."""
        return replace(self.joined(address), owners={**self.owners, slot: address})


class Signature(NamedTuple):
    """The fields of `CLUSTER INFO` that change when primaries are added, removed, or take slots from each other.

    `own`: the epoch in which the node that was asked was elected, or took slots.
    """

    epoch: int
    size: int
    nodes: int
    own: int


def signature(info: object) -> Signature:
    """Parse the reply to `CLUSTER INFO`. Raises `RemoteUnavailableError` if it is none."""
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else str(info)
    facts = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
    try:
        return Signature(
            *(int(facts[f"cluster_{name}"]) for name in ("current_epoch", "size", "known_nodes", "my_epoch"))
        )
    except (KeyError, ValueError):
        raise RemoteUnavailableError(f"the server refuses CLUSTER INFO: {foreign.kind(info)}") from None


def topology(info: object, shards: object, asked: Address, *, tls: bool, nodes: object = None) -> Topology:
    """The view of the node at `asked`. Raises `RemoteUnavailableError` if it has none, or an impossible one.

    After a takeover, a shard lists two living masters until the old one is known to be dead. Their order means nothing.
    `nodes` is the reply to `CLUSTER NODES`. It has one owner for each slot, which the epochs decided. A refusal names
    none, and the last of the two counts.
    """
    if not isinstance(shards, list):
        raise RemoteUnavailableError(f"the server refuses CLUSTER SHARDS: {foreign.kind(shards)}")
    owned = {} if nodes is None else _owned(nodes)
    owners: dict[int, Address] = {}
    primaries: set[Address] = set()
    known: set[Address] = set()
    disputed = False
    given = 0
    try:
        for shard in shards:
            slots, members, masters = _shard(shard, asked, tls=tls)
            known.update(members)
            primaries.update(masters)
            given += sum(map(len, slots))
            if len(masters) > 1:
                given += sum(len(found) for name in masters.values() for found in owned.get(name, []))
            if given > 2 * SLOTS:  # each once, and once more where it is disputed
                raise ValueError("no slots")
            for found in slots if masters else []:
                owners.update(dict.fromkeys(found, [*masters][-1]))
            if len(masters) > 1:
                disputed = True
                for address, name in masters.items():
                    for found in owned.get(name, []):
                        owners.update(dict.fromkeys(found, address))
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError):
        raise RemoteUnavailableError("what the server says to CLUSTER SHARDS cannot be.") from None
    if len(known) > MAX_NODES:
        raise RemoteUnavailableError(f"the server speaks of more than {MAX_NODES} nodes.")
    return Topology(
        signature(info).epoch, owners, frozenset(primaries), frozenset(known), is_disputed=disputed and nodes is None
    )


class _Shard(NamedTuple):
    """The slots of a shard, all its nodes, and the masters that count, with their ids."""

    slots: list[range]
    members: set[Address]
    masters: dict[Address, str]


def _shard(shard: Any, asked: Address, *, tls: bool) -> _Shard:
    """One shard of `CLUSTER SHARDS`. May raise `ValueError` and the like for what cannot be."""
    said = _fields(shard)
    slots = _ranges(said.get("slots") or [])
    nodes: set[Address] = set()
    living: dict[Address, str] = {}
    failed: dict[Address, str] = {}
    for node in map(_fields, said.get("nodes") or []):
        port = (node.get("tls-port") if tls else node.get("port")) or node.get("port") or node.get("tls-port")
        address = url.announced(node.get("endpoint"), port, otherwise=asked)
        nodes.add(address)
        if _text(node.get("role")) == "master":
            masters = failed if _text(node.get("health")).startswith("fail") else living
            masters[address] = _text(node.get("id"))
    # A failed primary counts until another has its slots. Both may be listed in one shard.
    return _Shard(slots, nodes, living or (failed if slots else {}))


def _ranges(numbers: Sequence[Any]) -> list[range]:
    """Slots from pairs of numbers. Raises `ValueError` for numbers that are no slots, or for too many."""
    found = [range(int(first), int(last) + 1) for first, last in zip(numbers[::2], numbers[1::2], strict=True)]
    if any(part.start < 0 or part.stop > SLOTS for part in found) or sum(map(len, found)) > SLOTS:
        raise ValueError("no slots")
    return found


def own_slots(nodes: object) -> tuple[str, int]:
    """From `CLUSTER NODES`: the node's own epoch and slots, as text, and the number of its slots.

    Moving slots are in brackets. Raises `RemoteUnavailableError` if it is no such reply.
    """
    mine = next((line.split() for line in _text(nodes).splitlines() if "myself" in line), [])
    try:
        ranges = [part.partition("-") for part in mine[8:] if not part.startswith("[")]
        owned = sum(int(last or first) - int(first) + 1 for first, _, last in ranges)
        return " ".join([mine[6], *mine[8:]]), owned
    except (IndexError, ValueError):
        raise RemoteUnavailableError(f"the server refuses CLUSTER NODES: {foreign.kind(nodes)}") from None


def _owned(nodes: object) -> Mapping[str, list[range]]:
    """From `CLUSTER NODES`: the slots that each node owns, by its id.

    Raises `RemoteUnavailableError` for what is no slot, or for more slots than there are.
    """
    try:
        found: dict[str, list[range]] = {}
        for name, *words in map(str.split, _text(nodes).splitlines()):
            parts = [part.partition("-") for part in words[7:] if not part.startswith("[")]
            found[name] = _ranges([number for first, _, last in parts for number in (first, last or first)])
        if sum(len(part) for parts in found.values() for part in parts) > SLOTS:
            raise ValueError("no slots")
        return found
    except ValueError:
        raise RemoteUnavailableError("what the server says to CLUSTER NODES cannot be.") from None


def _fields(pairs: Any) -> Mapping[str, Any]:
    """A map, from RESP2 (a flat list) or RESP3."""
    items: Iterable[tuple[Any, Any]] = (
        pairs.items() if isinstance(pairs, dict) else zip(*[iter(pairs)] * 2, strict=True)
    )
    return {_text(name): value for name, value in items}


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
