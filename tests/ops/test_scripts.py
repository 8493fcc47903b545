"""The scripts of the pods, in the start-up cases and failures that they are for."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from aikcache import Cache
from aikcache.errors import AikcacheError
from aikcache.testing import find_server, wait_until

from ._pods import REPOSITORY, SCRIPTS, SERVICE, WITHIN, Fleet, Pod, finish

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(sys.platform != "linux", reason="pods have addresses of 127.0.0.0/8"),
    pytest.mark.skipif(shutil.which("redis-cli") is None, reason="the scripts need redis-cli"),
]
PATIENT = {"timeout": 20.0, "connect_timeout": 20.0, "lease_wait": 20.0}


@pytest.fixture
def fleet(binary: Path, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(binary, tmp_path) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def started(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The durable profile, all six started at once."""
    with Fleet(binary, tmp_path_factory.mktemp("fleet")) as fleet:
        fleet.start("min-replicas-max-lag 60", PROFILE="durable")  # on a busy machine replicas answer late
        first = fleet.primaries()
        assert first == [fleet.redis[0]]
        yield fleet


@pytest.fixture
def running(started: Fleet) -> Fleet:
    """All is well, and there is a value that must survive."""
    started.wait()
    wait_until(started.known, WITHIN, "the Sentinels to know all")
    write(started, "kept", "1")
    return started


# Of two commands, as the session store's are: the log has them in a transaction, which loading it may refuse.
SCRIPT = "local new = redis.call('HSET', KEYS[1], 'f', ARGV[1]) redis.call('PEXPIRE', KEYS[1], 86400000) return new"


def write(fleet: Fleet, name: str, value: str) -> None:
    """A script's write that both replicas have acknowledged."""
    (primary,) = fleet.primaries()
    words = "EVAL", SCRIPT, "1", f"aikernel:session:{name}", value
    wait_until(lambda: primary.ask(*words, user="session") in (0, 1), WITHIN, "a write")
    wait_until(lambda: primary.ask("WAIT", "2", "1000", user="session") == 2, WITHIN, "both replicas")


def replicas(fleet: Fleet) -> list[Pod]:
    primaries = fleet.primaries()
    return [pod for pod in fleet.redis if pod not in primaries]


def read(pod: Pod, name: str) -> object:
    return pod.ask("HGET", f"aikernel:session:{name}", "f", user="session")


def see_alive(pod: Pod, user: str) -> None:
    """A probe gives a server three seconds, and may be asked again, as it is where it is deployed."""
    wait_until(lambda: pod.run("live.sh", user).returncode == 0, WITHIN, f"{pod.address} to be alive")


def test_all_three_start_at_once_and_one_is_the_primary(running: Fleet) -> None:
    """At the first start the first is the primary (`started`), the others are its replicas, and every probe says so."""
    assert len(running.primaries()) == 1
    assert [read(pod, "kept") for pod in running.redis] == [b"1"] * 3
    for pod in running.pods:
        see_alive(pod, "monitor" if pod.kind == "redis" else "sentinels")


def test_scaled_to_nothing_and_back_the_last_primary_leads_with_its_data(running: Fleet) -> None:
    """The Sentinels keep who was the primary on their volumes; it is another than at first."""
    before = running.wait()
    fail_over(running)
    write(running, "later", "2")
    leader = running.wait()
    assert leader is not before
    for pod in running.pods:
        pod.end()
    running.start(PROFILE="durable")
    assert running.primaries() == [leader]
    for pod in running.redis:
        wait_until(lambda pod=pod: read(pod, "later") == b"2", WITHIN, "the data")  # type: ignore[misc]
        assert read(pod, "kept") == b"1"


def test_scaled_to_nothing_through_prestop_nothing_is_lost(running: Fleet) -> None:
    """All at once: the replicas stop, nobody is left to take over from the primary, and it stops when it has waited."""
    running.wait()
    write(running, "at last", "5")

    def terminate(pod: Pod) -> None:
        said[pod] = pod.run("prestop-redis.sh", WAIT="5")
        pod.end()

    said: dict[Pod, subprocess.CompletedProcess[str]] = {}
    ending = [threading.Thread(target=terminate, args=(pod,)) for pod in running.redis]
    for thread in ending:
        thread.start()
    for thread in ending:
        thread.join(2 * WITHIN)
    assert {done.returncode for done in said.values()} <= {0, 1}
    for sentinel in running.sentinels:
        sentinel.end()
    running.start(PROFILE="durable")
    for pod in running.redis:
        wait_until(lambda pod=pod: read(pod, "at last") == b"5", WITHIN, "the data")  # type: ignore[misc]
        assert read(pod, "kept") == b"1"


