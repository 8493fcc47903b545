"""Processes that are forked: each has its own connections and channel, and becomes coherent by itself.

The forking is done in scripts of their own, so that no test process with threads is forked.
"""

from __future__ import annotations

import subprocess
import sys
from tempfile import TemporaryDirectory

import pytest

from aikcache.testing import Server

from ._workers import PATIENCE

PREAMBLE = """
import multiprocessing, os, sys, time
import redis
from aikcache import Cache
from aikcache._coherence import channel
from aikcache.testing import wait_until

channel.SILENCE = 60.0  # a machine that stalls for three seconds is no reason to connect anew, and to say so
url, instance = sys.argv[1:]
client = redis.Redis.from_url(url, decode_responses=True)
cache = Cache(url, instance=instance, timeout=20, connect_timeout=20, lease_wait=120)

@cache.cached("thing", tags=("things",))
def get(name: str) -> str:
    with redis.Redis.from_url(url, decode_responses=True) as database:
        database.incr("db:loads")
        return database.get("db:value")

def becomes(value, within=30):
    wait_until(lambda: get("box") == value, within, value)

def connect():
    get("box")
    cache.get("thing:get:other")  # in a child a local hit needs no Redis, and starts nothing
    wait_until(lambda: cache.stats().coherent, 30, "the channel")

def report(name):
    client_of_child = redis.Redis.from_url(url)
    client_of_child.rpush("reports", name)
    client_of_child.close()

def fork(work):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child

def ended_well(child):
    return os.waitpid(child, 0)[1] == 0
"""


def run(script: str, url: str, instance: str) -> None:
    """Run a script that asserts for itself, and says nothing on stderr."""
    command = [sys.executable, "-W", "error", "-c", PREAMBLE + script, url, instance]
    done = subprocess.run(command, capture_output=True, text=True, timeout=15 * PATIENCE, check=False)
    assert (done.stderr, done.returncode) == ("", 0)


def test_children_of_a_process_that_used_the_cache_become_coherent(redis_url: str, instance: str) -> None:
    """As under gunicorn with preloading: the parent used the cache, and each worker has a channel of its own."""
    run(
        """
client.set("db:value", "old")
connect()
assert get("box") == "old"

def work():
    assert get("box") == "old"
    cache.get("thing:get:other")  # something that needs Redis
    wait_until(lambda: cache.stats().coherent, 30, "the channel")
    assert get("box") == "old"
    report("ready")
    becomes("new")
    cache.invalidate_tags("done:none")
    assert cache.stats().pending_invalidations == 0

children = [fork(work) for _ in range(4)]
wait_until(lambda: client.llen("reports") == 4, 30, "the children")
client.set("db:value", "new")
cache.invalidate_tags("things")
assert all([ended_well(child) for child in children])
assert get("box") == "new"
wait_until(lambda: cache.stats().coherent, 30, "the channel")
assert int(client.get("db:loads")) == 2
""",
        redis_url,
        instance,
    )


def test_invalidations_of_a_child_reach_its_parent_and_siblings(redis_url: str, instance: str) -> None:
    """A child's invalidation markers are its own, so its parent applies them."""
    run(
        """
client.set("db:value", "old")
connect()
assert get("box") == "old"

def listen():
    connect()
    report("ready")
    becomes("new")

def write():
    assert get("box") == "old"
    wait_until(lambda: client_in_child.llen("reports") == 1, 30, "the listener")
    client_in_child.set("db:value", "new")
    cache.invalidate_key("thing:get:box")
    assert get("box") == "new"

client_in_child = redis.Redis.from_url(url)
children = [fork(listen), fork(write)]
becomes("new")
assert all([ended_well(child) for child in children])
""",
        redis_url,
        instance,
    )


def test_a_child_without_a_channel_is_bounded_by_max_staleness(redis_url: str, instance: str) -> None:
    """A child that only ever hits what its parent held sees another's invalidation within `max_staleness`."""
    run(
        """
cache.close()
cache = Cache(url, instance=instance, max_staleness=0.4, timeout=20, connect_timeout=20, lease_wait=120)

@cache.cached("thing", tags=("things",))
def get(name: str) -> str:
    with redis.Redis.from_url(url, decode_responses=True) as database:
        return database.get("db:value")

client.set("db:value", "old")
connect()

def work():
    assert get("box") == "old"
    report("ready")
    becomes("new")

child = fork(work)
wait_until(lambda: client.llen("reports") == 1, 30, "the child")
client.set("db:value", "new")
cache.clear()
assert ended_well(child)
""",
        redis_url,
        instance,
    )


