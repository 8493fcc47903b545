"""Values that have aged, with Redis: one process of the cluster renews them, and none serves what was invalidated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from aikcache import Cache
from aikcache._engine import refresh
from aikcache._engine.single_flight import Flight
from aikcache.testing import Server, wait_until

from ._staging import Ahead, Pause, kill_channel
from ._workers import PATIENCE, PATIENT, Background, Database, Shop, Spec, Worker, connect, run, shop

pytestmark = pytest.mark.usefixtures("unhurried")

SHORT, LONG, ALWAYS = 100.0, 3600.0, 36_000.0  # all longer than a test takes on any machine
LOCAL = pytest.mark.parametrize("local_ttl", [ALWAYS, 0], ids=["local", "remote only"])


def ttl(value: str) -> float:
    """What is old is stale soon; what renews it is not, so that loads can be counted."""
    return SHORT if value.startswith("old") else LONG


class Aging(Database):
    """A database and a clock that the test moves, so a slow machine changes nothing."""

    def __init__(self, url: str, realm: str, clock: Ahead) -> None:
        super().__init__(url, realm)
        self._clock = clock

    def age(self, seconds: float, *keys: str) -> None:
        """For these keys in Redis, and for all that the caches of this process hold."""
        for key in set(keys):
            self.client.pexpire(key, int(self.client.pttl(key) - seconds * 1000))
        self._clock.advance(seconds)

    def get_stale(self, name: str, *functions: Any) -> None:
        """Have each hold the old value, and let it become stale; there is a new one then."""
        self.put(name, "old")
        for function in functions:
            assert function(name) == "old"
        self.age(SHORT + 1, *(function.key(name) for function in functions))
        assert not any(function.peek(name) for function in functions)
        self.put(name, "new")


@pytest.fixture
def database(redis_url: str, instance: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aging]:
    with closing(Aging(redis_url, instance, Ahead(monkeypatch))) as database:
        yield database


@pytest.fixture
def spec(spec: Spec) -> Spec:
    """What is held is trusted, and kept, whatever becomes of time."""
    return spec.but(max_staleness=ALWAYS, local_ttl=ALWAYS)


def aged(shop: Shop, options: dict[str, Any]) -> Any:
    """A function of the database in a shop, cached with `options`, which fails while `break_down` says so."""
    if "aged" not in shop.more:
        database = shop.database

        @shop.cache.cached("thing", **{"ttl": ttl, "tags": ("thing:{name}", "things"), **options})
        def aged(name: str) -> str:
            value = database.load(name)
            if database.client.exists(database.at("broken")):
                raise LookupError("the database is away")
            return value

        shop.more["aged"] = aged
    return shop.more["aged"]


def break_down(database: Database, broken: bool = True) -> None:
    if broken:
        database.client.set(database.at("broken"), "1")
    else:
        database.client.delete(database.at("broken"))


Open = Callable[..., Any]


@pytest.fixture
def open_aged(spec: Spec, open_shop: Callable[[Spec], Shop]) -> Open:
    """Opens a cache of its own, connected, and gives its aged function and the cache."""

    def open_one(settings: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Cache]:
        shop = open_shop(spec.but(**(settings or {})))
        connect(shop.cache)
        return aged(shop, options), shop.cache

    return open_one


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed, or is someone else's, is tried again sooner, so that the test waits less."""
    monkeypatch.setattr(refresh, "AGAIN", 0.1)


def fails(function: Any, name: str) -> bool:
    try:
        function(name)
    except LookupError:
        return True
    return False


