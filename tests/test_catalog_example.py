"""The catalog example: what it indexes, what its queries answer, how it measures, and one run from end to end.

Its modules are imported as the example itself does, from the examples directory. Most tests use a catalog of a few
modules written for the purpose, so that they can change a file and see what becomes of it.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import sqlite3
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aikcache
from aikcache.testing import available_servers

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import _catalog_db as db  # noqa: E402
import _catalog_load as load  # noqa: E402
import _catalog_queries as queries  # noqa: E402
import _catalog_report as report  # noqa: E402
import _catalog_scan as scan  # noqa: E402
import _catalog_worker as worker  # noqa: E402
import catalog  # noqa: E402
from _catalog_model import Lineage, ResourceType, resource_id_of  # noqa: E402

pytestmark = pytest.mark.servers
REQUIRED = os.environ.get("AIKCACHE_REQUIRE_SERVERS") == "1"
SOURCES = {
    "kettle/__init__.py": '"""Boils water.\n\nAt length."""\nfrom . import whistle\n',
    "kettle/whistle.py": '"""A noise when the water boils."""\nimport json, sys\nfrom kettle.steam import cloud\n',
    "kettle/steam/__init__.py": "from ..whistle import tune\nfrom .. import nothing\n",
    "kettle/steam/__main__.py": "import kettle.steam\n",
    "teapot.py": '"""Keeps tea, not water, warm."""\nimport kettle.whistle as w\n\ndef pour():\n    import kettle\n',
    "broken.py": "def (:\n",
    "tests/test_kettle.py": "import kettle\n",
    "not-a-module.py": "",
}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The whole Python environment, as far as the catalog can see."""
    root = tmp_path / "lib"
    for name, source in SOURCES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source, encoding="utf-8")
    monkeypatch.setattr(scan, "roots", lambda: [root])
    monkeypatch.setattr(sys, "builtin_module_names", ("sys",))
    return root


