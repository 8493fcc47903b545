"""Two network namespaces joined by a cable, so that one machine can cut a network in two.

A process started inside a side (`Side.inside`) keeps that side's network for good, but shares all files. So a test
outside reaches every server by its unix socket, however the network is cut. A cut is silent, as in a real network:
packets go to an address that no one has, connections stay open, nothing is refused.

Linux only, for root or a user with CAP_NET_ADMIN and CAP_SYS_ADMIN, with `ip` of iproute2 (`possible`). The namespaces
have no names, so they end with the process. Threads: `inside` applies to the calling thread, and to the processes and
threads that it starts.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

__all__ = ["Side", "Sides"]

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_NO_HOST = "02:00:00:00:00:ff"
_CABLE = "cable"


class Side:
    """One of the two networks."""

    def __init__(self, number: int) -> None:
        self.host = f"10.213.0.{number}"
        self._ethernet = f"02:00:00:00:00:0{number}"
        self._other = f"10.213.0.{3 - number}", f"02:00:00:00:00:0{3 - number}"
        self.file = _new_network()

    @property
    def path(self) -> str:
        """The file of this network namespace."""
        return f"/proc/{os.getpid()}/fd/{self.file}"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Run the block on this side. Processes and threads started in it stay there."""
        before = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
        try:
            _enter(self.file)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(before)

    def ip(self, *words: str) -> None:
        """Run `ip` on this side."""
        with self.inside():
            subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)

    def plug(self) -> None:
        """Configure this end of the cable."""
        self.ip("link", "set", _CABLE, "address", self._ethernet, "arp", "off", "up")
        self.ip("link", "set", "lo", "up")
        self.ip("address", "add", f"{self.host}/24", "dev", _CABLE)

    def reach(self, *, other: bool) -> None:
        """Whether packets to the other side arrive there."""
        host, ethernet = self._other
        self.ip("neigh", "replace", host, "lladdr", ethernet if other else _NO_HOST, "dev", _CABLE, "nud", "permanent")


class Sides:
    """Both sides, joined. As a context manager: on exit the sides are closed; they end with the processes started
    inside.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.one, self.other = (self._side(number) for number in (1, 2))
        self.one.ip("link", "add", _CABLE, "type", "veth", "peer", "name", _CABLE, "netns", self.other.path)
        for side in (self.one, self.other):
            side.plug()
        self.join()

    @staticmethod
    def possible() -> bool:
        """Whether this machine and user can create them."""
        if sys.platform != "linux" or shutil.which("ip") is None:
            return False
        try:
            Sides().close()
        except (OSError, subprocess.SubprocessError):
            return False
        return True

    def cut(self) -> None:
        """Stop all packets between the sides, in both directions, silently."""
        for side in (self.one, self.other):
            side.reach(other=False)

    def join(self) -> None:
        """Let packets pass again."""
        for side in (self.one, self.other):
            side.reach(other=True)

    def close(self) -> None:
        self._stack.close()

    def _side(self, number: int) -> Side:
        side = Side(number)
        self._stack.callback(os.close, side.file)
        return side

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _new_network() -> int:
    """Create a network namespace and return its file. A thread of its own does so, because it stays in the new
    namespace.
    """
    made: list[int | OSError] = []

    def make() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
            made.append(OSError(ctypes.get_errno(), "no new network"))
        else:
            made.append(os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def _enter(file: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(file, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "no way into that network")
