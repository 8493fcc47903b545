"""Connects a socket to a host name or path, TLS included, before one deadline.

The standard library bounds each step by itself at best: `getaddrinfo` not at all, `connect` for each address anew.
Here a name is looked up in its own thread, which is abandoned when it takes too long. Other callers that ask for the
same name wait for the same look-up, so a name server that hangs costs one thread for each name. The addresses share
the time that is left. (CPython applies a socket's timeout to a TLS handshake and to `sendall` as a whole.)

On the main thread, where signal handlers run, TLS is set up in another thread. CPython's `wrap_socket` lets two objects
own one descriptor for a moment. An exception in between would close it twice, and by the second time the descriptor may
belong to another file.

Threads: any; each `connect` makes its own socket. Failure: `OSError`, of which `TimeoutError` is one, and
`RemoteUnavailableError` where sockets were patched too late.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aikcache._concurrency.outside import let_out
from aikcache._concurrency.thread import Event, start
from aikcache._settings import url
from aikcache._settings.secret import Secret
from aikcache._settings.url import Where
from aikcache.errors import RemoteUnavailableError

if TYPE_CHECKING:
    import ssl

    from aikcache._redis.wire import Wire


_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING", "PACKET_LENGTH_TOO_LONG")
"""OpenSSL's reasons for an answer that is not TLS, or for no answer."""
_PLAIN = "Is this a port without TLS? Then the url begins with 'redis'."


class _Socket(socket.socket):
    """A socket that closes silently when it is dropped, for example by an exception between two steps.

    The standard one warns, which runs Python code. An exception that a signal handler raises in that code is lost.
    """

    __slots__ = ()
    __del__ = socket.SocketType.close  # in C


def _refuse_late_patch() -> None:
    """Raise if `socket.socket` was replaced (gevent, eventlet) by what is no subclass of the one that is used here.

    A read would hold up all greenlets of its thread, and the channel, then a greenlet as well, would read for ever.
    """
    if isinstance(socket.socket, type) and not issubclass(socket.socket, _Socket.__mro__[1]):
        raise RemoteUnavailableError(
            "sockets were monkey-patched after the import of aikcache. Call gevent's monkey.patch_all() first, above "
            "all other imports."
        )


class _LookUp:
    """One name look-up, and the callers that wait for it."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.answered = Event()
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


class _Setup:
    """One connection that another thread makes. That thread closes it if the caller has stopped waiting."""

    def __init__(self, work: Callable[[], socket.socket]) -> None:
        self._work = work
        self._abandoned = False
        self._done = Event()
        self._made: socket.socket | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._made = self._work()
        except BaseException as error:  # `wait` raises it
            self._error = error
        finally:
            self._done.set()
        self._close_if_abandoned()

    def wait(self, deadline: float) -> socket.socket:
        """Return the connected socket, or raise the thread's exception. May be interrupted anywhere."""
        try:
            try:
                start(self.run, "aikcache-connector")
            except RuntimeError as error:  # the interpreter is ending
                raise OSError("no thread can set up TLS") from error
            if not self._done.wait(_left(deadline)):
                timed_out = TimeoutError("no time left to connect")
                timed_out.add_note(_PLAIN)
                raise timed_out
            if self._error is not None:
                try:
                    raise self._error
                finally:  # else the traceback's frames would keep the error alive
                    self._error = None
            assert self._made is not None
            return self._made
        except BaseException:
            self._abandoned = True
            self._close_if_abandoned()
            raise

    def _close_if_abandoned(self) -> None:
        """Called by both threads: the second one closes, or both do. Closing one object twice is safe."""
        if self._abandoned and self._made is not None:
            self._made.close()