@pytest.fixture
def small(library: Path, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A catalog of that environment, in use."""
    path, _ = db.build(tmp_path / "data")
    db.use(path)
    aikcache.default_cache().clear()
    yield db.connection()
    db.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of some of this very environment's modules."""
    return db.build(tmp_path_factory.mktemp("real"), 250)[0]


def names(lineage: Lineage) -> list[tuple[str, int]]:
    return [(node.name, node.depth) for node in lineage.nodes]


class TestScan:
    def test_finds_modules_by_type_and_leaves_tests_out(self, library: Path) -> None:
        """Packages, modules, programs and built-in modules are told apart; test suites and other files are not in."""
        assert {module.name: module.type.value for module in scan.find_modules()} == {
            "broken": "module",
            "kettle": "package",
            "kettle.steam": "package",
            "kettle.steam.__main__": "program",
            "kettle.whistle": "module",
            "sys": "builtin",
            "teapot": "module",
        }

    def test_limit_keeps_the_modules_nearest_to_the_top(self, library: Path) -> None:
        """A capped catalog has whole layers, not the first letters of the alphabet."""
        assert [module.name for module in scan.find_modules(4)] == ["broken", "kettle", "sys", "teapot"]

    def test_this_environment_has_extensions_and_an_owner_for_each_package(self) -> None:
        """The real environment is found, with compiled modules and with the distributions that own its files."""
        found = {module.name: module for module in scan.find_modules()}
        assert found["json.decoder"].type is ResourceType.MODULE
        assert ResourceType.EXTENSION in {module.type for module in found.values()}
        owners = scan.distributions()
        assert scan.owner_of(found["redis"], owners)[0] == "redis"
        assert scan.owner_of(found["json"], owners)[0] == "Python"

    def test_summary_is_the_first_paragraph_of_the_docstring(self, library: Path) -> None:
        """What follows the first blank line is left out, and so is the line break within."""
        assert scan.scan(library / "kettle/__init__.py", "kettle", ResourceType.PACKAGE).summary == "Boils water."

    def test_relative_imports_become_absolute_names(self, library: Path) -> None:
        """One dot is the package itself, two the one above; the names go from the most specific to the least."""
        found = scan.scan(library / "kettle/steam/__init__.py", "kettle.steam", ResourceType.PACKAGE)
        assert [statement.targets for statement in found.imports] == [
            ("kettle.whistle.tune", "kettle.whistle", "kettle"),
            ("kettle.nothing", "kettle"),
        ]

    def test_import_above_the_top_is_ignored(self, tmp_path: Path) -> None:
        """A relative import that leaves every package names nothing."""
        (tmp_path / "m.py").write_text("from ... import x\n")
        assert scan.scan(tmp_path / "m.py", "m", ResourceType.MODULE).imports == ()

    @pytest.mark.parametrize("content", [b"def (:", b"\0", b"'\\ud800'", b'"""\\ud800"""', b"\xff\xfe"])
    def test_any_content_is_scanned(self, tmp_path: Path, content: bytes) -> None:
        """A file that does not parse, or holds what no database stores, is catalogued all the same."""
        (tmp_path / "m.py").write_bytes(content)
        found = scan.scan(tmp_path / "m.py", "m", ResourceType.MODULE)
        assert found.size == len(content)
        assert found.summary.encode()[:1] in (b"", b"?")


class TestDatabase:
    def test_every_module_is_a_resource_with_one_version(self, small: sqlite3.Connection) -> None:
        """The first pass gives each module a row, its first version, and a text to search."""
        counts = [small.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("resources", "versions")]
        assert counts == [7, 7]
        assert small.execute("SELECT count(*) FROM resource_text").fetchone() == (7,)

    def test_imports_reach_the_longest_name_that_the_catalog_knows(self, small: sqlite3.Connection) -> None:
        """`from kettle.steam import cloud` is an import of kettle.steam, and `json`, not in the catalog, is none."""
        found = queries.relationships.bypass(resource_id_of("kettle.whistle"))
        assert [(edge.target_name, edge.kind, edge.line) for edge in found] == [
            ("sys", "import", 2),
            ("kettle.steam", "from", 3),
        ]

    def test_an_existing_database_is_reused_only_for_the_same_environment(self, library: Path, tmp_path: Path) -> None:
        """A second pass finds the first one's result; another limit builds anew."""
        first, _ = db.build(tmp_path, 5)
        made = first.stat().st_ino
        assert db.build(tmp_path, 5) == (first, True)
        assert first.stat().st_ino == made
        assert db.build(tmp_path, 6) == (first, False)

    def test_a_file_that_is_no_database_is_replaced(self, library: Path, tmp_path: Path) -> None:
        """Whatever lies under the name is not trusted."""
        (tmp_path / "catalog.sqlite3").write_bytes(b"something else altogether, not SQLite" * 40)
        path, reused = db.build(tmp_path)
        assert not reused
        assert sqlite_count(path) == 7

    def test_an_interrupted_pass_leaves_nothing(
        self, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No file that a later run could take for a finished database."""

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(db, "insert_version", interrupted)
        with pytest.raises(KeyboardInterrupt):
            db.build(tmp_path / "data")
        assert list((tmp_path / "data").iterdir()) == []

    def test_inner_transactions_are_undone_with_the_outer(self, small: sqlite3.Connection) -> None:
        """What joined a transaction that fails is rolled back too."""

        def fails_after_an_inner_one() -> None:
            with db.transaction():
                with db.transaction() as inner:
                    inner.execute("DELETE FROM resources")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fails_after_an_inner_one()
        assert small.execute("SELECT count(*) FROM resources").fetchone() == (7,)

    def test_progress_is_a_line_a_quarter_where_there_is_no_terminal(self) -> None:
        """A log gets four lines, not forty redrawn bars."""
        stream = io.StringIO()
        progress = db.Progress(stream)
        for done in range(1, 101):
            progress.show(done, 100)
        assert stream.getvalue().splitlines()[0] == "  indexing: 25 of 100 modules"
        assert len(stream.getvalue().splitlines()) == 4


def sqlite_count(path: Path) -> int:
    opened = sqlite3.connect(path)
    count: int = opened.execute("SELECT count(*) FROM resources").fetchone()[0]
    opened.close()
    return count


class TestQueries:
    def test_get_by_id_raises_for_an_unknown_id(self, small: sqlite3.Connection) -> None:
        """The function's own exception comes through, and is not cached."""
        for _ in range(2):
            with pytest.raises(LookupError, match="No resource has the id"):
                queries.get_by_id(uuid4())

    def test_list_by_type_pages_without_gap_or_overlap(self, small: sqlite3.Connection) -> None:
        """The pages together are the list."""
        pages = [queries.list_by_type.bypass(ResourceType.MODULE, page, 2) for page in (1, 2, 3)]
        assert [[resource.name for resource in page] for page in pages] == [
            ["broken", "kettle.whistle"],
            ["teapot"],
            [],
        ]

    @pytest.mark.parametrize("full_text", [True, False])
    def test_search_wants_every_word(
        self, small: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, full_text: bool
    ) -> None:
        """All words must occur, in name or docstring, with FTS5 and with its stand-in alike."""
        monkeypatch.setattr(queries, "has_full_text", lambda _: full_text)
        assert [hit.name for hit in queries.search.bypass("water").hits] == ["kettle.whistle", "kettle", "teapot"]
        assert queries.search.bypass("  Water WHISTLE ") == queries.search.bypass("water whistle")
        assert [hit.name for hit in queries.search.bypass("water whistle").hits] == ["kettle.whistle"]
        assert queries.search.bypass("water tea").total == 1
        assert queries.search.bypass("").total == 0

    @pytest.mark.parametrize("full_text", [True, False])
    @pytest.mark.parametrize("query", ['"', "a OR b", "NEAR(", "%", "*", "'; DROP TABLE resources"])
    def test_search_takes_any_text_as_data(
        self, small: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, full_text: bool, query: str
    ) -> None:
        """Nothing that a user types is query language."""
        monkeypatch.setattr(queries, "has_full_text", lambda _: full_text)
        assert queries.search.bypass(query).total == 0

    def test_lineage_goes_both_ways_and_ends_in_cycles(self, small: sqlite3.Connection) -> None:
        """Whistle and steam import each other; each node appears once, at its least distance."""
        whistle = resource_id_of("kettle.whistle")
        assert names(queries.upstream.bypass(whistle, 9)) == [("kettle.steam", 1), ("sys", 1), ("kettle", 2)]
        assert names(queries.downstream.bypass(whistle, 1)) == [("kettle", 1), ("kettle.steam", 1), ("teapot", 1)]

    def test_upstream_and_downstream_are_each_others_inverse(self, real: Path) -> None:
        """On real data: whoever a module imports has it as its importer."""
        db.use(real)
        ids = load.read_subjects(db.connection()).resource_ids
        up = {(a, node.id) for a in ids for node in queries.upstream.bypass(a, 1).nodes}
        complete = [lineage for lineage in (queries.downstream.bypass(a, 1) for a in ids) if lineage.complete]
        assert len(complete) > 200
        for lineage in complete:
            assert {node.id for node in lineage.nodes} == {a for a, b in up if b == lineage.resource_id}
        db.close()

    def test_reindex_shows_in_every_cached_answer(self, small: sqlite3.Connection, library: Path) -> None:
        """A file that changes its docstring and its imports changes row, history, imports, lineage, lists, search."""
        teapot = resource_id_of("teapot")

        def answers() -> tuple[object, ...]:
            return (
                queries.get_by_id(teapot).summary,
                [version.number for version in queries.version_history(teapot)],
                [edge.target_name for edge in queries.relationships(teapot)],
                names(queries.upstream(teapot, 1)),
                [resource.revision for resource in queries.list_by_type(ResourceType.MODULE)],
                queries.search("porcelain").total,
            )

        before = answers()
        assert before == (
            *("Keeps tea, not water, warm.", [1], ["kettle.whistle", "kettle"]),
            *([("kettle.whistle", 1), ("kettle", 1)], [1, 1, 1], 0),
        )
        (library / "teapot.py").write_text('"""Is made of porcelain."""\nimport sys\n')
        assert answers() == before, "these were to come from the cache"
        renewed = queries.reindex(queries.get_by_id(teapot))
        assert renewed.revision == 2
        assert answers() == ("Is made of porcelain.", [2, 1], ["sys"], [("sys", 1)], [1, 1, 2], 1)

    def test_failed_bulk_run_changes_nothing(self, small: sqlite3.Connection) -> None:
        """One unknown resource undoes the whole batch."""
        known = queries.get_by_id(resource_id_of("teapot"))
        with pytest.raises(LookupError):
            queries.reindex_many([known, replace(known, id=uuid4())])
        assert queries.get_by_id.bypass(known.id).revision == 1

    def test_bulk_run_renews_each_resource(self, small: sqlite3.Connection) -> None:
        """What `reindex` invalidates for one it invalidates for each of the batch, after the commit."""
        ids = [resource_id_of(name) for name in ("teapot", "kettle", "sys")]
        queries.reindex_many([queries.get_by_id(resource_id) for resource_id in ids])
        assert [queries.get_by_id(resource_id).revision for resource_id in ids] == [2, 2, 2]


class TestLoad:
    def test_zipf_draws_ranks_in_proportion(self) -> None:
        """Rank k comes 1 / (k + 1) times as often as rank 0."""
        zipf = load.Zipf(100, 1.0, random.Random(1))
        counts = Counter(zipf.draw() for _ in range(50_000))
        for rank in range(5):
            assert counts[rank] == pytest.approx(counts[0] / (rank + 1), rel=0.1)

    @given(size=st.integers(1, 50), exponent=st.floats(0, 3), seed=st.integers())
    def test_zipf_stays_in_range(self, size: int, exponent: float, seed: int) -> None:
        """No rank is out of bounds, whatever the size and the exponent."""
        zipf = load.Zipf(size, exponent, random.Random(seed))
        assert {zipf.draw() for _ in range(50)} <= set(range(size))

    def test_zipf_over_nothing_is_refused(self) -> None:
        """There is no rank to draw."""
        with pytest.raises(ValueError, match="at least 1, got 0"):
            load.Zipf(0, 1.0, random.Random(1))

    def test_same_seed_same_load(self, real: Path) -> None:
        """A run can be repeated; another seed is another run."""
        db.use(real)
        subjects = load.read_subjects(db.connection())
        db.close()
        workloads = [load.Workload(subjects, seed, 0.1) for seed in (1, 1, 2)]
        runs = [[workload.next() for _ in range(300)] for workload in workloads]
        assert runs[0] == runs[1] != runs[2]
        assert {call.name for call in runs[0] if isinstance(call, load.Call)} == set(load.QUERIES)

    def test_share_of_writes(self, real: Path) -> None:
        """None at 0, nothing else at 1."""
        db.use(real)
        subjects = load.read_subjects(db.connection())
        db.close()
        for share, kind in ((0.0, load.Call), (1.0, load.Write)):
            workload = load.Workload(subjects, 1, share)
            assert all(isinstance(workload.next(), kind) for _ in range(500))

    def test_vocabulary_has_words_and_pairs_but_no_filler(self) -> None:
        """Words that are in every docstring, or say nothing, are not what people search for."""
        texts = ["Parse this grammar from disk"] * 2 + ["Other things entirely"] * 28
        assert {"grammar", "parse grammar", "parse"} <= set(load.vocabulary(texts))
        assert not {"this", "from", "things"} & set(load.vocabulary(texts))
        assert load.vocabulary([]) == ("module",)


@dataclass(frozen=True)
class _Box:
    content: object


class TestCheck:
    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (1, True),
            (1, 1.0),
            ((1,), [1]),
            (_Box((1,)), _Box([1])),
            ([_Box(1)], [_Box(2)]),
            ((1,), (1, 1)),
            ("a", None),
        ],
    )
    def test_same_compares_values_and_types(self, first: object, second: object) -> None:
        """What `==` lets pass, at any depth, is a difference here; and it is said where it is."""
        assert not worker.same(first, second)
        assert "from the database" in worker.difference(first, second)

    @pytest.mark.parametrize("value", [1, None, "a", (1, [2]), _Box((_Box(1), "x"))])
    def test_same_accepts_equal_values(self, value: object) -> None:
        """A value is the same as itself."""
        assert worker.same(value, value)

    def test_check_finds_a_wrong_answer(self, small: sqlite3.Connection) -> None:
        """A row changed behind the cache's back is counted and described: the check can fail."""
        call = load.Call("get_by_id", (resource_id_of("teapot"),))
        call.cached()
        assert worker.check([call], [call]).wrong == 0
        small.execute("UPDATE resources SET revision = 7 WHERE name = 'teapot'")
        checked = worker.check([call], [call])
        assert (checked.compared, checked.wrong, checked.counts.local_hits) == (2, 2, 2)
        assert ".revision: from the cache '1', from the database '7'" in checked.differences[0]

    def test_reservoir_keeps_every_call_alike(self) -> None:
        """The sample is of the whole run, not of its beginning."""
        sample: list[load.Call] = []
        chooser = random.Random(1)
        for number in range(1, 40_001):
            worker._keep(sample, load.Call("search", (number,)), number, chooser)
        numbers = [int(str(call.arguments[0])) for call in sample]
        assert len(numbers) == len(set(numbers)) == 400
        assert sum(numbers) / 400 == pytest.approx(20_000, rel=0.1)