class TestOneRenews:
    @pytest.mark.usefixtures("soon")
    @LOCAL
    def test_two_caches_at_once(self, open_aged: Open, database: Aging, local_ttl: float) -> None:
        """While one cache renews a value, the other answers with the stale one and loads nothing."""
        (f, first), (g, second) = (open_aged({"local_ttl": local_ttl}, stale_ttl=LONG) for _ in range(2))
        database.get_stale("tea", f, g)
        database.hold("tea")
        assert f("tea") == "old"
        database.wait_held("tea")
        assert [f("tea"), g("tea"), g("tea")] == ["old"] * 3
        database.let_go("tea")
        wait_until(lambda: f("tea") == g("tea") == "new", PATIENCE, "the renewal")
        assert database.loads("tea") == 2
        assert first.stats().stale >= 2
        assert second.stats().stale >= 2
        assert first.stats().loads + second.stats().loads == 2

    @pytest.mark.usefixtures("soon")
    def test_a_copy_follows_what_another_has_renewed(self, open_aged: Open, database: Aging) -> None:
        """A cache whose copy is stale takes the value that another has renewed, instead of loading it again."""
        (f, _), (g, second) = open_aged(stale_ttl=LONG), open_aged(stale_ttl=LONG)
        database.get_stale("tea", f, g)
        f("tea")
        wait_until(lambda: f.peek("tea") == "new", PATIENCE, "the renewal")
        assert g("tea") == "old"
        wait_until(lambda: g("tea") == "new", PATIENCE, "the copy to follow")
        assert database.loads("tea") == 2
        assert second.stats().loads == 0

    def test_eight_processes(self, spec: Spec, workers: list[Worker], database: Aging) -> None:
        """Eight processes that hold a stale value load it once more, together."""
        options = {"stale_ttl": LONG}
        database.put("tea", "old")
        for opened in [worker.start(open_ahead, spec, options) for worker in workers]:
            opened.result()
        started = [worker.start(run, spec, call, options, "tea") for worker in workers]
        assert [pending.result() for pending in started] == ["old"] * 8
        database.age(SHORT + 1, workers[0].run(run, spec, key_of, options, "tea"))
        for worker in workers:
            worker.run(run, spec, advance, SHORT + 1)
        loads = database.loads("tea")
        database.put("tea", "new")
        seen = [pending.result() for pending in [w.start(run, spec, call_until_new, options, "tea") for w in workers]]
        assert {value for values in seen for value in values} == {"old", "new"}
        assert database.loads("tea") == loads + 1

    def test_early_refresh(self, open_aged: Open, database: Aging) -> None:
        """A value that two caches hold is renewed before it expires, by one of them, and no call gets a stale one."""
        options = {"early_refresh": 100, "ttl": lambda value: 2 * LONG if value == "old" else 10 * LONG}
        (f, first), (g, second) = open_aged(**options), open_aged(**options)
        database.put("tea", "old")
        database.hold("tea")
        slow = Background(f, "tea")
        database.wait_held("tea")
        database.age(LONG / 100)  # a load worth renewing early: due when half of the ttl is over
        database.let_go("tea")
        assert slow.result() == g("tea") == "old"
        database.put("tea", "new")
        database.age(LONG + LONG / 2, f.key("tea"))
        wait_until(lambda: f("tea") == g("tea") == "new", PATIENCE, "the renewal")
        assert database.loads("tea") == 2
        assert (first.stats().stale, second.stats().stale) == (0, 0)
        assert sum(cache.stats().operations["thing:aged"].misses for cache in (first, second)) == 1


