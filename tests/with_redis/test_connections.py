"""Connections: never shared, never leaked, and silent at the interpreter's exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import redis

import aikcache
from aikcache import Cache
from aikcache.errors import RemoteError
from aikcache.testing import Server, wait_until

from ._workers import PATIENCE, PATIENT, Database, Shop, Spec, in_threads

OpenShop = Callable[[Spec], Shop]


def script(text: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a script of its own, with this very package; it must succeed and say nothing on stderr."""
    path = os.pathsep.join([str(Path(aikcache.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *args],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done


def clients(client: redis.Redis) -> int:
    """Connections that are not the test's own."""
    return len(client.client_list()) - 1


def test_fifty_threads_get_their_own_answers_over_connections_of_their_own(redis_url: str, instance: str) -> None:
    """50 threads at once never see each other's answers, and use no more connections than there are threads."""
    with redis.Redis.from_url(redis_url) as plain, Cache(redis_url, instance=instance, local_ttl=0, **PATIENT) as cache:

        @cache.cached("thing")
        def echo(n: int) -> str:
            return f"the value of {n}" * (n % 7 + 1)

        line = threading.Barrier(50)
        numbers = iter(range(50))
        most: list[int] = []

        def call() -> None:
            mine = next(numbers)
            line.wait(PATIENCE)
            for turn in range(20):
                n = (mine * 7 + turn) % 60
                assert echo(n) == f"the value of {n}" * (n % 7 + 1)
            most.append(clients(plain) if mine == 0 else 0)

        before = clients(plain)
        in_threads(call, 50)
        assert max(most) - before <= 52
        stats = cache.stats()
        assert stats.errors == 0
        assert stats.hits + stats.misses == 50 * 20


def test_close_leaves_no_connection(redis_server: Server, redis_url: str, instance: str) -> None:
    """After `close` the server has no connection of the cache."""
    with redis.Redis.from_url(redis_url) as plain:
        wait_until(lambda: clients(plain) == 0, PATIENCE, "connections of earlier tests")
        cache = Cache(redis_url, instance=instance, local_ttl=0, **PATIENT)
        in_threads(lambda: cache.get_or_load(f"thing:x:{threading.get_ident()}", lambda: 1), 20)
        assert clients(plain) > 0
        cache.close()
        wait_until(lambda: clients(plain) == 0, PATIENCE, "the end of its connections")


def test_a_closed_cache_still_answers(redis_url: str, instance: str, caplog: pytest.LogCaptureFixture) -> None:
    """After `close`, which may be called again, decorated functions run, and nothing is stored or raised."""
    cache = Cache(redis_url, instance=instance, **PATIENT)
    runs = []

    @cache.cached("thing")
    def double(n: int) -> int:
        runs.append(n)
        return 2 * n

    @cache.cached_many("thing", operation="double")
    def doubles(ids: list[int]) -> dict[int, int]:
        return {n: 2 * n for n in ids}

    assert double(1) == double(1) == 2
    assert runs == [1]
    cache.close()
    cache.close()
    assert double(1) == double(1) == 2
    assert doubles([1, 2]) == {1: 2, 2: 4}
    assert runs == [1, 1, 1]
    assert double.peek(1) is None
    assert double.refresh(1) == 2
    assert double.many([1, 2]) == [2, 4]
    double.invalidate(1)
    double.store(5, 1)
    cache.set("thing:x:1", 1)
    assert cache.get("thing:x:1") is None
    assert cache.get_or_load("thing:x:1", lambda: 7) == 7
    cache.clear()
    assert not cache.health().ok
    with pytest.raises(RemoteError):
        cache.ping()
    assert len(caplog.records) <= 2


def test_a_cache_is_a_context_manager(redis_server: Server, redis_url: str, instance: str) -> None:
    """`with Cache(...)` closes at the end of the block, also when it raises."""
    with redis.Redis.from_url(redis_url) as plain:
        cache = Cache(redis_url, instance=instance, **PATIENT)

        def use() -> None:
            with cache as entered:
                entered.ping()
                raise LookupError

        with pytest.raises(LookupError):
            use()
        with pytest.raises(RemoteError):
            cache.ping()
        wait_until(lambda: clients(plain) == 0, PATIENCE, "the end of its connections")


def test_a_cache_makes_no_connection_before_it_is_used(redis_url: str, instance: str) -> None:
    """Making a cache, decorating and asking for statistics opens no connection."""
    with redis.Redis.from_url(redis_url) as plain, Cache(redis_url, instance=instance) as cache:
        wait_until(lambda: clients(plain) == 0, PATIENCE, "connections of earlier tests")
        cache.cached("thing")(lambda_named)
        cache.stats()
        assert clients(plain) == 0


def lambda_named(n: int) -> int:
    return n


def test_a_call_interrupted_while_it_waits_leaves_no_answer_for_the_next(own_server: Server, instance: str) -> None:
    """A signal's exception in the middle of an exchange is raised, and the next call gets its own answer."""

    def wait_for_an_answer(cache: Cache) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        cache.get("thing:x:1")

    class Interrupt(BaseException):
        pass

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    with Cache(own_server.url, instance=instance, local_ttl=0, **PATIENT) as cache:
        cache.set("thing:x:1", "one")
        cache.set("thing:x:2", "two")
        assert cache.get("thing:x:1") == "one"
        before = signal.signal(signal.SIGALRM, interrupt)
        own_server.pause()
        try:
            with pytest.raises(Interrupt):  # also where it comes before the call has begun
                wait_for_an_answer(cache)
        finally:
            own_server.resume()
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert cache.get("thing:x:2") == "two"
        assert cache.get("thing:x:1") == "one"


def test_a_connection_whose_answer_came_too_late_is_not_used_again(own_server: Server, instance: str) -> None:
    """A reply that arrives after the timeout is dropped: the next call gets its own."""
    hasty = {**PATIENT, "timeout": 1.0}
    with (
        Cache(own_server.url, instance=instance, local_ttl=0, breaker_failures=100, **hasty) as cache,
        Cache(own_server.url, instance=instance, local_ttl=0, **PATIENT) as patient,
    ):

        def answered(n: int) -> bool:
            value = cache.get(f"thing:x:{n}", "late")
            assert value in (n, "late")
            return bool(value == n)

        for n in range(5):
            patient.set(f"thing:x:{n}", n)
        for n in range(3):
            own_server.pause()
            try:
                assert cache.get(f"thing:x:{n}", "late") == "late"
            finally:
                own_server.resume()
            with redis.Redis.from_url(own_server.url) as plain:
                plain.ping()
            for m in range(5):
                wait_until(lambda m=m: answered(m), PATIENCE, "an answer in time")  # type: ignore[misc]


FORKING = """
    import os, sys, threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on: forking with threads
    from aikcache import Cache
    cache = Cache(sys.argv[1], instance=sys.argv[2], local_ttl=0, timeout=20, connect_timeout=20)

    @cache.cached("thing")
    def echo(n: int) -> str:
        return f"value {n}"

    def work(first):
        for turn in range(3):
            for n in range(first, first + 60):
                assert echo(n) == f"value {n}", (echo(n), n)

    work(0)
    inside, go_on = threading.Event(), threading.Event()
    def slow():
        inside.set()
        go_on.wait(100)
        return "slow"
    loading = threading.Thread(target=lambda: cache.get_or_load("thing:slow:1", slow))
    loading.start()
    inside.wait()
    children = []
    for i in range(3):
        child = os.fork()
        if not child:
            try:
                work(100 * i)
                many = [threading.Thread(target=work, args=(100 * i,)) for _ in range(4)]
                [t.start() for t in many]
                [t.join() for t in many]
                assert cache.stats().errors == 0, cache.stats()
                cache.invalidate_key("thing:slow:1")  # the parent's load: nobody here leads it
                assert cache.get_or_load("thing:slow:1", lambda: "quick") == "quick"
                cache.close()
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        children.append(child)
    work(1000)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    go_on.set()
    loading.join()
    work(0)
    assert cache.stats().errors == 0, cache.stats()
    print(statuses)
"""


def test_parent_and_children_go_on_after_a_fork(redis_url: str, instance: str) -> None:
    """A process that forks while it uses the cache, even while it loads, shares no connection with its children."""
    assert script(FORKING, redis_url, instance).stdout == "[0, 0, 0]\n"


EXITING = """
    import sys, threading, time
    from aikcache import Cache, cached, configure
    how, url = sys.argv[1:]
    if how == "default":
        configure(url, instance="exiting", timeout=20, connect_timeout=20)

        @cached("thing")
        def get(n: int) -> int:
            return n

        assert [get(n) for n in range(10)] == list(range(10))
    else:
        cache = Cache(url, instance="exiting", timeout=20, connect_timeout=20)
        assert cache.get_or_load("thing:x:1", lambda: [1]) == [1]
        if how == "loading":
            inside = threading.Event()
            def slow():
                inside.set()
                time.sleep(60)
            threading.Thread(target=lambda: cache.get_or_load("thing:x:2", slow), daemon=True).start()
            inside.wait()
        if how == "closed":
            cache.close()
        if how == "raising":
            sys.exit(0)
"""


@pytest.mark.parametrize("how", ["default", "open", "closed", "loading", "raising"])
def test_the_interpreter_exits_silently(how: str, redis_url: str) -> None:
    """A process that ends with a cache open, in whatever state, ends with status 0 and says nothing."""
    script(EXITING, how, redis_url)


def test_a_cache_that_is_dropped_takes_its_connections_with_it(redis_server: Server, redis_url: str) -> None:
    """A process that makes caches and forgets to close them does not gather connections or threads."""
    text = """
        import gc, sys, threading, time
        import redis
        from aikcache import Cache
        plain = redis.Redis.from_url(sys.argv[1])
        for i in range(20):
            cache = Cache(sys.argv[1], instance=f"dropped{i}", lease_wait=0.1, timeout=20, connect_timeout=20)
            assert cache.get_or_load("thing:x:1", lambda: 1) == 1
            del cache
        gc.collect()
        deadline = time.monotonic() + 60
        while len(plain.client_list()) > 5 or threading.active_count() > 5:
            assert time.monotonic() < deadline, (len(plain.client_list()), threading.active_count())
            time.sleep(0.01)
            gc.collect()
        plain.close()
    """
    script(text, redis_url)


def test_idle_connections_are_reused(bare: Spec, database: Database, open_shop: OpenShop) -> None:
    """A thread that calls a thousand times does it over one connection."""
    shop = open_shop(bare)
    client = database.client
    shop.get("tea")
    before = client.info("stats")["total_connections_received"]
    for _ in range(1000):
        shop.get("tea")
    assert client.info("stats")["total_connections_received"] - before <= 1