def fail_over(fleet: Fleet) -> None:
    (old,) = fleet.primaries()
    sentinel = fleet.sentinels[0]
    wait_until(lambda: sentinel.ask("SENTINEL", "FAILOVER", "aikcache") == b"OK", WITHIN, "the failover's begin")
    wait_until(lambda: fleet.primaries() not in ([], [old]), WITHIN, "the failover")
    fleet.wait()


def test_a_primary_that_is_back_at_once_goes_on_with_its_data(running: Fleet) -> None:
    """Killed and restarted before the Sentinels would promote anybody, it has what it had."""
    primary = running.wait()
    primary.end(kill=True)
    primary.start(PROFILE="durable")
    leader = running.wait()  # on a slow machine it may have taken longer than that
    assert read(leader, "kept") == b"1"


def test_an_old_primary_comes_back_as_a_replica(running: Fleet) -> None:
    """Another was promoted meanwhile: the old one starts as its replica from the first moment, and has its data."""
    old = running.wait()
    old.end(kill=True)
    wait_until(lambda: len(running.primaries()) == 1, WITHIN, "a new primary")
    write_without(running, "meanwhile", "3")
    said = finish(old.init(PROFILE="durable"))
    assert f"a replica of {running.primaries()[0].address}" in said
    old.serve()
    running.wait()
    assert old not in running.primaries()
    assert (read(old, "kept"), read(old, "meanwhile")) == (b"1", b"3")


def test_an_old_primary_whose_container_restarts_comes_back_as_a_replica(running: Fleet) -> None:
    """By the container's own command, for its init container does not run again: never a second primary."""
    old = running.wait()
    old.end(kill=True)
    wait_until(lambda: len(running.primaries()) == 1, WITHIN, "a new primary")
    write_without(running, "elsewhere", "4")
    old.restart_container(PROFILE="durable")
    assert wait_until(lambda: old.info().get("role"), WITHIN, "its answer") == "slave"
    running.wait()
    assert old not in running.primaries()
    assert (read(old, "kept"), read(old, "elsewhere")) == (b"1", b"4")


def write_without(fleet: Fleet, name: str, value: str) -> None:
    """A write while one server is away."""
    (primary,) = fleet.primaries()
    record = f"aikernel:session:{name}"
    wait_until(lambda: primary.ask("HSET", record, "f", value, user="session") in (0, 1), WITHIN, "a write")


def test_a_primary_that_lost_its_volume_waits_until_a_replica_leads(running: Fleet) -> None:
    """Named by the Sentinels, with an empty disk: it does not start as the primary, and the others keep the data."""
    lost = running.wait()
    lost.end(kill=True)
    shutil.rmtree(lost.volume)
    lost.volume.mkdir()
    lost.start(PROFILE="durable")
    assert running.wait() is not lost
    assert [read(pod, "kept") for pod in running.redis] == [b"1"] * 3


def test_without_a_quorum_of_sentinels_no_server_starts(fleet: Fleet) -> None:
    """It waits as long as it may, says for whom, and exits with an error."""
    fleet.sentinels[0].start()
    done = fleet.redis[0].run("init-redis.sh", WAIT="2")
    assert done.returncode == 1
    assert "Fewer than 2 of the Sentinels" in done.stderr
    assert not (fleet.redis[0].volume / "redis.conf").exists()


def test_a_replica_that_is_still_syncing_is_not_ready_but_alive(running: Fleet) -> None:
    """Its link is not up: a rollout waits for it, and nobody restarts it."""
    primary = running.wait()
    replica = replicas(running)[0]
    primary.signal(signal.SIGSTOP)
    try:
        replica.end()
        replica.serve()
        wait_until(lambda: "is loading" not in replica.run("ready-redis.sh").stderr, WITHIN, "its start")
        wait_until(lambda: replica.info().get("role") == "slave", WITHIN, "its start")
        assert replica.run("ready-redis.sh").returncode == 1
        see_alive(replica, "monitor")
    finally:
        primary.signal(signal.SIGCONT)
    running.wait()


