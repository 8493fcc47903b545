"""From a name to a connected socket, TLS included, all of it before one deadline.

The standard library bounds each step by itself at best: `getaddrinfo` not at all, `connect` for each address anew.
Here a name is looked up in a thread of its own, which is left behind when it takes too long; whoever asks for the same
name meanwhile waits for that very look-up, so a name server that hangs costs one thread for each name. The addresses
share what is left of the time. (A TLS handshake and `sendall` keep their socket's timeout as a whole: CPython's own.)

Threads: any; each `dial` makes a socket of its own. Failure: `OSError`, of which `TimeoutError` is one.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import _url

if TYPE_CHECKING:
    import ssl


class _LookUp:
    """One question to the resolver, and those who wait for its answer."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.answered = threading.Event()
        self.found: list[Any] = []
        self.error: OSError | None = None

    def run(self, under_way: dict[tuple[str, int], _LookUp]) -> None:
        try:
            self.found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            self.error = error
        except UnicodeError:  # a name too long, or with an empty part
            self.error = socket.gaierror(socket.EAI_NONAME, "not a host name")
        finally:
            under_way.pop((self.host, self.port), None)
            self.answered.set()


class Dialer:
    """Makes sockets as the options of one URL say."""

    def __init__(self, options: Mapping[str, str], *, tls: bool) -> None:
        self._options = options
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._under_way: dict[tuple[str, int], _LookUp] = {}

    def dial(self, host: str, port: int, deadline: float) -> socket.socket:
        """A socket connected to a TCP port, before `deadline` (monotonic seconds)."""
        found = self._look_up(host, port, deadline)
        trouble: OSError = TimeoutError("no time left to connect")
        for tried, (family, kind, proto, _, address) in enumerate(found):
            sock = socket.socket(family, kind, proto)
            try:
                sock.settimeout(_left(deadline) / (len(found) - tried))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.connect(address)
                return self._secure(sock, host, deadline) if self._tls else sock
            except OSError as error:
                sock.close()
                trouble = error
            except BaseException:
                sock.close()
                raise
        raise trouble

    def dial_unix(self, path: str, deadline: float) -> socket.socket:
        """A socket connected to a unix socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(_left(deadline))
            sock.connect(path)
        except BlockingIOError as error:  # the queue of connections not yet accepted is full
            sock.close()
            raise TimeoutError("accepts no connection") from error
        except BaseException:
            sock.close()
            raise
        return sock

    def doubt(self) -> None:
        """After a failure: certificates are read anew, for they are renewed on disk."""
        self._context = None

    def forget(self) -> None:
        """After a fork, in the child: the look-ups' threads are the parent's."""
        self._under_way = {}

    def _look_up(self, host: str, port: int, deadline: float) -> list[Any]:
        try:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (socket.gaierror, UnicodeError):  # a name: only a thread can be left waiting
            pass
        mine = _LookUp(host, port)
        look_up = self._under_way.setdefault((host, port), mine)
        if look_up is mine:
            try:
                threading.Thread(
                    target=mine.run, args=(self._under_way,), name="aikcache-resolver", daemon=True
                ).start()
            except RuntimeError:
                self._under_way.pop((host, port), None)
                raise
        if not look_up.answered.wait(_left(deadline)):
            raise TimeoutError(f"the name {host} is not resolved")
        if look_up.error is not None:
            raise look_up.error
        return look_up.found

    def _secure(self, sock: socket.socket, host: str, deadline: float) -> socket.socket:
        if self._context is None:
            self._context = context(self._options)
        sock.settimeout(_left(deadline))
        return self._context.wrap_socket(sock, server_hostname=host)


def context(options: Mapping[str, str]) -> ssl.SSLContext:
    """TLS as a URL's options say: certificate and host name are verified unless they say otherwise."""
    import ssl  # several milliseconds, for those alone who use it

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    reqs = ssl.VerifyMode[f"CERT_{options.get('ssl_cert_reqs', 'required').upper()}"]
    made.check_hostname = reqs is not ssl.CERT_NONE and _url.flag(options, "ssl_check_hostname", default=True)
    made.verify_mode = reqs
    file, path, data = options.get("ssl_ca_certs"), options.get("ssl_ca_path"), options.get("ssl_ca_data")
    if file or path or data:
        made.load_verify_locations(file, path, data)
    elif reqs is not ssl.CERT_NONE:
        made.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if certificate := options.get("ssl_certfile"):
        # Without a password OpenSSL would ask the terminal for one.
        made.load_cert_chain(certificate, options.get("ssl_keyfile"), options.get("ssl_password", ""))
    least = _url.number(options, "ssl_min_version")
    made.minimum_version = ssl.TLSVersion.TLSv1_2 if least is None else ssl.TLSVersion(int(least))
    if ciphers := options.get("ssl_ciphers"):
        made.set_ciphers(ciphers)
    return made


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no time left to connect")
    return left
