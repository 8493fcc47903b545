"""The checks of the rules, each with something broken that it must find."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ops.check import tools
from ops.check.promql import emitted, metrics, unknown
from ops.check.rules import undocumented, unexplained
from ops.check.tools import Missing, complaints, outdated, tool
from ops.prometheus import cases
from ops.prometheus.__main__ import main
from ops.prometheus.files import OPERATOR, PLAIN, dump, files
from ops.prometheus.rules import ALERTS, RECORDINGS

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"


@pytest.fixture
def promtool() -> Iterator[str]:
    try:
        yield tool("promtool")
    except Missing as error:
        pytest.skip(str(error))


def test_the_names_of_metrics_are_found_in_an_expression() -> None:
    """Labels, functions, strings, numbers and keywords are none."""
    expr = (
        'histogram_quantile(0.99, sum by (le, job) (rate(a_bucket{le="b", c=~"d{}|e"}[5m]))) > 10 * 1024 and on (f) '
        "(g - ignoring (h) group_left (i) j_total offset 5m) or vector(0) unless k:l:m or count without (n) (o) > +Inf"
    )
    assert metrics(expr) == {"a_bucket", "g", "j_total", "k:l:m", "o"}


def test_a_metric_that_is_never_emitted_is_found() -> None:
    """A renamed metric, a counter without its _total, and another prefix."""
    names = ("aikernel_cache_hit_total", "aikernel_cache_hits", "aikernal_cache_hits_total", "redis_masterlink_up")
    for name in names:
        assert unknown([("Rule", f"sum(rate({name}[5m])) > 0")]) == [f"Rule reads {name}, which nobody emits"]
    assert unknown([("Rule", "aikernel_cache:new > redis_up")], recorded=["aikernel_cache:new"]) == []


def test_every_metric_of_the_table_is_known_by_its_name_on_the_wire() -> None:
    """Counters end in _total, histograms have three names."""
    names = {
        "aikernel_cache_hits_total",
        "aikernel_cache_coherent",
        "aikernel_cache_latency_seconds_bucket",
        "redis_up",
    }
    assert names <= emitted()


def test_both_files_hold_the_same_groups_as_the_source() -> None:
    """The plain file for Prometheus, and the resource for its operator."""
    for path, text in files():
        assert path.read_text(encoding="utf-8") == text
    plain, resource = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (PLAIN, OPERATOR))
    assert plain["groups"] == resource["spec"]["groups"]
    assert len(plain["groups"][0]["rules"]) == len(ALERTS) + len(RECORDINGS)


def test_the_address_of_the_runbook_is_given_in_one_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both files then name each alert's section there, and no other; an address without a place for it is refused."""
    assert main(["--runbook", "https://wiki.test/cache#{alert}", "--to", str(tmp_path)]) == 0
    plain, resource = (yaml.safe_load((tmp_path / path.name).read_text("utf-8")) for path in (PLAIN, OPERATOR))
    assert plain["groups"] == resource["spec"]["groups"]
    links = {
        rule["alert"]: rule["annotations"]["runbook_url"] for rule in plain["groups"][0]["rules"] if "alert" in rule
    }
    assert links == {one.name: f"https://wiki.test/cache#{one.name.lower()}" for one in ALERTS}
    for wrong in ("https://wiki.test/cache", "wiki.test/{alert}"):
        with pytest.raises(SystemExit):
            main(["--runbook", wrong])
    assert "must be an address with {alert} in it, got 'wiki.test/{alert}'" in capsys.readouterr().err


def test_a_made_file_that_was_changed_by_hand_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is one that was never made."""
    monkeypatch.setattr(tools, "ROOT", tmp_path)
    changed, absent = tmp_path / "changed", tmp_path / "absent"
    changed.write_text("for: 1m")
    found = outdated([(changed, "for: 5m"), (absent, "")], "make it")
    assert found == [f"{name} is not what its source makes: run make it" for name in ("changed", "absent")]


def test_an_alert_without_its_part_of_the_runbook_is_found() -> None:
    """The section, or one of meaning, first look and cure."""
    runbook = RUNBOOK.read_text(encoding="utf-8")
    assert unexplained(runbook) == []
    assert len(unexplained(runbook.replace("### RedisDown", "### Redisdown"))) == 3
    broken = runbook.replace("**Cure.**", "**Care.**", 1)
    assert unexplained(broken) == ["docs/runbook.md, RedisDown: there is no **Cure.**"]


def test_a_metric_that_is_not_documented_is_found() -> None:
    """By its name, kind, labels and meaning; so is a line about none."""
    text = (RUNBOOK.parent / "metrics.md").read_text(encoding="utf-8")
    assert undocumented(text) == []
    for old, new in (("cache_stale_total` |", "cache_stale` |"), ("| counter | `kind`", "| gauge | `kind`")):
        assert old in text
        found = undocumented(text.replace(old, new))
        assert sorted(line.split(": ")[1] for line in found) == ["missing", "wrong"]


def test_an_alert_without_a_case_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in which it fires, and one in which it does not."""
    assert cases.uncovered() == []
    for fires in (True, False):
        kept = [one for one in cases.CASES if one.alert != "RedisDown" or (one.fires is None) is fires]
        monkeypatch.setattr(cases, "CASES", tuple(kept))
        assert cases.uncovered() == ["RedisDown"]
        monkeypatch.undo()


def test_promtool_finds_a_broken_expression_and_a_broken_template(promtool: str, tmp_path: Path) -> None:
    """What the operator's own schema takes."""
    for old, new in (("sum by (job, le)", "sum buy (job, le)"), ("humanizePercentage", "humanise")):
        broken = tmp_path / "rules.yml"
        text = PLAIN.read_text(encoding="utf-8")
        assert old in text
        broken.write_text(text.replace(old, new, 1))
        assert complaints("promtool", "check", "rules", broken)


@pytest.mark.parametrize("fires", [True, False])
def test_a_rule_that_never_or_always_fires_fails_its_cases(
    promtool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fires: bool
) -> None:
    """Each kind of case notices the mistake that it is for."""
    chosen = next(one for one in cases.CASES if one.alert == "AikcacheBreakerOpen" and bool(one.fires) is fires)
    monkeypatch.setattr(cases, "CASES", (replace(chosen, at="39m10s"),))
    rules, tests = tmp_path / "rules.yml", tmp_path / "cases.yml"
    right = {"groups": yaml.safe_load(PLAIN.read_text(encoding="utf-8"))["groups"]}
    wrong = yaml.safe_load(PLAIN.read_text(encoding="utf-8"))
    for rule in wrong["groups"][0]["rules"]:
        rule["expr"] = "vector(0) > 1" if fires else "vector(1)"
    for content, expected in ((right, 0), (wrong, 1)):
        rules.write_text(dump(content))
        tests.write_text(cases.tests(rules))
        done = subprocess.run([promtool, "test", "rules", str(tests)], capture_output=True, timeout=60, check=False)
        assert done.returncode == expected, done.stdout + done.stderr
