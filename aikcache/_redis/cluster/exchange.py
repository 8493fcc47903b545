"""One exchange with a cluster: each command goes to the owner of its slot, one round trip per node, all nodes at once.

The calling thread sends to all, then receives from all. Commands that span slots (MGET, UNLINK) are split by key and
their replies joined. Commands of one slot are carried out in their order, also while the slot moves. Between slots
there is no order.

Moving slots: after MOVED the rest of a slot's commands go to its new owner. A migrating slot (ASK) is served by two
nodes, each with the keys that it has, so its commands are sent one by one. A command of several keys is refused when
one of them is missing (TRYAGAIN), and every command while the cluster has no quorum (CLUSTERDOWN). Both are tried again
a few times.

Threads: an exchange belongs to one thread. Failure: `RemoteError` when any part failed. Commands that were sent may
have been carried out, and are sent again, unless they were to be sent `once`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from aikcache._redis.cluster import topology
from aikcache._redis.cluster.topology import Address, Topology
from aikcache._redis.failures import LostReplyError
from aikcache._redis.pool import Pool, Sent
from aikcache._redis.reply import Command, ErrorReply
from aikcache.errors import RemoteError, RemoteTimeoutError, RemoteUnavailableError

PAUSES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
"""Seconds between tries of a command that is refused for the moment."""
GRACE = 0.02
"""Seconds in which a reply that has already arrived is still read, when another node has used up the time."""
ROUNDS = 100


class Nodes(Protocol):
    """What an exchange needs of the cluster."""

    def current(self, deadline: float) -> Topology: ...
    def node(self, address: Address) -> Pool: ...
    def moved(self, slot: int, address: Address, asked: Address, deadline: float) -> None: ...
    def asking(self, address: Address) -> None: ...
    def refresh(self, deadline: float, *, first: Address | None = None, excluding: Address | None = None) -> None: ...


class _Part:
    """A command that is under way. `at`: where it goes, if not to its slot's owner."""

    __slots__ = ("asking", "at", "command", "reply", "slot")

    def __init__(self, command: Command, slot: int, at: Address | None = None) -> None:
        self.command = command
        self.slot = slot
        self.at = at
        self.asking = False
        self.reply: Any = None