def test_a_server_that_loads_its_data_is_alive_and_not_ready(fleet: Fleet) -> None:
    """It answers LOADING for as long as that takes: a restart would make it begin again."""
    pod = fleet.redis[0]
    pod.start("min-replicas-to-write 0", PROFILE="durable", PRIMARY=pod.address)
    wait_until(lambda: pod.info().get("loading") == "0", WITHIN, "the server")
    for number in range(300):
        pod.ask("EVAL", SCRIPT, "1", f"aikernel:session:{number}", os.urandom(1200).hex(), user="session")
    pod.ask("BGREWRITEAOF")  # what is still in the log is read without answering anybody
    wait_until(lambda: int(pod.info().get("aof_base_size", 0)) > 600_000, WITHIN, "the log to be rewritten")
    pod.end()
    pod.serve("key-load-delay 300000", "loading-process-events-interval-bytes 1024")  # 90 seconds
    wait_until(lambda: "LOADING" in str(pod.ask("PING")), WITHIN, "LOADING")
    see_alive(pod, "monitor")
    assert "is loading its data" in pod.run("ready-redis.sh").stderr
    assert pod.info()["loading"] == "1"


def test_a_replica_that_refuses_without_its_primary_is_alive_and_not_ready(fleet: Fleet) -> None:
    """It answers MASTERDOWN: that is the primary's trouble, and a restart of all replicas would make it worse."""
    pod = fleet.redis[1]
    pod.start("replica-serve-stale-data no", PRIMARY=fleet.redis[0].address)
    wait_until(lambda: "MASTERDOWN" in str(pod.ask("PING")), WITHIN, "MASTERDOWN")
    see_alive(pod, "monitor")
    assert "has no link to its primary" in pod.run("ready-redis.sh").stderr


def test_a_sentinel_that_has_lost_the_others_is_not_ready(running: Fleet) -> None:
    """It answers and is alive, but it can bring about no failover."""
    lost, *others = running.sentinels
    for other in others:
        other.end(kill=True)
    wait_until(lambda: not running.ready(lost), WITHIN, "not ready")
    see_alive(lost, "sentinels")
    for other in others:
        other.start()
    wait_until(lambda: running.ready(lost), WITHIN, "ready again")


def test_a_server_that_answers_nothing_is_neither_alive_nor_ready(running: Fleet) -> None:
    """A frozen process is to be restarted."""
    replica = replicas(running)[1]
    replica.signal(signal.SIGSTOP)
    try:
        assert replica.run("live.sh", "monitor").returncode == 1
        assert replica.run("ready-redis.sh").returncode == 1
    finally:
        replica.signal(signal.SIGCONT)


def test_a_wrong_probes_password_does_not_restart_everybody(running: Fleet) -> None:
    """A Secret that went wrong takes nobody out of life."""
    (running.secrets / "monitor").write_text("another")
    try:
        see_alive(running.redis[0], "monitor")
    finally:
        (running.secrets / "monitor").write_text(running.passwords["monitor"])