class Connector:
    """Makes sockets according to the options of one URL."""

    def __init__(self, where: Where) -> None:
        from aikcache._redis import connection, wire  # redis-py with it: now, before any deadline, thread or fork

        if not where.path:
            import encodings.idna  # noqa: F401  # as the first look-up does

        self.connection = connection.Connection
        self._wire = wire.Wire
        self._own = wire.own(where.own)
        self._options = where.options
        self._secrets = where.secrets
        self._tls = where.tls
        self._context: ssl.SSLContext | None = None
        self._under_way: dict[tuple[str, int], _LookUp] = {}

    def connect(self, host: str, port: int, deadline: float) -> Wire:
        """Return redis-py's connection to a TCP port, before `deadline` (monotonic seconds)."""
        if self._own is not None:
            return self._own(_left(deadline), host=host, port=port)
        _refuse_late_patch()
        if self._tls and threading.current_thread() is threading.main_thread():
            return self._wire(_Setup(lambda: self._connect(host, port, deadline)).wait(deadline))
        return self._wire(self._connect(host, port, deadline))

    def connect_unix(self, path: str, deadline: float) -> Wire:
        """Return redis-py's connection to a unix socket."""
        if self._own is not None:
            return self._own(_left(deadline), path=path)
        _refuse_late_patch()
        return self._wire(self._connect_unix(path, deadline))

    def _connect(self, host: str, port: int, deadline: float) -> socket.socket:
        found = self._look_up(host, port, deadline)
        failure: OSError = TimeoutError("no time left to connect")
        for tried, (family, kind, proto, _, address) in enumerate(found):
            sock = _Socket(family, kind, proto)
            try:
                sock.settimeout(_left(deadline) / (len(found) - tried))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.connect(address)
                return self._secure(sock, host, deadline) if self._tls else sock
            except OSError as error:
                sock.close()
                let_out(error)
                failure = error
            except BaseException:
                sock.close()
                raise
        raise failure

    def _connect_unix(self, path: str, deadline: float) -> socket.socket:
        sock = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
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

    def reset_route(self) -> None:
        """Called after a failure: certificates are read again, because they may have been renewed on disk."""
        self._context = None

    def forget(self) -> None:
        """Reset after a fork, in the child: the look-ups' threads are the parent's."""
        self._under_way = {}

    def _look_up(self, host: str, port: int, deadline: float) -> list[Any]:
        try:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (socket.gaierror, UnicodeError):  # a name: only a look-up in a thread can be abandoned
            pass
        mine = _LookUp(host, port)
        try:
            look_up = self._under_way.setdefault((host, port), mine)
            if look_up is mine:
                start(mine.run, "aikcache-resolver", self._under_way)
        except BaseException as error:
            if self._under_way.get((host, port)) is mine:
                self._under_way.pop((host, port), None)
            if isinstance(error, RuntimeError):  # the interpreter is ending
                raise OSError(f"no thread can look up the name {host}") from error
            raise
        if not look_up.answered.wait(_left(deadline)):
            raise TimeoutError(f"the name {host} is not resolved")
        if look_up.error is not None:
            raise look_up.error
        return look_up.found

    def _secure(self, sock: socket.socket, host: str, deadline: float) -> socket.socket:
        if self._context is None:
            self._context = context(self._options, self._secrets.get("ssl_password"))
        sock.settimeout(_left(deadline))
        try:
            return self._context.wrap_socket(sock, server_hostname=host)
        except OSError as error:  # what OpenSSL says of a certificate or alert needs no hint
            if isinstance(error, TimeoutError | ConnectionError) or getattr(error, "reason", "") in _NOT_TLS:
                error.add_note(_PLAIN)
            raise


def context(options: Mapping[str, str], key_password: Secret[str] | None) -> ssl.SSLContext:
    """The TLS context for a URL's options. Certificate and host name are verified unless an option says otherwise."""
    import ssl  # takes several milliseconds, so only users of TLS pay

    class Quiet(ssl.SSLSocket):
        """Closes silently, like `_Socket`."""

        __del__ = socket.SocketType.close

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.sslsocket_class = Quiet
    reqs = ssl.VerifyMode[f"CERT_{options.get('ssl_cert_reqs', 'required').upper()}"]
    made.check_hostname = reqs is not ssl.CERT_NONE and url.flag(options, "ssl_check_hostname", default=True)
    made.verify_mode = reqs
    file, path, data = options.get("ssl_ca_certs"), options.get("ssl_ca_path"), options.get("ssl_ca_data")
    if file or path or data:
        made.load_verify_locations(file, path, data)
    elif reqs is not ssl.CERT_NONE:
        made.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if certificate := options.get("ssl_certfile"):
        # Without a password OpenSSL would ask the terminal for one.
        made.load_cert_chain(
            certificate, options.get("ssl_keyfile"), "" if key_password is None else key_password.reveal()
        )
    made.minimum_version = ssl.TLSVersion(url.tls_version(options))
    if ciphers := options.get("ssl_ciphers"):
        made.set_ciphers(ciphers)
    return made


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no time left to connect")
    return left
