"""The users of ops/redis/users.acl with passwords for tests, and what each may call."""

from __future__ import annotations

import hashlib
from pathlib import Path
from string import Template
from typing import Any

from aikcache.testing.sentinel import OPS, ask

NAMES = ("cache", "session", "monitor", "replication", "sentinel", "operator")
PASSWORDS = {name: f"{name}'s own pässword:@/" for name in NAMES}


def users_file(directory: Path) -> Path:
    """The server's file, made of the shipped one."""
    lines = (OPS / "users.acl").read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    digests = {name.upper(): f"#{hashlib.sha256(word.encode()).hexdigest()}" for name, word in PASSWORDS.items()}
    path = directory / "users.acl"
    path.write_text(Template(text).substitute(digests), encoding="utf-8")
    return path


def allowed(user: str) -> set[str]:
    """The commands of a user, as in `client|tracking`."""
    for line in (OPS / "users.acl").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"user {user} "):
            return {word[1:] for word in line.split() if word.startswith("+")}
    raise AssertionError(user)


def every_command(server: Any) -> dict[str, list[str]]:
    """Each command and subcommand of a server that asks for permission, with as many arguments as it wants."""
    found = {}
    for entry in ask(server, "COMMAND", within=10.0):
        for name, arity, flags, *_ in entry[9] or [entry]:
            if b"no_auth" not in flags and "no_auth" not in flags:  # AUTH, HELLO, QUIT, RESET: for everybody
                words = name.decode().split("|")
                found[name.decode()] = [*words, *["1"] * (abs(arity) - len(words))]
    return found