def test_before_a_primary_stops_a_replica_has_all_that_was_acknowledged(running: Fleet) -> None:
    """Under a load of writes: none that was acknowledged is missing afterwards."""
    primary = running.wait()
    acknowledged: list[int] = []
    stop = threading.Event()

    def load(first: int) -> None:
        number = first
        while not stop.is_set():
            reply = primary.ask("HSET", f"aikernel:session:{number}", "f", "x", user="session")
            if reply == 1:
                acknowledged.append(number)
            number += 4

    threads = [threading.Thread(target=load, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(acknowledged) > 200, WITHIN, "some writes")
        done = primary.run("prestop-redis.sh")
        count = len(acknowledged)
    finally:
        primary.end()
        stop.set()
        for thread in threads:
            thread.join(WITHIN)
    assert done.returncode == 0, done.stderr
    assert count > 200
    (new,) = running.primaries()
    missing = [number for number in acknowledged if read(new, str(number)) != b"x"]
    assert missing == []
    primary.start(PROFILE="durable")


def test_a_replica_stops_at_once(running: Fleet) -> None:
    """Only the primary has something to hand over."""
    primary, replica = running.wait(), replicas(running)[0]
    wait_until(lambda: replica.run("prestop-redis.sh", WAIT="1").returncode == 0, WITHIN, "the replica's word")
    assert running.primaries() == [primary]


def test_passwords_are_changed_without_a_failed_call(running: Fleet) -> None:
    """Both are accepted while clients change over, which call all the time; then the old one is refused."""
    old = dict(running.passwords)
    with contextlib.ExitStack() as stack:
        before = stack.enter_context(calling(running.url()))
        for name, password in old.items():
            running.passwords[name] = f"new {password}"
            (running.secrets / name).write_text(running.passwords[name])
            (running.secrets / f"{name}.previous").write_text(password)
        change(running)
        after = stack.enter_context(calling(running.url()))
        before.wait()
        before.stop()  # the last that has the old password
        for name in old:
            (running.secrets / f"{name}.previous").unlink()
        change(running)
        running.wait()
        after.wait()
    new, running.passwords = running.passwords, old
    assert "WRONGPASS" in str(running.redis[0].ask("PING", user="cache"))
    assert "WRONGPASS" in str(running.sentinels[0].ask("PING"))
    running.passwords = new
    # Whoever's container restarts now, and a failover, use the new ones.
    replica, sentinel = replicas(running)[0], running.sentinels[2]
    for pod in (replica, sentinel):
        pod.end()
    replica.restart_container(PROFILE="durable")
    sentinel.restart_container()
    running.wait()
    fail_over(running)
    assert read(running.primaries()[0], "kept") == b"1"


class calling:
    """An application that stores and reads values all the while; at its end no call has failed."""

    def __init__(self, url: str) -> None:
        self.cache = Cache(url, instance="aikernel", local_ttl=0, **PATIENT)  # type: ignore[arg-type]
        self.answered = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(first,), daemon=True) for first in range(2)]
        self._wrong: list[object] = []

    def _call(self, first: int) -> None:
        number = first
        while not self._over.wait(0.02):  # the probes need the machine as well
            name = f"thing:{id(self)}:{number % 50}"
            self.cache.set(name, number)
            if (found := self.cache.get(name)) != number:
                self._wrong.append(found)
            number += 2
            self.answered += 1

    def __enter__(self) -> Self:
        self.cache.ping()
        for thread in self._threads:
            thread.start()
        self.wait()
        return self

    def wait(self) -> None:
        """Until it has gone on."""
        answered = self.answered
        wait_until(lambda: self.answered > answered + 30, WITHIN, "calls")

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(WITHIN)
        self.cache.close()

    def __exit__(self, *error: object) -> None:
        self.stop()
        if error[0] is None:
            assert (self.cache.stats().errors, self._wrong) == (0, [])


@pytest.fixture
def half_changed(running: Fleet) -> Iterator[Fleet]:
    """The Secret has new passwords beside the previous ones, and no running process has them yet."""
    for name, password in running.passwords.items():
        (running.secrets / name).write_text("next" + password)
        (running.secrets / f"{name}.previous").write_text(password)
    yield running
    for name, password in running.passwords.items():
        (running.secrets / name).write_text(password)
        (running.secrets / f"{name}.previous").unlink()
    for pod in running.redis:
        if pod.ask("PING") is None:  # the one that was stopped
            pod.end()
            pod.start(PROFILE="durable")
    running.wait()


def test_a_changed_secret_that_no_server_has_yet_fails_no_probe(half_changed: Fleet) -> None:
    """The probes get their answers, and a primary that is stopped hands over."""
    primary = half_changed.wait()
    for pod in half_changed.pods:
        see_alive(pod, "monitor" if pod.kind == "redis" else "sentinels")
    done = primary.run("prestop-redis.sh", WAIT="120")
    assert done.returncode == 0, done.stderr
    assert "has taken over" in done.stderr
    primary.end()
    assert len(half_changed.primaries()) == 1


def test_a_primary_with_an_unknown_role_does_not_stop_silently(running: Fleet) -> None:
    """While the role is unknown the script asks again, and at last fails."""
    primary, replica = running.wait(), replicas(running)[0]
    (running.secrets / "monitor").write_text("another")
    try:
        done = primary.run("prestop-redis.sh", WAIT="1")
        asked = subprocess.Popen(**replica.call("prestop-redis.sh", WAIT="120"), text=True, stderr=subprocess.PIPE)
        assert asked.stderr is not None
        assert "does not report its role" in asked.stderr.readline()
    finally:
        (running.secrets / "monitor").write_text(running.passwords["monitor"])
    assert done.returncode == 1
    assert "stops without a failover" in done.stderr
    assert finish(asked) == ""


def see_answers(sentinel: Pod, began: float) -> None:
    """All that a Sentinel watches give it answers that are no refusals, and have done so since then."""

    def answer() -> bool:
        others = [one for kind in ("REPLICAS", "SENTINELS") for one in sentinel.ask("SENTINEL", kind, SERVICE)]
        watched = [sentinel.ask("SENTINEL", "MASTER", SERVICE), *others]
        since = [int(one[one.index(b"last-ok-ping-reply") + 1]) / 1000 for one in watched]
        return max(since) < time.monotonic() - began

    wait_until(answer, WITHIN, f"answers to {sentinel.address}")