def test_a_fork_in_the_middle_of_everything_hangs_nothing(redis_url: str, instance: str) -> None:
    """Children forked while other threads load, fill and invalidate can do the same themselves."""
    run(
        """
import threading
client.set("db:value", "old")
connect()
stop = threading.Event()

@cache.cached("busy", tags=("busy:{n}",))
def busy(n: int) -> int:
    return n

def churn(offset):
    n = offset
    while not stop.is_set():
        n += 1
        busy(n % 50)
        if n % 5 == 0:
            busy.invalidate(n % 50)
        if n % 7 == 0:
            cache.invalidate_tags(f"busy:{n % 50}")

threads = [threading.Thread(target=churn, args=(i,)) for i in range(4)]
for thread in threads:
    thread.start()

def work():
    for n in range(50):
        assert busy(n) == n
        busy.invalidate(n)
    assert get("box") == "old"
    wait_until(lambda: cache.stats().coherent, 30, "the channel")

children = []
for _ in range(10):
    children.append(fork(work))
deadline = time.monotonic() + 240
left = list(children)
while left and time.monotonic() < deadline:
    done, status = os.waitpid(left[0], os.WNOHANG)
    if done:
        assert status == 0
        left.pop(0)
    else:
        time.sleep(0.01)
stop.set()
for thread in threads:
    thread.join()
for child in left:
    os.kill(child, 9)
assert not left, "a child hangs"
""",
        redis_url,
        instance,
    )


def test_a_child_does_not_keep_its_parents_channel_open(redis_url: str, instance: str) -> None:
    """When a parent dies and its children live, the server sees its connections end, and writes to them no more."""
    run(
        """
cache.close()

def channels():
    return [found for found in client.client_list() if found["name"] == "aikcache-channel"]

def parent():
    global cache
    cache = Cache(url, instance=instance, timeout=20, connect_timeout=20)
    cache.get("thing:get:other")
    wait_until(lambda: cache.stats().coherent, 30, "the channel")

    def child():
        report("alive")
        redis.Redis.from_url(url, socket_timeout=90).blpop(["go"], timeout=60)
        report("done")

    fork(child)
    waiting = redis.Redis.from_url(url)
    wait_until(lambda: waiting.llen("reports") == 1, 30, "the child")
    assert len([found for found in waiting.client_list() if found["name"] == "aikcache-channel"]) == 1

assert ended_well(fork(parent))
wait_until(lambda: not channels(), 30, "the end of the channel")
assert client.llen("reports") == 1
client.rpush("go", "1")
wait_until(lambda: client.llen("reports") == 2, 30, "the child's end")
""",
        redis_url,
        instance,
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_by_any_method(method: str, redis_url: str, instance: str) -> None:
    """Processes of multiprocessing, however started, share what is cached and receive invalidations."""
    script = f"""
import multiprocessing, sys
from tests.with_redis import _forked
if __name__ == "__main__":
    _forked.main({method!r}, {redis_url!r}, {instance!r})
"""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=6 * PATIENCE, check=False)
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_fork_of_a_cache_that_was_not_used_is_nothing_special(redis_url: str, instance: str) -> None:
    """A cache made and not used before the fork connects in each child."""
    run(
        """
client.set("db:value", "old")

def work():
    assert get("box") == "old"
    wait_until(lambda: cache.stats().coherent, 30, "the channel")

assert all([ended_well(child) for child in [fork(work) for _ in range(3)]])
assert int(client.get("db:loads")) == 1
assert get("box") == "old"
""",
        redis_url,
        instance,
    )


def test_a_child_forked_during_a_groups_invalidation_serves_nothing_of_it(redis_url: str, instance: str) -> None:
    """A thread that the child lacks was between the new table and the wrapper's: what it invalidated is gone."""
    run(
        """
import threading
from aikcache._local.region import Region

inside, go_on, real = threading.Event(), threading.Event(), Region._update_readers

def update(region, name, value):
    if threading.current_thread() is ending and region.name == "thing:get":
        inside.set()
        assert go_on.wait(30)
    real(region, name, value)

client.set("db:value", "old")
connect()
assert get("box") == "old"
ending = threading.Thread(target=lambda: cache.invalidate("thing:get"))
Region._update_readers = update
client.set("db:value", "new")
ending.start()
assert inside.wait(30)

def work():
    cache.invalidate("thing:get")
    assert get("box") == "new"

assert ended_well(fork(work))
go_on.set()
ending.join()
assert get("box") == "new"
""",
        redis_url,
        instance,
    )