class Exchange:
    """The commands of one exchange, until each has its reply."""

    def __init__(self, nodes: Nodes, commands: Sequence[Command], deadline: float, *, once: bool = False) -> None:
        self._nodes = nodes
        self._once = once
        self._deadline = deadline
        self._waiting: dict[int, deque[_Part]] = {}  # by slot, in order
        self._migrating: set[int] = set()  # slots that are moving
        self._pauses = iter(PAUSES)
        self._plan = [(command, self._split(command)) for command in commands]

    def run(self) -> list[Any]:
        """Return the replies, in the order of the commands. Raises `RemoteError`."""
        for _ in range(ROUNDS):
            if not self._waiting:
                return [_joined(command, parts) for command, parts in self._plan]
            failed, refused = self._round(self._batches())
            self._waiting = {slot: parts for slot, parts in self._waiting.items() if parts}
            for address, error in failed.items():
                if not self._recovered(address, error):
                    raise error
            if refused is not None:
                self._pause(refused)
            if self._waiting and time.monotonic() >= self._deadline:
                raise RemoteTimeoutError("the cluster did not answer in time.")
        raise RemoteUnavailableError("the cluster's nodes send each other's keys around in circles.")

    def _split(self, command: Command) -> list[_Part]:
        slot = topology.slot_of_command(command)
        if slot is None:  # a copy for each primary that owns slots
            places = sorted(set(self._nodes.current(self._deadline).owners.values()))
            return [self._add(_Part(command, -1 - i, place)) for i, place in enumerate(places)]
        if command[0] == "MGET":
            return [self._add(_Part(("GET", key), topology.slot_of(key))) for key in command[1:]]
        if command[0] == "UNLINK":
            return [self._add(_Part(("UNLINK", key), topology.slot_of(key))) for key in command[1:]]
        return [self._add(_Part(command, slot))]

    def _add(self, part: _Part) -> _Part:
        self._waiting.setdefault(part.slot, deque()).append(part)
        return part

    def _batches(self) -> dict[Address, list[_Part]]:
        """The commands to send now, by node."""
        owners = self._nodes.current(self._deadline).owners
        batches: dict[Address, list[_Part]] = {}
        for slot, parts in self._waiting.items():
            for part in [parts[0]] if slot in self._migrating else parts:
                address = part.at or owners.get(slot)
                if address is None:
                    self._nodes.refresh(self._deadline)
                    raise RemoteUnavailableError(f"no node of the cluster owns slot {slot}.")
                batches.setdefault(address, []).append(part)
        return batches

    def _round(self, batches: dict[Address, list[_Part]]) -> tuple[dict[Address, RemoteError], ErrorReply | None]:
        """Send to all nodes, then receive from all. Returns failures by node, and a temporary refusal if there was
        any.
        """
        under_way: list[tuple[Address, Pool, Sent]] = []
        failed: dict[Address, RemoteError] = {}
        refused: ErrorReply | None = None
        try:
            for address, parts in batches.items():
                commands: list[Command] = []
                for part in parts:
                    commands += [("ASKING",), part.command] if part.asking else [part.command]
                try:
                    node = self._nodes.node(address)
                    under_way.append((address, node, node.begin(commands, once=self._once)))
                except RemoteError as error:
                    failed[address] = error
            while under_way:
                address, node, sent = under_way.pop(0)
                try:
                    replies = node.finish(sent, max(self._deadline, time.monotonic() + GRACE))
                    refused = self._take(address, batches[address], iter(replies)) or refused
                except RemoteError as error:
                    failed[address] = error
        finally:
            for _, _, sent in under_way:  # interrupted: nobody reads their replies
                sent.connection.close()
        return failed, refused

    def _take(self, address: Address, parts: list[_Part], replies: Any) -> ErrorReply | None:
        """Take one node's replies. If a command must be sent again, the later ones of its slot must be too."""
        again: set[int] = set()
        refused: ErrorReply | None = None
        for part in parts:
            if part.asking:
                next(replies)
            reply = next(replies)
            if part.slot in again:
                continue
            if type(reply) is ErrorReply and part.slot >= 0:
                target = topology.redirection(reply.redirection, address)
                if target is not None or str(reply) == "TRYAGAIN":
                    again.add(part.slot)
                    part.at, part.asking = None, False
                    if target is None:
                        refused = reply
                    elif target.moved:
                        self._nodes.moved(target.slot, target.address, address, self._deadline)
                    else:
                        self._migrating.add(part.slot)
                        self._nodes.asking(target.address)
                        part.at, part.asking = target.address, True
                    continue
            part.reply = reply
            self._waiting[part.slot].popleft()
        return refused

    def _recovered(self, address: Address, error: RemoteError) -> bool:
        """Whether the commands of a node that failed can be sent again, to another node or after a pause."""
        if isinstance(error, LostReplyError):
            return False
        parts = [parts[0] for parts in self._waiting.values()]
        mine = [part for part in parts if part.at == address or part.at is None]
        if time.monotonic() >= self._deadline or any(part.slot < 0 for part in mine):
            return False
        before = self._nodes.current(self._deadline).owners
        self._nodes.refresh(self._deadline, excluding=address)
        after = self._nodes.current(self._deadline).owners
        for part in mine:
            if part.at == address:
                part.at, part.asking = None, False
                self._pause(error)
            elif before.get(part.slot) == address == after.get(part.slot):
                if "CLUSTERDOWN" not in str(error):
                    return False
                self._pause(error)
                return True
        return True

    def _pause(self, why: Exception) -> None:
        pause = next(self._pauses, None)
        if pause is None:
            raise why if isinstance(why, RemoteError) else RemoteUnavailableError(f"the server refuses: {why}")
        time.sleep(max(min(pause, self._deadline - time.monotonic()), 0))


def ask_each(nodes: Sequence[Pool], commands: Sequence[Command], deadline: float) -> list[list[Any] | RemoteError]:
    """Send the same commands to every node, then receive from all: the replies of each, or why there are none."""
    under_way: deque[tuple[int, Pool, Sent]] = deque()
    found: list[list[Any] | RemoteError] = [[] for _ in nodes]
    try:
        for i, node in enumerate(nodes):
            try:
                under_way.append((i, node, node.begin(commands)))
            except RemoteError as error:
                found[i] = error
        while under_way:
            i, node, sent = under_way.popleft()
            try:
                found[i] = node.finish(sent, max(deadline, time.monotonic() + GRACE))
            except RemoteError as error:
                found[i] = error
    finally:
        for *_, sent in under_way:
            sent.connection.close()
    return found


def _joined(command: Command, parts: list[_Part]) -> Any:
    """Join the replies to a command's parts into one."""
    if len(parts) == 1 and command[0] != "MGET":
        return parts[0].reply
    replies = [part.reply for part in parts]
    for i, reply in enumerate(replies):
        if type(reply) is ErrorReply:
            if command[0] != "MGET" or not str(reply).startswith("WRONGTYPE"):
                return reply
            replies[i] = None  # as MGET replies for a key of another type
    match command[0]:
        case "MGET":
            return replies
        case "UNLINK" | "WAIT" if set(map(type, replies)) == {int}:  # WAIT: the fewest replicas of any node
            return sum(replies) if command[0] == "UNLINK" else min(replies)
    return replies[0]