def served(hits: int, loads: int, call_nanoseconds: int = 1500) -> worker.Served:
    """A worker that made hits + loads calls of get_by_id, half of the hits local."""
    result = worker.Served(seconds=2.0, warm_calls=hits, warm_counts=worker.Counts(local_hits=hits))
    result.latencies["get_by_id"] = array("q", [call_nanoseconds] * (hits + loads))
    result.counts["get_by_id"] = worker.Counts(hits // 2, hits // 2, loads, 0, 4096)
    return result


class TestReport:
    def test_quantile_is_the_nearest_rank(self) -> None:
        """The 99th percentile of 1 … 100 is 99, of one value that value, of none NaN."""
        assert report.quantile(range(1, 101), 0.99) == 99
        assert report.quantile([7], 0.5) == 7
        assert math.isnan(report.quantile([], 0.5))

    def test_ratios_are_of_the_calls_that_reached_the_tier(self) -> None:
        """96 hits, 48 of them local: the remote tier answered 48 of 52."""
        summary = report.summarize([served(48, 2), served(48, 2)], [worker.Checked()])
        row = summary.operations[0]
        assert (row.calls, row.hit_ratio, row.local_ratio, row.remote_ratio) == (100, 0.96, 0.48, 48 / 52)

    def test_table_has_aligned_lines_of_at_most_100_columns(self) -> None:
        """Whatever the figures, lines are of one length, and what was not measured is a dash."""
        summary = report.summarize([served(9_000_000, 1), served(4, 2, 9_000_000_000)], [worker.Checked()])
        lines = report.table(summary).splitlines()
        assert {len(line) for line in lines} == {100}
        assert lines[3].split()[0] == "resource:get_by_id"
        assert lines[3].split()[-3:] == ["-", "-", "8"]

    @pytest.mark.parametrize(
        ("hits", "wrong", "passed"), [(92, 0, True), (90, 0, False), (92, 1, False), (0, 0, False)]
    )
    def test_verdict(self, hits: int, wrong: int, passed: bool) -> None:
        """Above 90 % and no wrong answer: both, or it has failed."""
        summary = report.summarize([served(hits, 100 - hits)], [worker.Checked(compared=5, wrong=wrong)])
        assert summary.passed is passed
        text = report.verdict(summary, 2.2)
        assert text.endswith("PASSED" if passed else "FAILED")
        assert f"{wrong} wrong of 5" in text

    @pytest.mark.parametrize(("wrong", "passed"), [(0, True), (1, False)])
    def test_without_a_bar_the_answers_alone_count(self, wrong: int, passed: bool) -> None:
        """As when a server is killed meanwhile; the figure is shown all the same."""
        summary = report.summarize([served(40, 60)], [worker.Checked(compared=5, wrong=wrong)], 0.0)
        assert summary.passed is passed
        assert "40.0 % of 100 calls, beginning with an empty cache (must be above 0%)" in report.verdict(summary, 2.2)

    def test_json_is_strict_json(self) -> None:
        """No NaN, which other readers of JSON refuse."""

        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        summary = report.summarize([served(92, 8)], [worker.Checked(compared=5)])
        content = json.loads(report.as_json(summary), parse_constant=refuse)
        assert content["total"]["hit_ratio"] == 0.92
        assert content["write"] == {"median": None, "p99": None}


def run_example(*options: str) -> subprocess.CompletedProcess[str]:
    """The example as a user starts it: in a process, and with a default cache, of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "catalog.py"), *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


class TestCommand:
    def test_urls_are_shown_without_their_password(self) -> None:
        """What is printed can be pasted into a ticket."""
        assert catalog.shown("redis://user:hunter2@cache:6379/0") == "redis://cache:6379/0"

    @pytest.mark.parametrize("option", ["--workers", "--calls", "--modules"])
    def test_counts_are_positive(self, option: str, capsys: pytest.CaptureFixture[str]) -> None:
        """No run without workers, calls or modules."""
        with pytest.raises(SystemExit):
            catalog.parse([option, "0"])
        assert "must be at least 1, got 0" in capsys.readouterr().err

    def test_a_server_that_is_not_there_is_said_so(self, tmp_path: Path) -> None:
        """No traceback and no figures without a shared server: one line, and a status of its own."""
        result = run_example("--url", f"unix://{tmp_path}/nobody.sock", "--modules", "5")
        assert result.returncode == 2, result.stdout + result.stderr
        assert "The shared server cannot be used" in result.stderr
        assert "Traceback" not in result.stderr

    def test_calls_affected_by_writes_are_asked_once(self) -> None:
        """A resource that two workers have written is checked once per query."""
        identity = UUID(int=1)
        results = [worker.Served(written={identity: None}), worker.Served(written={identity: None})]
        assert [call.name for call in catalog.calls_affected(results)] == [
            "get_by_id",
            "version_history",
            "relationships",
        ]


def test_a_run_from_end_to_end(tmp_path: Path) -> None:
    """Two processes share an embedded server: hits from both tiers, right answers in every process, status 0."""
    if not available_servers():
        if REQUIRED:
            pytest.fail("no server is installed, and AIKCACHE_REQUIRE_SERVERS=1")
        pytest.skip("no server is installed")
    figures = tmp_path / "figures.json"
    options = ["--workers", "2", "--calls", "6000", "--seconds", "600", "--modules", "60", "--seed", "3"]
    result = run_example(*options, "--json", str(figures), "--database", str(tmp_path / "data"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 100
    content = json.loads(figures.read_text())
    assert content["passed"] is True
    assert content["total"]["calls"] == 12_000
    assert content["total"]["hit_ratio"] > 0.9
    assert content["total"]["counts"]["local_hits"] > 0
    assert content["total"]["counts"]["remote_hits"] > 0
    assert content["writes"] > 0
    assert content["processes_checked"] == 3
    assert content["answers_wrong"] == 0
    assert content["answers_from_cache"] > 500
    assert len(content["operations"]) == len(load.QUERIES)
