"""The compiled wrapper: it answers as the generated one does, passes for a function, and breaks at nothing."""

from __future__ import annotations

import copy
import functools
import gc
import importlib.util
import inspect
import os
import pickle
import pydoc
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
import types
import weakref
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest

from aikcache import Cache
from aikcache._compiled import WHY_NOT, fast, locked
from aikcache._local.entry import Entry
from aikcache.testing import FakeClock

from . import _oracle

PATIENCE = 60.0
compiled = pytest.mark.skipif(fast is None, reason=f"the extension is not in: {WHY_NOT}")


@pytest.fixture
def cache() -> Cache:
    return Cache()


@Cache().cached("p")
def named(a: int, b: str = "x") -> str:
    """Says what it does."""
    return f"{a} {b}"


def is_compiled(function: object) -> bool:
    return fast is not None and type(function) is fast.Wrapper


def pure(code: str, **environ: str) -> str:
    """What other settings of the environment print."""
    found = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environ, capture_output=True, text=True, timeout=PATIENCE
    )
    return found.stdout.strip() or found.stderr


class TestPresence:
    def test_the_extension_is_loaded_where_it_was_built(self) -> None:
        """With a compiler and Python's headers the extension is built, unless it is switched off."""
        header = Path(sysconfig.get_path("include"), "Python.h")
        here = "AIKCACHE_PURE" not in os.environ and sys.platform == "linux" and locked()
        if shutil.which("cc") and header.exists() and here:
            assert WHY_NOT == ""
            assert is_compiled(named)

    def test_it_can_be_switched_off(self) -> None:
        """`AIKCACHE_PURE=1` leaves the extension out, and the reason is shown."""
        code = "from aikcache import _compiled as c; print(c.fast, c.WHY_NOT)"
        assert pure(code, AIKCACHE_PURE="1") == "None AIKCACHE_PURE is set"

    def test_statistics_and_doctor_say_whether_it_is_in(self) -> None:
        """`stats().compiled`, and a finding with the reason."""
        code = (
            "from aikcache import Cache, doctor\n"
            "found = doctor.examine('redis://127.0.0.1:1')\n"
            "print(Cache().stats().compiled, [f.evidence for f in found if f.check == 'extension'])"
        )
        assert pure(code, AIKCACHE_PURE="1") == "False ['local hits are answered in Python: AIKCACHE_PURE is set']"
        assert Cache().stats().compiled == (fast is not None)
        if fast is not None:
            assert pure(code) == "True ['local hits are answered in C']"

    @compiled
    def test_it_is_left_out_where_the_lock_is_off(self) -> None:
        """Where its import did not turn the interpreter's lock on; the doctor says what that means."""
        code = (
            "import sys; sys._is_gil_enabled = lambda: {}\n"
            "from aikcache import Cache, doctor\n"
            "found = doctor.examine('redis://127.0.0.1:1')\n"
            "print(Cache().stats().compiled, [f.severity for f in found if f.check == 'interpreter'])"
        )
        assert pure(code.format(False), AIKCACHE_PURE="") == "False ['warning']"
        assert pure(code.format("'aikcache._fast' in sys.modules"), AIKCACHE_PURE="") == "True []"
        assert pure(code.format("'aikcache._fast' in sys.modules"), AIKCACHE_PURE="1") == "False ['warning']"

    def test_a_broken_one_is_left_out(self) -> None:
        """An extension that cannot be loaded is as none."""
        code = "import sys; sys.modules['aikcache._fast'] = None; from aikcache import _compiled as c; print(c.fast)"
        assert pure(code, AIKCACHE_PURE="") == "None"

    @compiled
    def test_some_functions_have_the_generated_wrapper_alone(self, cache: Cache) -> None:
        """Those with `skip_if`, a key of their own, `*args`, or more parameters than it takes."""
        for made in (
            cache.cached("p", skip_if=lambda a: False)(lambda_("a")),
            cache.cached("q", key=lambda a: a)(lambda_("a")),
            cache.cached("r")(lambda_("*a")),
            cache.cached("s")(lambda_(", ".join(f"p{i}" for i in range(17)))),
        ):
            assert inspect.isfunction(made)

    @compiled
    def test_another_clock_is_not_missed(self) -> None:
        """Where a cache has a clock of its own, the compiled wrapper finds nothing and the generated one does."""
        clock = FakeClock()
        with Cache(clock=clock, default_ttl=10) as cache:
            made = cache.cached("p")(lambda_("a"))
            for loads in (1, 2, 3):
                assert (made(1), made(1), cache.stats().loads) == ("f", "f", loads)
                assert frames_of(lambda: made(1)) > 1
                clock.advance(11)