def change(fleet: Fleet) -> None:
    for pod in fleet.pods:
        done, began = pod.run("passwords.sh", pod.kind), time.monotonic()
        assert (done.returncode, done.stderr) == (0, "")
        if pod.kind == "sentinel":  # the others have not been changed yet
            see_answers(pod, began)
    fleet.wait()
    for pod in fleet.redis:
        assert pod.ask("CONFIG", "GET", "min-replicas-to-write")[1] == b"1"


def test_a_sentinel_shows_no_password_that_would_be_refused(half_changed: Fleet) -> None:
    """Its links would be refused for good. The script says which server has to have it first, and changes nothing."""
    sentinel, (primary,) = half_changed.sentinels[0], half_changed.primaries()
    done, began = sentinel.run("passwords.sh", "sentinel"), time.monotonic()
    assert done.returncode == 1
    assert f"{primary.address} does not accept what {sentinel.address} would show: passwords.sh redis" in done.stderr
    see_answers(sentinel, began)


def test_a_missing_or_unusable_password_is_reported(fleet: Fleet) -> None:
    """Which, and what to do; never the password."""
    (fleet.secrets / "session").unlink()
    done = fleet.redis[0].run("users.sh")
    assert done.returncode == 1
    assert "the Secret needs an entry session" in done.stderr
    (fleet.secrets / "session").write_text('a"b')
    done = fleet.redis[0].run("users.sh")
    assert done.returncode == 1
    assert "choose another password" in done.stderr
    assert 'a"b' not in done.stderr
    assert not (fleet.redis[0].volume / "users.acl").exists()


@pytest.mark.parametrize(("tls", "own"), [("", "127.0.0.1:6379"), ("/tls", "localhost:6379")])
def test_a_pod_asks_itself_without_dns(tls: str, own: str) -> None:
    """Under the address of its own host, or the name for it that its certificate has."""
    words = ["sh", "-c", '. "$0"; echo "$OWN"', str(SCRIPTS / "lib.sh")]
    env = {"PATH": os.environ["PATH"], "SELF": "redis-0.redis.cache.svc:6379", "TLS": tls}
    assert subprocess.run(words, env=env, capture_output=True, check=True, text=True).stdout.strip() == own


def test_the_scripts_are_clean() -> None:
    """shellcheck finds nothing, for POSIX sh."""
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, "-x", *sorted(SCRIPTS.glob("*.sh"))], cwd=REPOSITORY, capture_output=True)
    assert (done.returncode, done.stdout.decode()) == (0, "")


def test_an_upgrade_from_pod_to_pod_keeps_all_data(tmp_path: Path) -> None:
    """From Redis to Valkey, from the last to the first, as a StatefulSet does it: the primary hands over first."""
    try:
        old, new = find_server("redis"), find_server("valkey")
    except AikcacheError as error:
        pytest.skip(str(error))
    with Fleet(old, tmp_path) as fleet:
        fleet.start(PROFILE="durable")
        wait_until(fleet.known, WITHIN, "the Sentinels to know all")
        write(fleet, "kept", "1")
        fleet.binary = new
        (fleet.programs / "valkey-server").unlink()
        (fleet.programs / "valkey-server").symlink_to(new)
        with Cache(fleet.url(), instance="aikernel", local_ttl=0, **PATIENT) as cache:  # type: ignore[arg-type]
            square = cache.cached("thing", operation="square")(lambda n: n * n)
            over = threading.Event()
            answers: list[bool] = []

            def call() -> None:
                while not over.wait(0.005):
                    answers.append(square(len(answers) % 50) == (len(answers) % 50) ** 2)

            calling = threading.Thread(target=call, daemon=True)
            calling.start()
            for pod in [*reversed(fleet.redis), *reversed(fleet.sentinels)]:
                if pod.kind == "redis":
                    assert pod.run("prestop-redis.sh").returncode == 0
                pod.end()
                pod.start(PROFILE="durable")
                fleet.wait()
            over.set()
            calling.join(WITHIN)
            assert all(answers)
            assert len(answers) > 50
        assert {pod.info()["server_name"] for pod in fleet.redis} == {"valkey"}
        assert [read(pod, "kept") for pod in fleet.redis] == [b"1"] * 3