class TestErrors:
    @pytest.mark.usefixtures("soon")
    @LOCAL
    def test_a_failing_function_is_answered_for(self, open_aged: Open, database: Aging, local_ttl: float) -> None:
        """While the function fails, the stale value answers, also where only Redis has it, marked in the statistics."""
        (f, first), (g, second) = (open_aged({"local_ttl": local_ttl}, error_ttl=LONG) for _ in range(2))
        database.get_stale("tea", f)
        break_down(database)
        assert [f("tea"), g("tea"), f("tea"), g("tea")] == ["old"] * 4
        assert (first.stats().stale, second.stats().stale) == (2, 2)
        break_down(database, False)
        wait_until(lambda: f("tea") == g("tea") == "new", PATIENCE, "the function to be tried again")

    def test_after_error_ttl_the_exception_comes_out(self, open_aged: Open, database: Aging) -> None:
        """A function that fails for longer than `error_ttl` is not hidden any more."""
        f, cache = open_aged(error_ttl=LONG)
        database.get_stale("tea", f)
        break_down(database)
        assert f("tea") == "old"
        database.age(LONG, f.key("tea"))
        assert fails(f, "tea")
        assert cache.stats().stale == 1
        assert fails(f, "tea")

    @pytest.mark.usefixtures("soon")
    @LOCAL
    def test_a_database_that_is_down_for_a_while(self, open_aged: Open, database: Aging, local_ttl: float) -> None:
        """For many rests of a failing key every call is answered and counted as stale; a load is tried once a rest."""
        f, cache = open_aged({"local_ttl": local_ttl}, error_ttl=LONG)
        database.get_stale("tea", f)
        break_down(database)
        calls, began = 0, time.monotonic()
        while database.loads("tea") <= 15:
            assert f("tea") == "old"
            calls += 1
            assert time.monotonic() < began + PATIENCE
        assert (time.monotonic() - began) / refresh.AGAIN + 1 >= 15
        assert cache.stats().stale == calls >= 15
        break_down(database, False)
        wait_until(lambda: f("tea") == "new", PATIENCE, "the function to be tried again")

    @LOCAL
    @pytest.mark.parametrize("invalidated", [False, True])
    def test_a_channel_that_was_cut_during_a_failing_load(
        self, open_aged: Open, database: Aging, spec: Spec, local_ttl: float, invalidated: bool
    ) -> None:
        """Reconnecting drops all that is held and under way; what was not invalidated meanwhile still answers."""
        f, cache = open_aged({"local_ttl": local_ttl}, error_ttl=LONG)
        _, other = open_aged()
        database.get_stale("tea", f)
        break_down(database)
        database.hold("tea")
        call = Background(f, "tea")
        database.wait_held("tea")
        if invalidated:
            other.invalidate_key(f.key("tea"))
        connects = kill_channel(cache, spec.url)
        wait_until(
            lambda: cache.stats().channel_connects > connects and cache.stats().coherent, PATIENCE, "the channel"
        )
        database.let_go("tea")
        if invalidated:
            with pytest.raises(LookupError):
                call.result()
        else:
            assert call.result() == "old"
            assert cache.stats().stale == 1

    def test_waiters_count_as_served_stale_too(
        self, open_aged: Open, database: Aging, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Threads that share one question to Redis, and its stale answer, are each counted as stale."""
        f, cache = open_aged({"local_ttl": 0}, error_ttl=LONG)
        database.get_stale("tea", f)
        break_down(database)
        waiting: list[Flight] = []
        landed = Flight.wait

        def wait(flight: Flight, seconds: float) -> bool:
            waiting.append(flight)
            return landed(flight, seconds)

        monkeypatch.setattr(Flight, "wait", wait)
        monkeypatch.setattr(refresh, "AGAIN", LONG)
        for counted in (4, 8):  # the function fails; then it rests
            held = Pause(monkeypatch, cache.engine.remote_tier, "parse")
            calls = [Background(f, "tea") for _ in range(4)]
            held.wait()
            wait_until(lambda counted=counted: len(waiting) == counted * 3 // 4, PATIENCE, "the others")  # type: ignore[misc]
            held.let_go()
            assert [call.result() for call in calls] == ["old"] * 4
            assert (cache.stats().stale, database.loads("tea")) == (counted, 2)

    def test_a_load_that_takes_too_long_elsewhere(self, open_aged: Open, database: Aging) -> None:
        """With `load_timeout` the stale value answers while another cache loads, and its result is kept."""
        (f, _), (g, second) = (open_aged(error_ttl=LONG, load_timeout=0.05) for _ in range(2))
        database.get_stale("tea", f, g)
        database.hold("tea")
        assert f("tea") == "old"
        database.wait_held("tea")
        assert [f("tea"), g("tea")] == ["old", "old"]
        database.let_go("tea")
        wait_until(lambda: f.peek("tea") == g.peek("tea") == "new", PATIENCE, "the load")
        assert database.loads("tea") == 2
        assert (second.stats().stale, second.stats().loads) == (1, 0)


ENDINGS: dict[str, Callable[[Cache, Any], object]] = {
    "key": lambda cache, f: f.invalidate("tea"),
    "tag": lambda cache, f: cache.invalidate_tags("thing:tea"),
    "prefix": lambda cache, f: cache.invalidate("thing"),
    "glob": lambda cache, f: cache.invalidate("thing:*:te*"),
    "clear": lambda cache, f: cache.clear(),
}


@pytest.fixture(params=list(ENDINGS.values()), ids=list(ENDINGS))
def ending(request: pytest.FixtureRequest) -> Callable[[Cache, Any], object]:
    """Each way to invalidate `aged("tea")`."""
    how: Callable[[Cache, Any], object] = request.param
    return how


class TestInvalidated:
    @LOCAL
    def test_an_invalidated_value_is_served_stale_by_no_cache(
        self, open_aged: Open, database: Aging, ending: Callable[[Cache, Any], object], local_ttl: float
    ) -> None:
        """What one cache invalidates answers no call of any, also when the function fails."""
        options = {"stale_ttl": 1, "error_ttl": LONG}
        (f, first), (g, second) = (open_aged({"local_ttl": local_ttl}, **options) for _ in range(2))
        database.get_stale("tea", f, g)
        break_down(database)
        ending(second, g)
        assert fails(g, "tea")
        wait_until(lambda: fails(f, "tea"), PATIENCE, "the push")
        found = first.stats().stale, second.stats().stale
        assert fails(f, "tea")
        assert fails(g, "tea")
        assert (first.stats().stale, second.stats().stale) == found
        break_down(database, False)
        assert f("tea") == g("tea") == "new"

    @LOCAL
    @pytest.mark.parametrize("ending", [ENDINGS["key"], ENDINGS["tag"]], ids=["key", "tag"])
    def test_while_a_load_that_fails_is_under_way(
        self, open_aged: Open, database: Aging, ending: Callable[[Cache, Any], object], local_ttl: float
    ) -> None:
        """What another cache invalidates during a load is no answer when that load fails."""
        (f, first), (g, second) = (open_aged({"local_ttl": local_ttl}, error_ttl=LONG) for _ in range(2))
        database.get_stale("tea", f, g)
        break_down(database)
        database.hold("tea")
        loading = Background(f, "tea")
        database.wait_held("tea")
        ending(second, g)
        wait_until(lambda: len(first.engine.flights) == 0, PATIENCE, "the push")
        database.let_go("tea")
        with pytest.raises(LookupError):
            loading.result()

    @pytest.mark.usefixtures("soon")
    @LOCAL
    @pytest.mark.parametrize("ending", [ENDINGS["key"], ENDINGS["tag"]], ids=["key", "tag"])
    def test_while_it_is_renewed(
        self, open_aged: Open, database: Aging, ending: Callable[[Cache, Any], object], local_ttl: float
    ) -> None:
        """What a renewal read before another cache's invalidation is neither stored nor served."""
        (f, first), (g, second) = (open_aged({"local_ttl": local_ttl}, stale_ttl=LONG) for _ in range(2))
        database.get_stale("tea", f, g)
        database.put("tea", "in between")
        database.hold("tea")
        assert f("tea") == "old"
        database.wait_held("tea")
        database.put("tea", "new")
        ending(second, g)
        database.let_go("tea")
        assert g("tea") == "new"
        wait_until(lambda: first.stats().loads == (2 if database.loads("tea") == 3 else 1), PATIENCE, "the renewal")
        seen: set[str | None] = set()

        def renewed() -> bool:
            # Until it receives the push, the first cache may serve and store what it loaded under the stamp that has
            # ended: that is nothing to the other, whose next call stores it anew.
            answers = [f("tea"), g("tea"), f.peek("tea"), g.peek("tea")]
            seen.update(answers[1::2])
            return answers == ["new"] * 4

        wait_until(renewed, PATIENCE, "the push")
        assert "in between" not in seen


@dataclass
class Before:
    name: str


@dataclass
class After:
    name: str
    price: int


class TestOtherWays:
    @pytest.mark.parametrize("window", [{"stale_ttl": LONG}, {"error_ttl": LONG}], ids=str)
    def test_another_schema_is_a_miss(
        self, spec: Spec, open_shop: Callable[[Spec], Shop], database: Aging, window: dict[str, Any]
    ) -> None:
        """A stale value of a class as it was before a deployment is neither served nor fallen back to."""
        old, new = open_shop(spec), open_shop(spec)
        broken = True

        @old.cache.cached("thing", SHORT, operation="one", type=Before, **window)
        def before(name: str) -> Any:
            return Before(name)

        @new.cache.cached("thing", LONG, operation="one", type=After, **window)
        def after(name: str) -> Any:
            if broken:
                raise LookupError("away")
            return After(name, 3)

        assert before("tea") == Before("tea")
        database.age(SHORT + 1, before.key("tea"))
        assert fails(after, "tea")
        broken = False
        assert after("tea") == After("tea", 3)
        assert new.cache.stats().stale == 0

    @LOCAL
    def test_peek_gives_only_what_is_fresh(self, open_aged: Open, database: Aging, local_ttl: float) -> None:
        """`.peek` and `get` give nothing stale, from either tier, and have nothing renewed."""
        (f, first), (g, second) = (open_aged({"local_ttl": local_ttl}, stale_ttl=LONG) for _ in range(2))
        database.get_stale("tea", f)
        for function, cache in ((f, first), (g, second)):
            assert function.peek("tea") is None
            assert cache.get(function.key("tea")) is None
            assert cache.engine.background._threads == 0
            assert cache.stats().stale == 0
        assert f("tea") == "old"

    @pytest.mark.usefixtures("soon")
    @LOCAL
    def test_many_answers_stale_and_renews(self, open_aged: Open, database: Aging, local_ttl: float) -> None:
        """`.many` answers what is stale at once, from either tier, and has it renewed."""
        (f, _), (g, second) = (open_aged({"local_ttl": local_ttl}, stale_ttl=LONG) for _ in range(2))
        database.get_stale("tea", f)
        database.put("milk", "new")
        assert g.many(["tea", "milk"]) == ["old", "new"]
        assert second.stats().stale >= 1
        wait_until(lambda: g.many(["tea", "milk"]) == ["new", "new"], PATIENCE, "the renewal")
        assert (database.loads("tea"), database.loads("milk")) == (2, 1)

    @pytest.mark.parametrize("many", [True, False])
    def test_a_renewal_keeps_its_lease_when_the_call_that_began_it_ends(
        self, open_aged: Open, database: Aging, many: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the call gives back at its end is its own: the renewal in the background still stores its result."""
        (f, _), (g, second) = (open_aged({"local_ttl": 0}, stale_ttl=LONG) for _ in range(2))
        database.get_stale("tea", f)
        database.hold("tea")
        soon = second.engine.refresher.soon

        def soon_and_begun(*call: Any) -> None:
            soon(*call)
            database.wait_held("tea")

        monkeypatch.setattr(second.engine.refresher, "soon", soon_and_begun)
        assert (g.many(["tea"]) if many else [g("tea")]) == ["old"]
        database.let_go("tea")
        wait_until(lambda: g.peek("tea") == "new", PATIENCE, "the renewal")
        assert database.loads("tea") == 2

    def test_cached_many_keeps_to_its_own_ttl(
        self, spec: Spec, open_shop: Callable[[Spec], Shop], database: Aging
    ) -> None:
        """A batch function, which has no `stale_ttl`, loads what Redis holds stale."""
        one, many = open_shop(spec), open_shop(spec)
        f = aged(one, {"stale_ttl": LONG})

        @many.cache.cached_many("thing", LONG, operation="aged")
        def all_of(names: list[str]) -> dict[str, str]:
            return {name: many.database.load(name) for name in names}

        database.get_stale("tea", f)
        assert all_of(["tea"]) == {"tea": "new"}
        assert database.loads("tea") == 2

    def test_explain_tells_the_stages(self, open_aged: Open, database: Aging) -> None:
        """`.explain` says of each tier whether its value is fresh, and where a call would be answered from."""
        (f, _), (g, _), (h, _) = open_aged(stale_ttl=LONG), open_aged(stale_ttl=LONG), open_aged(error_ttl=LONG)
        database.put("tea", "new")
        f("tea")
        assert (f.explain("tea")["remote"]["fresh"], g.explain("tea")["answer"]) == (True, "remote")
        assert 0 < g.explain("tea")["remote"]["seconds_left"] <= LONG
        f.invalidate("tea")
        database.get_stale("tea", f)
        loads = database.loads("tea")
        found = f.explain("tea")
        assert (found["local"]["fresh"], found["remote"]["fresh"], found["answer"]) == (False, False, "local")
        assert found["remote"]["seconds_left"] <= 0
        assert [x.explain("tea")["answer"] for x in (g, h)] == ["remote", "load"]
        assert database.loads("tea") == loads

    def test_a_shared_object_stays_the_same(self, open_aged: Open, database: Aging) -> None:
        """With `share` every caller gets the same object while it is stale, and the new one afterwards."""
        f, cache = open_aged(share=True, stale_ttl=LONG)
        database.get_stale("tea", f)
        database.hold("tea")
        first = f("tea")
        assert f("tea") is first
        database.wait_held("tea")
        database.let_go("tea")
        wait_until(lambda: f("tea") == "new", PATIENCE, "the renewal")
        assert f("tea") is f("tea")
        assert cache.stats().loads == 2


class TestRedisAway:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Ahead:
        monkeypatch.setattr(refresh, "AGAIN", LONG)
        return Ahead(monkeypatch)

    @pytest.fixture
    def cache(self, own_server: Server, clock: Ahead, instance: str) -> Iterator[Cache]:
        settings: dict[str, Any] = {**PATIENT, "max_staleness": ALWAYS, "local_ttl": ALWAYS}
        with Cache(own_server.url, instance=instance, **settings) as cache:
            connect(cache)
            yield cache

    @pytest.mark.parametrize("window", [{"stale_ttl": LONG}, {"error_ttl": LONG}], ids=str)
    def test_a_stale_value_still_answers(
        self, cache: Cache, own_server: Server, clock: Ahead, window: dict[str, Any]
    ) -> None:
        """With Redis gone and the function failing, what is held here answers while it is stale."""
        runs: list[int] = []

        @cache.cached("thing", SHORT, **window)
        def f() -> int:
            runs.append(1)
            if len(runs) > 1:
                raise LookupError("away")
            return 1

        assert f() == 1
        own_server.kill()
        clock.advance(SHORT + 1)
        assert [f() for _ in range(20)] == [1] * 20
        assert cache.stats().stale == 20
        assert len(runs) <= 2

    def test_a_working_function_answers_itself(self, cache: Cache, own_server: Server, clock: Ahead) -> None:
        """With Redis gone, a value in its `error_ttl` is loaded anew where the function works."""
        runs: list[int] = []

        @cache.cached("thing", lambda run: SHORT if run == 1 else LONG, error_ttl=LONG, load_timeout=PATIENCE)
        def f() -> int:
            runs.append(1)
            return len(runs)

        assert f() == 1
        own_server.kill()
        clock.advance(SHORT + 1)
        assert [f(), f()] == [2, 2]
        assert cache.stats().stale == 0


# What the other processes run


def call(shop: Shop, options: dict[str, Any], name: str) -> str:
    value: str = aged(shop, options)(name)
    return value


def open_ahead(spec: Spec, options: dict[str, Any]) -> None:
    """A shop whose clock `advance` moves on."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Ahead(patch)
        shop(spec).more["clock"] = clock
        aged(shop(spec), options)


def advance(shop: Shop, seconds: float) -> None:
    shop.more["clock"].advance(seconds)


def key_of(shop: Shop, options: dict[str, Any], name: str) -> str:
    key: str = aged(shop, options).key(name)
    return key


def call_until_new(shop: Shop, options: dict[str, Any], name: str) -> list[str]:
    """All that was answered until the new value came."""
    seen: list[str] = []

    def new() -> bool:
        seen.append(call(shop, options, name))
        return seen[-1] == "new"

    wait_until(new, PATIENCE, "the renewal")
    return seen