def lambda_(header: str) -> Any:
    found: dict[str, Any] = {}
    exec(f"def f({header}):\n    return 'f'", found)
    return found["f"]


@compiled
class TestAnswers:
    def test_random_calls_are_answered_as_by_the_generated_wrapper(self) -> None:
        """Result, `TypeError` text and counts are the same, for random functions, types and ways to call."""
        seed = Random().randrange(1 << 32)
        print(f"seed {seed}")
        assert _oracle.compare(10_000, seed) > 1000

    def test_a_hit_runs_no_python(self, cache: Cache) -> None:
        """Whatever the annotations say, calls of every kind are answered in C from the second on."""

        @cache.cached("p")
        def f(a: Any, b=None, *, c="c"):  # type: ignore[no-untyped-def]
            return "f"

        values = ["a", 1, True, None, b"a", UUID(int=1), UUID(int=2**127)]
        for a in values:
            for b in values:
                calls: list[Any] = [lambda a=a, b=b: f(a, b), lambda a=a, b=b: f(b=b, a=a), lambda a=a: f(a, c="d")]
                for call in calls:
                    call()
                    assert frames_of(call) == 1  # its own
        assert cache.stats().loads == len(values) * len(values) + len(values)

    def test_a_clock_that_is_late_is_asked_at_each_hit(self, cache: Cache) -> None:
        """Neither an entry that has aged nor a region that is not trusted any more is served."""

        @cache.cached("p")
        def f(a: int) -> int:
            runs.append(a)
            return a

        runs: list[int] = []
        assert (f(1), f(1), runs) == (1, 1, [1])
        region = cache.engine.local.region("p:f")
        (entry,) = region.table.values()
        entry.until = entry.expires_at = entry.fresh_until = 0.0
        assert (f(1), runs) == (1, [1, 1])
        region.trusted_until = 0.0
        next(iter(region.table.values())).created_at = -100.0
        assert (f(1), runs) == (1, [1, 1, 1])

    def test_an_entry_is_served_until_its_end_and_not_after(self, cache: Cache) -> None:
        """At every moment before its end a hit, and none after it, however the clock is read in between."""

        @cache.cached("p")
        def f(a: int) -> int:
            runs.append(a)
            return a

        runs: list[int] = []
        region, random, hits = cache.engine.local.region("p:f"), Random(), 0
        for loaded in range(1, 301):
            if loaded == 1:
                f(1)
            (entry,) = region.table.values()
            end = time.monotonic() + random.random() * 0.003
            entry.until = entry.expires_at = entry.fresh_until = end
            while len(runs) == loaded:
                before = time.monotonic()
                f(1)
                assert before < end or len(runs) > loaded
                hits += len(runs) == loaded
            assert time.monotonic() >= end
        assert hits > 300

    def test_another_import_of_the_extension_revives_no_entry(self, cache: Cache) -> None:
        """As a second interpreter of the process makes it: what the first knows of the time stays true."""

        @cache.cached("p")
        def f(a: int) -> int:
            runs.append(a)
            return a

        runs: list[int] = []
        assert fast is not None
        spec = importlib.util.spec_from_file_location(fast.__name__, str(fast.__file__))
        assert spec is not None
        assert spec.loader is not None
        f(1)
        for loaded in range(1, 11):
            f(1)
            time.sleep(0.02)
            (entry,) = cache.engine.local.region("p:f").table.values()
            entry.until = entry.expires_at = entry.fresh_until = time.monotonic() - 0.01
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
            f(1)
            assert len(runs) == loaded + 1

    def test_counts_are_exact_under_threads(self, cache: Cache) -> None:
        """Every call counts once as a hit or a miss, while others clear and invalidate, at a short switch interval."""

        @cache.cached("p")
        def f(a: int, b: str = "x") -> int:
            return a

        calls, threads, interval = 20_000, 6, sys.getswitchinterval()
        wrong: list[object] = []

        def use(number: int) -> None:
            for i in range(calls):
                if f(i % 7, b="x" if i % 2 else "y") != i % 7:
                    wrong.append(i)
                if i % 50 == number:
                    f.cache_clear()
                if i % 70 == number:
                    f.invalidate(i % 7)

        try:
            sys.setswitchinterval(1e-6)
            running = [threading.Thread(target=use, args=(number,), daemon=True) for number in range(threads)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join(PATIENCE * 5)
                assert not thread.is_alive()
        finally:
            sys.setswitchinterval(interval)
        assert wrong == []
        stats = cache.stats()
        assert stats.hits + stats.misses == calls * threads
        assert stats.local_hits > stats.misses > 0

    def test_a_key_that_compares_in_python_may_do_anything(self, cache: Cache) -> None:
        """A comparison may invalidate the entry and replace the table: the call is answered all the same."""

        @cache.cached("p")
        def f(a: int) -> int:
            return a

        class Unpredictable:
            def __hash__(self) -> int:
                return hash(5)

            def __eq__(self, other: object) -> bool:
                f._aikcache_table = {}  # type: ignore[attr-defined]
                gc.collect()
                return False

        f._aikcache_table = {Unpredictable(): 1}  # type: ignore[attr-defined]
        assert f(5) == 5

    def test_an_error_of_a_comparison_is_raised(self, cache: Cache) -> None:
        """As from a signal handler: nothing is lost, and the next call is answered."""

        @cache.cached("p")
        def f(a: int) -> int:
            return a

        class Stopped:
            def __hash__(self) -> int:
                return hash(5)

            def __eq__(self, other: object) -> bool:
                raise KeyboardInterrupt

        f._aikcache_table = {Stopped(): 1}  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            f(5)
        f._aikcache_table = {5: 1, 6: object(), 7: Entry("k", 7)}  # type: ignore[attr-defined]
        assert [f(5), f(6), f(7)] == [5, 6, 7]


def frames_of(call: Any) -> int:
    """How many Python functions a call enters."""
    entered = 0

    def profile(frame: types.FrameType, event: str, argument: object) -> None:
        nonlocal entered
        entered += event == "call"

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return entered


@compiled
class TestLikeAFunction:
    def test_has_the_name_docstring_and_signature_of_the_function(self) -> None:
        """Name, docstring, signature, defaults and code; it is a routine, and a can be referred to weakly."""
        assert is_compiled(named)
        assert (named.__name__, named.__qualname__, named.__module__) == ("named", "named", __name__)
        assert named.__doc__ == "Says what it does."
        assert inspect.isroutine(named)
        assert callable(named)
        assert inspect.signature(named) == inspect.signature(named.__wrapped__)
        alone = inspect.signature(named, follow_wrapped=False)
        assert [(p.name, p.default) for p in alone.parameters.values()] == [("a", inspect.Parameter.empty), ("b", "x")]
        assert named.__defaults__ == ("x",)
        assert named.__code__.co_name == "named"
        assert inspect.getsource(named).lstrip().startswith("@Cache")
        assert "named(a: 'int', b: 'str' = 'x') -> 'str'" in pydoc.plain(pydoc.render_doc(named))
        assert "cached <function named at" in repr(named)
        assert not inspect.iscoroutinefunction(named)
        assert weakref.ref(named)() is named
        assert functools.partial(named, b="y")(1) == "1 y"
        assert named in {named: 1}

    def test_it_pickles_and_copies_by_reference(self) -> None:
        """As functions do."""
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(named, protocol)) is named
        assert copy.copy(named) is copy.deepcopy(named) is named
        assert copy.deepcopy({"f": [named]})["f"][0] is named

    def test_it_binds_as_a_function_does(self, cache: Cache) -> None:
        """Set in a class it is a method, with the helpers of the function."""

        @cache.cached("p", ignore=("shop",))
        def price(shop: object, what: str) -> str:
            return what

        class Shop:
            cost = price

        shop = Shop()
        assert shop.cost("tea") == Shop.cost(shop, "tea") == "tea"
        assert shop.cost.__func__ is price  # type: ignore[attr-defined]
        assert shop.cost.__self__ is shop  # type: ignore[attr-defined]
        assert Shop.cost is price
        assert price.cache_info()[:2] == (1, 1)

    def test_its_methods_work(self, cache: Cache) -> None:
        """The helpers are attributes, and others may be set."""

        @cache.cached("p")
        def f(a: int) -> int:
            return a

        f.mark = 7  # type: ignore[attr-defined]
        assert (f(1), f.peek(1), f.key(1), f.mark) == (1, 1, "aikernel:v1:p:f:1", 7)  # type: ignore[attr-defined]
        f.invalidate(1)
        assert f.peek(1) is None
        assert f.many([1, (2,), {"a": 3}]) == [1, 2, 3]
        del f.mark  # type: ignore[attr-defined]
        assert not hasattr(f, "mark")

    def test_wrong_use_raises_as_pythons_own(self) -> None:
        """Deleting, assigning to what is read-only, subclassing and calling the type: `TypeError`, `AttributeError`."""
        for name in ("__code__", "_aikcache_function", "__defaults__", "_aikcache_table", "_aikcache_trusted_until"):
            with pytest.raises((AttributeError, TypeError)):
                delattr(named, name)
        for name, value in (("__code__", 1), ("_aikcache_function", 1), ("_aikcache_table", []), ("__dict__", 1)):
            with pytest.raises((AttributeError, TypeError)):
                setattr(named, name, value)
        with pytest.raises(TypeError):
            named._aikcache_trusted_until = "x"  # type: ignore[attr-defined]
        kind: Any = type(named)
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Sub", (kind,), {})
        with pytest.raises(TypeError, match="immutable type"):
            kind.__call__ = None
        shape: tuple[Any, ...] = (lambda: 1, ("a",), 0, 1, {}, (0,), (str,), (str, int))
        wrong: tuple[Any, ...] = (1, ["a"], 2, 9, [], (7,), (), 0)
        for place, value in enumerate(wrong):
            with pytest.raises((TypeError, ValueError)):
                kind(*shape[:place], value, *shape[place + 1 :])
        with pytest.raises((TypeError, ValueError)):
            kind(*shape[:5], (-1,), *shape[6:])
        assert named(1) == "1 x"

    def test_a_type_error_is_the_functions_own(self) -> None:
        """For each wrong call its text is that of the function itself."""
        wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            ((), {}), ((1, "x", 3), {}), ((1,), {"a": 1}), ((1,), {"c": 1}), ((), {"b": "x"}),
        ]  # fmt: skip
        for args, kwargs in wrong:
            names = []
            for function in (named, named.__wrapped__):
                with pytest.raises(TypeError) as caught:
                    function(*args, **kwargs)
                names.append(str(caught.value))
            assert names[0] == names[1]
        assert named(1, **{"".join(["b"]): "y"}) == "1 y"  # a name that is not interned

    def test_it_is_collected(self, cache: Cache) -> None:
        """An unreferenced function is collected with all that is held for it."""

        def define() -> weakref.ref[Any]:
            @cache.cached("p")
            def f(a: int) -> int:
                return a

            f.itself = f  # type: ignore[attr-defined]
            f(1)
            assert f in gc.get_referrers(f.__dict__)
            return weakref.ref(f)

        gone = [define() for _ in range(3)]
        gc.collect()
        assert [one() for one in gone[:2]] == [None, None]

    def test_a_finaliser_may_call_it_while_it_is_collected(self) -> None:
        """It answers, or says that it is being collected."""
        names: list[str] = []

        class Last:
            def __init__(self, function: Any) -> None:
                self.function = function

            def __del__(self) -> None:
                names.append(self.function(1))

        function = Cache().cached("p")(lambda_("a"))
        function.last = Last(function)  # type: ignore[attr-defined]
        del function
        gc.collect()
        assert names == ["f"]


@compiled
def test_an_entry_is_as_the_one_in_python() -> None:
    """The same attributes, which take what the others take and refuse what they cannot be."""
    entry = Entry("k", [1])
    assert (entry.key, entry.value, entry.hits, entry.spent, entry.place) == ("k", [1], 0, 0, 0)
    entry.until, entry.epoch, entry.tags, entry.region = 5, -1, ("t",), entry  # type: ignore[assignment]
    assert (entry.until, entry.epoch, entry.tags) == (5.0, -1, ("t",))
    for name, value in (("until", "x"), ("hits", 1.5), ("epoch", None)):
        with pytest.raises(TypeError):
            setattr(entry, name, value)
    with pytest.raises(AttributeError):
        entry.other = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        Entry("k")  # type: ignore[call-arg]
    held: Any = type("Value", (), {})()
    gone, entry.value, held.entry = weakref.ref(held), held, entry
    del entry, held
    gc.collect()
    assert gone() is None