def test_a_child_inherits_what_is_pending(own_server: Server, instance: str) -> None:
    """A daemon's child sends its parent's pending invalidations, and serves nothing that they cover."""
    run(
        """
import logging, signal
logging.disable()
server = client.info("server")["process_id"]
quick = Cache(
    url, instance=instance, timeout=4, connect_timeout=20, breaker_failures=1, breaker_reset=3600, local_ttl=0
)
value = ["old"]
read = quick.cached("read", operation="read", tags=("things",))(lambda name: value[0])
assert read("box") == "old"
wait_until(lambda: quick.stats().coherent, 30, "the channel")
value[0] = "new"
os.kill(server, signal.SIGSTOP)
try:
    quick.get("other:get:thing")  # from now on nothing is sent that the server would carry out later
    quick.invalidate_tags("things")
    assert quick.stats().pending_invalidations > 0

    def daemon():
        os.kill(server, signal.SIGCONT)
        wait_until(lambda: quick.ping() is None, 30, "the server")
        assert read("box") == "new"
        wait_until(lambda: quick.stats().pending_invalidations == 0, 30, "the replay")
        assert read("box") == "new"

    assert ended_well(fork(daemon))
finally:
    os.kill(server, signal.SIGCONT)
""",
        own_server.url,
        instance,
    )


def test_a_child_leaves_to_its_parent_what_that_is_sweeping(redis_url: str, instance: str) -> None:
    """Workers forked during a background sweep do not each sweep the keyspace; what had not begun they do."""
    run(
        """
import threading
from aikcache._remote.store import RedisStore

client.set("db:value", "old")
connect()
scan, at, go, parent = RedisStore.scan, threading.Event(), threading.Event(), os.getpid()

def slow(self, part, cursor, pattern, count):
    if os.getpid() == parent:
        at.set()
        assert go.wait(30)
    return scan(self, part, cursor, pattern, count)

def pending_in_child(expected):
    assert running.done and cache.engine.remote.sweeps == 0
    assert [name for _, name in cache.engine.recovery.pending] == expected

RedisStore.scan = slow
running = cache.invalidate("thing:get:r*", background=True)
assert at.wait(30)
assert ended_well(fork(lambda: pending_in_child([])))
waiting = cache.invalidate("thing:get:w*", background=True)
assert ended_well(fork(lambda: pending_in_child(["thing:get:w*"])))
go.set()
assert running.wait(30) and waiting.wait(30) and running.error is None is waiting.error
""",
        redis_url,
        instance,
    )


LATER = """
import sys
from dataclasses import dataclass
from aikcache import Cache

@dataclass
class Row:
    id: int
    name: str

cache = Cache(sys.argv[1] or None, instance="later")

@cache.cached("a", tags=("t:{i}",), ttl=60, stale_ttl=60)
def pair(i: str) -> tuple[str, int]: return i, 1
@cache.cached("a")
def row(i: str) -> Row: return Row(1, i)
@cache.cached("a")
def anything(i: str): return {1: b"x" * 50_000}
@cache.cached_many("a")
def many(ids: list[int]) -> dict[int, Row]: return {i: Row(i, "a") for i in ids}

before = set(sys.modules)
for i in ("a", "b" * 99):
    for function in (pair, row, anything):
        assert function(i) == function(i)
        function.refresh(i)
many([1, 2])
cache.set("a:b:c", (1,))
assert cache.get("a:b:c") == (1,)
with cache.deferred():
    cache.invalidate_tags("t:a")
cache.invalidate("a:pair:*b")
cache.invalidate("a")
cache.stats(), cache.wait_coherent(1), cache.ping()
if sys.argv[1]:  # they load what reaches Redis, which a local cache does without
    cache.health(), cache.fleet()
cache.clear()
print(sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("where", ["", "tcp", "embedded"])
def test_what_calls_need_is_loaded_with_the_cache(where: str, tcp_server: Server) -> None:
    """A child that is forked while another thread imports a module waits for ever when it imports that module too."""
    with TemporaryDirectory(prefix="ak", dir="/tmp") as directory:
        url = {"": "", "tcp": tcp_server.url, "embedded": f"embedded://{directory}/e"}[where]
        command = [sys.executable, "-c", LATER, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=15 * PATIENCE, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
