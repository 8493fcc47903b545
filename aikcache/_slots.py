"""Redis Cluster on paper: which slot a key is in, which node owns it, and what a redirection says.

A slot is CRC-16 (XMODEM) of the key, or of the part in its first non-empty braces, modulo 16384. A `Topology` is one
node's view at one moment, from `CLUSTER INFO` and `CLUSTER SHARDS`; it also names primaries without slots, for a slot
on its way to one of them already answers there. Pure; immutable.

Source: Redis, "Redis cluster specification".
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .errors import RemoteUnavailableError

SLOTS = 16384
Address = tuple[str, int]
Command = tuple[str | bytes | int, ...]


def slot_of(key: str | bytes | int) -> int:
    """The slot of a key."""
    data = key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogateescape")
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


class Redirection(NamedTuple):
    """Where a slot is now (`moved`), or where this one command is to be tried (`ASK`)."""

    moved: bool
    slot: int
    address: Address


def redirection(text: str, asked: Address) -> Redirection | None:
    """What an error reply of `asked` says about the way; None: something else. An empty host is that of `asked`."""
    kind, _, rest = text.partition(" ")
    if kind not in ("MOVED", "ASK"):
        return None
    slot, _, place = rest.partition(" ")
    host, _, port = place.rpartition(":")
    return Redirection(kind == "MOVED", int(slot), (_host(host) or asked[0], int(port)))


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """Who owns what. `primaries` are all that can be written to, with slots or still without; `nodes` are all."""

    epoch: int
    owners: Mapping[int, Address]
    primaries: frozenset[Address]
    nodes: frozenset[Address]

    def moved(self, slot: int, address: Address) -> Topology:
        """The same with one slot elsewhere."""
        return replace(self, owners={**self.owners, slot: address}, primaries=self.primaries | {address})


class Signature(NamedTuple):
    """What changes in `CLUSTER INFO` when primaries come, go, or take slots from each other."""

    epoch: int
    size: int
    nodes: int


def signature(info: object) -> Signature:
    """Of the reply to `CLUSTER INFO`. Raises `RemoteUnavailableError` when it is none."""
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else str(info)
    told = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
    try:
        return Signature(*(int(told[f"cluster_{name}"]) for name in ("current_epoch", "size", "known_nodes")))
    except (KeyError, ValueError):
        raise RemoteUnavailableError(f"the server refuses CLUSTER INFO: {text[:100]}") from None


def topology(info: object, shards: object, asked: Address, *, tls: bool) -> Topology:
    """The view of the node at `asked`. Raises `RemoteUnavailableError` when it has none."""
    if not isinstance(shards, list):
        raise RemoteUnavailableError(f"the server refuses CLUSTER SHARDS: {shards}")
    owners: dict[int, Address] = {}
    primaries: set[Address] = set()
    nodes: set[Address] = set()
    for shard in map(_fields, shards):
        numbers = shard.get("slots") or []
        masters: dict[Address, bool] = {}  # and whether they failed
        for node in map(_fields, shard.get("nodes") or []):
            port = (node.get("tls-port") if tls else node.get("port")) or node.get("port") or node.get("tls-port")
            address = (_host(_text(node.get("endpoint") or "")) or asked[0], int(port or asked[1]))
            nodes.add(address)
            if _text(node.get("role")) == "master":
                masters[address] = _text(node.get("health")).startswith("fail")
        # One that failed counts until another has its slots; the two may be listed as one shard.
        living = [address for address, failed in masters.items() if not failed] or (list(masters) if numbers else [])
        primaries.update(living)
        for first, last in zip(numbers[::2], numbers[1::2], strict=True):
            owners.update(dict.fromkeys(range(first, last + 1), living[-1]) if living else {})
    return Topology(signature(info).epoch, owners, frozenset(primaries), frozenset(nodes))


def _fields(pairs: Any) -> Mapping[str, Any]:
    """A map, as the old protocol (a flat list) or the new one gives it."""
    items: Iterable[tuple[Any, Any]] = (
        pairs.items() if isinstance(pairs, dict) else zip(*[iter(pairs)] * 2, strict=True)
    )
    return {_text(name): value for name, value in items}


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _host(text: str) -> str:
    """A host as it is dialled: `?` is how a node says that it does not know its own."""
    return "" if text in ("?", "None") else text.removeprefix("[").removesuffix("]")
