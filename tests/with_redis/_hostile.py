"""A server that answers like Redis, a Sentinel and a cluster's node at once, but for one command."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import hiredis

from aikcache._remote import scripts
from aikcache.testing.proxy import Impostor

PASSWORD = "hunter2-canary-hunter2"
_HIDDEN = PASSWORD.encode()


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def array(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(parts)


_SCRIPTS = {
    scripts.ACQUIRE.sha: b"+OK\r\n",
    scripts.STAMP.sha: array(bulk(b"12345678"), b":1\r\n", b":100000000\r\n"),
    scripts.STORE.sha: b":1\r\n",
    scripts.HOLD.sha: b":1\r\n",
    scripts.DROP.sha: b":0\r\n",
    scripts.PUBLISH.sha: bulk(b"0" * 16),
    scripts.SNAPSHOTS.sha: array(bulk(b"0" * 16), bulk(b"")),
    scripts.FOLD.sha: b":1\r\n",
    scripts.RESTORE.sha: b":1\r\n",
}
NONE = b"$-1\r\n"
MALFORMED: dict[str, bytes] = {
    "a number": b":5\r\n",
    "a negative number": b":-9223372036854775808\r\n",
    "text": bulk(_HIDDEN + b"\x1b[31m"),
    "a status": b"+\x1b]0;" + _HIDDEN + b"\x07\r\n",
    "nothing": b"_\r\n",
    "an empty array": b"*0\r\n",
    "an array": array(b":1\r\n", bulk(b"x"), NONE),
    "an array in an array": array(array(array(b":1\r\n"), b"*0\r\n"), b"-ERR no\r\n"),
    "a map in a map": b"%2\r\n+a\r\n%1\r\n:1\r\n*0\r\n+ip\r\n#t\r\n",
    "a map with odd keys": b"%1\r\n*1\r\n:1\r\n:2\r\n",
    "a boolean": b"#t\r\n",
    "infinity": b",inf\r\n",
    "a big number": b"(" + b"9" * 5000 + b"\r\n",
    "too deep": b"*1\r\n" * 100_000 + b":1\r\n",
    "a huge text": b"$99999999999\r\nx",
    "a huge array": b"*100000000\r\n:1\r\n",
    "an impossible array": b"*99999999999999999\r\n",
    "a negative length": b"$-5\r\n",
    "a negative array": b"*-7\r\n",
    "no protocol": b"\x1b[31m" + _HIDDEN + b"\r\n\r\n",
    "an error that quotes": b"-ERR unknown command 'HELLO', with args: 'AUTH' '" + _HIDDEN + b"'\x1b[31m\r\n",
    "an error of one word": b"-" + _HIDDEN + b"\r\n",
    "a long error": b"-ERR \xff" + (_HIDDEN + b"\x1b") * 5000 + b"\r\n",
    "an empty error": b"-\r\n",
    "a wrong type": b"-WRONGTYPE " + _HIDDEN + b"\r\n",
    "no right": b"-NOPERM " + _HIDDEN + b"\x1b[2J\r\n",
    "no script": b"-NOSCRIPT " + _HIDDEN + b"\r\n",
    "a redirection to nowhere": b"-MOVED 5 127.0.0.1:1\r\n",
    "a redirection to nothing": b"-MOVED 99999999999 " + _HIDDEN + b"/\x1b:99999\r\n",
    "ask somewhere": b"-ASK 5 nowhere.invalid:70000\r\n",
    "try again": b"-TRYAGAIN " + _HIDDEN + b"\r\n",
    "a push before": b">2\r\n+invalidate\r\n*1\r\n+x\r\n+OK\r\n",
    "an odd push": b">2\r\n+invalidate\r\n:5\r\n",
    "a push of nothing": b">0\r\n",
    "a message": b">3\r\n+message\r\n+x\r\n%1\r\n+a\r\n+b\r\n",
    "half an answer": b"$10\r\nabc",
    "silence": b"",
}  # fmt: skip


class Hostile(Impostor):
    """Listens on a TCP port. `asked` are the commands that came, `malformed` is what one of them is answered."""

    def __init__(self, command: str, malformed: bytes) -> None:
        super().__init__(self._answer_all)
        self._command = command
        self.malformed = malformed
        self.asked: set[str] = set()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def _answer_all(self, link: socket.socket) -> None:
        reader = hiredis.Reader()
        newer = False
        while data := link.recv(1 << 16):
            reader.feed(data)
            while (words := reader.gets()) is not False:
                name = b" ".join(words[: 2 if words[0] in (b"CLUSTER", b"SENTINEL") else 1]).decode()
                self.asked.add(name)
                newer = newer or words[:2] == [b"HELLO", b"3"]
                link.sendall(self.malformed if name == self._command else b"".join(self._answer(name, words, newer)))

    def _answer(self, name: str, words: list[bytes], newer: bool) -> Iterator[bytes]:
        here = [bulk(b"127.0.0.1"), bulk(b"%d" % self.port)]
        match name:
            case "HELLO":
                facts = [bulk(b"server"), bulk(b"redis"), bulk(b"role"), bulk(b"master")]
                yield b"%2\r\n" + b"".join(facts) if newer else array(*facts)
            case "INFO":
                yield bulk(
                    b"run_id:r\r\nmaster_replid:m\r\nuptime_in_seconds:90000\r\nrole:master\r\nsentinel_tilt:0\r\n"
                )
            case "SUBSCRIBE":
                yield from (b">3\r\n+subscribe\r\n" + bulk(channel) + b":1\r\n" for channel in words[1:])
            case "PING":
                yield b"+PONG\r\n"
            case "GET":
                yield NONE
            case "MGET":
                yield array(*[NONE] * (len(words) - 1))
            case "PTTL":
                yield b":-2\r\n"
            case "SET" if words[-1] == b"XX":
                yield NONE
            case "UNLINK" | "PUBLISH" | "WAIT" | "EVAL":
                yield b":1\r\n"
            case "EVALSHA":
                yield _SCRIPTS[words[1].decode()]
            case "SCAN":
                yield array(bulk(b"0"), b"*0\r\n")
            case "SENTINEL GET-MASTER-ADDR-BY-NAME":
                yield array(*here)
            case "SENTINEL MASTER":
                facts = [bulk(b"ip"), here[0], bulk(b"port"), here[1], bulk(b"config-epoch"), bulk(b"1")]
                yield b"%3\r\n" + b"".join(facts)
            case "SENTINEL MYID":
                yield bulk(b"me")
            case "CLUSTER INFO":
                yield bulk(
                    b"cluster_current_epoch:1\r\ncluster_my_epoch:1\r\ncluster_size:1\r\ncluster_known_nodes:1\r\n"
                )
            case "CLUSTER SHARDS":
                yield array(
                    array(bulk(b"slots"), array(b":0\r\n", b":16383\r\n"), bulk(b"nodes"), array(self._node(here[0])))
                )
            case "CLUSTER NODES":
                yield bulk(b"id 127.0.0.1:%d@1 myself,master - 0 0 1 connected 0-16383\n" % self.port)
            case _:
                yield b"+OK\r\n"

    def _node(self, host: bytes) -> bytes:
        facts: list[Any] = [bulk(b"endpoint"), host, bulk(b"port"), b":%d\r\n" % self.port]
        return array(*facts, bulk(b"role"), bulk(b"master"), bulk(b"health"), bulk(b"online"))
