"""Ports for what `ops.local` starts."""

from __future__ import annotations

import random
import socket

from ops.local.node import HOST


def sixteen_ports() -> int:
    """The first of sixteen free ports, each and the one 10000 above below those that the system gives to anybody."""
    while True:
        first = random.randrange(11000, 22000, 16)
        if not any(in_use(first + offset) or in_use(first + offset + 10000) for offset in range(16)):
            return first


def in_use(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
