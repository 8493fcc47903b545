"""Settings: their defaults, what is refused and with which words, and the environment."""

from __future__ import annotations

import dataclasses
import inspect
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import cachetools
import pytest

from aikcache import Cache, CacheConfig, ConfigError
from aikcache._engine import policy as _policy
from aikcache._settings.settings import LoadOptions, Settings

PASSWORD = "hunter2hunter2"
SECRET = f"a key of these tests: {PASSWORD}"


def test_defaults_are_those_of_the_manual() -> None:
    """A cache without arguments has the documented settings; there may be more."""
    found = dataclasses.asdict(Cache().config)
    documented = {
        "url": None,
        "instance": "aikernel",
        "version": "v1",
        "default_ttl": 300,
        "ttls": {"resource": 300, "search": 600, "version": 3600, "lineage": 900, "relationship": 600},
        "local_max_entries": 10_000,
        "local_max_bytes": None,
        "local_ttl": 60,
        "policy": "s3fifo",
        "max_staleness": 5,
        "connect_timeout": 1,
        "timeout": 0.5,
        "lease_ttl": 10,
        "lease_wait": 5,
        "compress_min_bytes": 1024,
        "compress_level": 3,
        "max_value_bytes": 16 * 2**20,
        "breaker_failures": 5,
        "breaker_reset": 1,
        "max_pending_invalidations": 10_000,
        "journal": None,
        "strict": False,
        "publish_interval": 60,
        "metrics": "aikernel",
        "secret": None,
        "enabled": True,
        "consistency": "bounded",
    }
    assert {name: found[name] for name in documented} == documented


SCALE = r"\b([Ss]econds|[Bb]ytes|[Ee]ntries|failures|replicas|invalidations|level)\b"


@pytest.mark.parametrize("field", dataclasses.fields(CacheConfig), ids=lambda field: field.name)
def test_help_explains_each_setting(field: dataclasses.Field[Any]) -> None:
    """`help(aikcache.CacheConfig)` has a line for each setting, with its default, and its unit where it is a number."""
    text = inspect.getdoc(CacheConfig) or ""
    found = re.search(rf"^{field.name} \((.+?)\): (.+?)(?=^\w|\Z)", text, re.M | re.S)
    assert found, "it is not explained"
    default = getattr(CacheConfig(), field.name)
    shown = [*default, *map("{:g}".format, default.values())] if isinstance(default, dict) else [_literal(default)]
    assert all(part in found[1].replace(",", "") for part in shown)
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        assert re.search(SCALE, found[0])
    assert len(found[2].split()) >= 4


def _literal(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_settings_are_frozen() -> None:
    """A cache's settings cannot be changed behind its back."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cache().config.timeout = 1  # type: ignore[misc]


def test_the_given_ttls_are_copied() -> None:
    """Changing the mapping that was given changes no cache."""
    ttls = {"p": 5.0}
    cache = Cache(ttls=ttls)
    ttls["p"] = 1
    assert cache.config.ttls == {"p": 5.0}


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://localhost",
        "redis://localhost/",
        "redis://localhost:6379/15",
        "rediss://u:p%2Fw@h:1/0?db=2",
        "redis://[::1]:6379/0",
        "unix:///run/redis.sock?db=1",
        "embedded://",
        "embedded:///tmp/x",
        None,
    ],
)
def test_valid_urls_are_accepted(url: str | None) -> None:
    """Every form that the manual shows is a setting."""
    assert CacheConfig(url=url).url == url


@pytest.mark.parametrize("url", ["redis+sentinel://:pw@h1:26379,h2:26379/svc/0", "rediss+cluster://h1:7000,h2:7000"])
def test_many_hosts_are_accepted(url: str) -> None:
    """URLs of Sentinels and clusters list their hosts."""
    assert CacheConfig(url=url).url == url


def test_durations_may_be_timedeltas() -> None:
    """A timedelta becomes seconds."""
    config = Cache(timeout=timedelta(milliseconds=250), ttls={"p": timedelta(hours=1)}).config
    assert (config.timeout, config.ttls["p"]) == (0.25, 3600.0)


def test_the_prefix_names_the_default_ttl() -> None:
    """A prefix without a TTL of its own takes `default_ttl`."""
    config = Cache(default_ttl=7, ttls={"p": 9}).config
    assert (config.ttl_of("p"), config.ttl_of("resource")) == (9, 7)


def test_secrets_and_urls_are_not_shown() -> None:
    """Neither the settings' nor the cache's repr holds a password or the sealing secret."""
    cache = Cache(f"redis://:{PASSWORD}@localhost:1/0", secret=SECRET)
    assert PASSWORD not in repr(cache.config)
    assert PASSWORD not in repr(cache)
    assert "redis://…" in repr(cache)
    assert "local only" in repr(Cache())


def test_creating_a_cache_makes_no_connection() -> None:
    """A cache can be made with a URL that no server answers at."""
    Cache("redis://localhost:1/0").close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"default_ttl": -1}, "default_ttl must be between 0 and 315360000 seconds, got -1. 0 means: do not store."),
        ({"default_ttl": float("nan")}, "default_ttl must be between 0 and 315360000 seconds, got nan."),
        ({"default_ttl": 10**12}, "default_ttl must be between 0 and 315360000 seconds, got 1000000000000."),
        ({"default_ttl": True}, "default_ttl must be seconds (a number or a timedelta), got bool."),
        ({"default_ttl": "5"}, "default_ttl must be seconds (a number or a timedelta), got str."),
        ({"timeout": 0}, "timeout must be greater than 0, got 0. Without a bound a call could wait for ever."),
        ({"timeout": timedelta(0)}, "timeout must be greater than 0, got 0."),
        ({"max_staleness": -1}, "max_staleness must be between 0 and 315360000 seconds, got -1."),
        ({"ttls": {"p": -1}}, "ttls['p'] must be between 0 and 315360000 seconds, got -1."),
        ({"ttls": {"p:q": 1}}, "a prefix in ttls must be letters, digits, '_', '-' or '.'"),
        ({"ttls": [("p", 1)]}, "ttls must map prefixes to seconds, got list."),
        ({"ttls": None}, "ttls must map prefixes to seconds, got NoneType. For default_ttl alone, pass ttls={}."),
        ({"lease_ttl": 0}, "lease_ttl must be between 0.01 and 315360000 seconds, got 0. A lease that ends before"),
        ({"lease_ttl": 0.0004}, "lease_ttl must be between 0.01 and 315360000 seconds, got 0.0004. A lease that ends"),
        (
            {"publish_interval": 1e-6},
            "publish_interval must be between 0.01 and 315360000 seconds, got 1e-06. To publish nothing, pass",
        ),
        ({"journal": 123}, "journal must be the path of a file, got int. To keep none, pass journal=None."),
        ({"journal": b"/tmp/j"}, "journal must be the path of a file, got bytes."),
        (
            {"local_max_entries": 0},
            "local_max_entries must be a whole number of at least 1, got 0. To run without a local",
        ),
        ({"local_max_entries": 1.5}, "local_max_entries must be a whole number of at least 1, got 1.5."),
        ({"local_max_entries": True}, "local_max_entries must be a whole number of at least 1, got True."),
        (
            {"local_max_bytes": 0},
            "local_max_bytes must be a whole number of at least 1, got 0. To run without a local tier",
        ),
        ({"max_value_bytes": -1}, "max_value_bytes must be a whole number of at least 1, got -1."),
        ({"compress_level": 20}, "compress_level must be at most 19, got 20. 3 is zstd's own default."),
        (
            {"policy": "fifo"},
            "policy must be 's3fifo', 'lru' or a function from a size to a cachetools.Cache, got 'fifo'.",
        ),
        (
            {"policy": lambda size: None},
            "policy must be a function that gives a cachetools.Cache, and it gave NoneType. Return the cache, as in",
        ),
        ({"policy": lambda size: {}}, "policy must be a function that gives a cachetools.Cache, and it gave dict."),
        (
            {"consistency": "strict"},
            "consistency must be 'bounded' (others' invalidations are seen once they are pushed here) or 'strong'",
        ),
        ({"strict": 1}, "strict must be True or False, got 1."),
        ({"secret": "short"}, "secret must be a key of at least 32 random bytes, or a list of them, the newest first"),
        ({"secret": b"0123456789abcdef0123456789abcde"}, "secret must be a key of at least 32 random bytes"),
        ({"secret": "a" * 64}, "secret must be a key of at least 32 random bytes"),
        ({"secret": [SECRET, "short"]}, "secret must be a key of at least 32 random bytes"),
        ({"secret": []}, "secret must be a key of at least 32 random bytes"),
        ({"secret": 5}, "secret must be a key of at least 32 random bytes"),
        (
            {"instance": "a:b"},
            "instance must be letters, digits, '_', '-' or '.', and begin with a letter, a digit or '_', got 'a",
        ),
        ({"instance": ""}, "instance must be letters"),
        ({"version": "v 1"}, "version must be letters"),
        ({"version": 1}, "version must be letters"),
        ({"version": "session"}, "version must not be 'session': sessions are kept there"),
        ({"version": "keyring"}, "version must not be 'keyring'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_broken_rule_is_named_with_the_value_and_the_way_out(settings: dict[str, Any], message: str) -> None:
    """Each setting that breaks a rule is a `ConfigError` saying what was given, the rule, and what to do."""
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        Cache(**settings)


def test_the_message_never_holds_a_refused_secret() -> None:
    """A secret that is too short is not repeated."""
    with pytest.raises(ConfigError) as caught:
        Cache(secret="tooshort")
    assert "tooshort" not in str(caught.value)


def test_what_0_means_is_said_only_where_it_means_that() -> None:
    """A `local_ttl` of 0 is no local tier."""
    with pytest.raises(ConfigError) as caught:
        Cache(local_ttl=-1)
    assert str(caught.value) == "local_ttl must be between 0 and 315360000 seconds, got -1."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("time_out", "unknown setting 'time_out': did you mean 'timeout'?"),
        ("local_max_entry", "unknown setting 'local_max_entry': did you mean 'local_max_entries'?"),
        ("zzz", "unknown setting 'zzz': known are breaker_failures, breaker_reset, "),
    ],
)
def test_an_unknown_setting_suggests_the_nearest(name: str, message: str) -> None:
    """For a misspelt setting the message suggests the nearest name; if none is near, it lists all."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        Cache(**cast(Any, {name: 1}))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:6379", "url must look like redis://host:6379/0. Leave it out for a cache in this process alone."),
        ("", "url must look like redis://host:6379/0."),
        (5, "url must look like redis://host:6379/0."),
        (f"redi://:{PASSWORD}@h:1", "url has the unknown scheme 'redi'; known are embedded, redis, "),
        (f"redi://:{PASSWORD}@h:1", "Did you mean redis://?"),
        (f"http://:{PASSWORD}@h:1", "url has the unknown scheme 'http'"),
        (f"redis://:{PASSWORD}@host:notaport/0", "url must look like redis://[[user]:password@]host:port/database"),
        (f"redis://:{PASSWORD}@host:99999/0", "url must look like redis://[[user]:password@]host:port/database"),
        (f"redis://:{PASSWORD}@host/notanumber", "url must look like redis://[[user]:password@]host:port/database"),
        (f"redis://:{PASSWORD}@[::1/0", "url must look like redis://[[user]:password@]host:port/database"),
        (f"redis://:{PASSWORD}/{PASSWORD}@host:6379/0", "percent-encode"),
    ],
)
def test_a_malformed_url_is_refused_without_showing_its_password(url: Any, message: str) -> None:
    """A URL that cannot be one is a `ConfigError` when the cache is made, and nothing said holds its password."""
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        Cache(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert PASSWORD not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_the_typed_settings_are_those_of_the_configuration() -> None:
    """What `Cache` takes by name for a type checker is what it takes, but for the url, which has a place."""
    fields = {f.name for f in dataclasses.fields(CacheConfig)}
    assert set(Settings.__annotations__) == fields - {"url"}
    options = set(inspect.signature(_policy.make).parameters) - {"where", "codec", "ttl", "skip_if"}
    assert set(LoadOptions.__annotations__) == options


@pytest.mark.parametrize(
    ("url", "settings", "warns"),
    [
        ("redis://h", {}, True),
        ("embedded:///tmp/shared", {}, True),
        ("redis://h", {"instance": "aikernel"}, False),
        ("embedded://", {}, False),
        (None, {}, False),
    ],
)
def test_a_shared_cache_without_an_instance_warns(
    url: str | None, settings: Settings, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A cache that others can reach and that has no name of its own says so, once."""
    Cache(url, **settings).close()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == warns
    assert all("no instance, so its keys begin with 'aikernel:v1:'" in message for message in messages)


@pytest.mark.parametrize(
    ("url", "warns"),
    [
        ("redis+sentinel://:p@h/main", True),
        ("redis+sentinel://:p@h/main?sentinel_password=", True),
        ("redis+sentinel://:p@h/main?sentinel_password=q", False),
        ("redis+sentinel://h/main", False),
        ("rediss+sentinel://:p@h/main", False),
        ("redis://:p@h", False),
    ],
)
def test_a_password_behind_an_open_sentinel_warns(url: str, warns: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A hostile Sentinel gets the password from all clients unless TLS proves its identity; warned of once."""
    Cache(url, instance="mine").close()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == warns
    assert all("goes to whatever server the Sentinels name" in message and len(message) <= 300 for message in messages)


class TestEnvironment:
    def test_every_kind_of_setting_is_read(self) -> None:
        """Text becomes what the setting is; the rest of the environment is not looked at."""
        config = Cache.from_env(
            {
                "AIKCACHE_INSTANCE": "shop",
                "AIKCACHE_TTLS": "search=60, resource=300",
                "AIKCACHE_TIMEOUT": "0.25",
                "AIKCACHE_LOCAL_MAX_BYTES": "1000",
                "AIKCACHE_STRICT": "Yes",
                "AIKCACHE_ENABLED": "0",
                "AIKCACHE_POLICY": "lru",
                "AIKCACHE_SECRET": SECRET,
                "AIKCACHE_REQUIRE_SERVERS": "1",
                "PATH": "/bin",
            }
        ).config
        assert (config.instance, config.timeout, config.local_max_bytes, config.strict) == ("shop", 0.25, 1000, True)
        assert not config.enabled
        assert (config.policy, config.secret, config.ttls) == ("lru", SECRET, {"search": 60, "resource": 300})

    def test_several_secrets_come_with_commas(self) -> None:
        """A list of secrets in the environment is that of a rolling deploy."""
        with Cache.from_env({"AIKCACHE_SECRET": f"{SECRET}, {SECRET * 2}"}) as cache:
            assert cache.config.secret == (SECRET, SECRET * 2)

    def test_the_process_environment_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a mapping `os.environ` is read."""
        monkeypatch.setenv("AIKCACHE_INSTANCE", "fromenv")
        assert Cache.from_env().config.instance == "fromenv"

    def test_arguments_win(self) -> None:
        """What the program says goes over what the environment says."""
        assert Cache.from_env({"AIKCACHE_INSTANCE": "env"}, instance="arg").config.instance == "arg"

    def test_an_empty_url_is_none(self) -> None:
        """A URL set to nothing is a cache in this process alone."""
        assert Cache.from_env({"AIKCACHE_URL": ""}).config.url is None

    def test_an_empty_variable_is_none_for_each_setting_that_may_be_none(self) -> None:
        """Whatever its type is beside that."""
        fields = [field for field in dataclasses.fields(CacheConfig) if str(field.type).endswith("| None")]
        names = {field.name for field in fields} - {"client", "credential_provider", "clock"}
        assert {"local_max_bytes", "publish_interval", "metrics"} <= names
        config = Cache.from_env({f"AIKCACHE_{name.upper()}": "" for name in names}).config
        assert {name: getattr(config, name) for name in names} == dict.fromkeys(names)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("AIKCACHE_TIMEOUT", "soon", "AIKCACHE_TIMEOUT must be of type float."),
            ("AIKCACHE_TIMEOUT", "nan", "AIKCACHE_TIMEOUT must be of type float."),
            ("AIKCACHE_TIMEOUT", "inf", "AIKCACHE_TIMEOUT must be of type float."),
            ("AIKCACHE_TIMEOUT", "-1", "timeout must be between 0 and"),
            ("AIKCACHE_LOCAL_MAX_ENTRIES", "1e3", "AIKCACHE_LOCAL_MAX_ENTRIES must be of type int."),
            ("AIKCACHE_LOCAL_MAX_BYTES", "x", "AIKCACHE_LOCAL_MAX_BYTES must be of type int"),
            ("AIKCACHE_STRICT", "maybe", "AIKCACHE_STRICT must be of type bool."),
            ("AIKCACHE_TTLS", "search", "AIKCACHE_TTLS must be prefix=seconds pairs, as in search=600,resource=300."),
            (
                "AIKCACHE_TTLS",
                "search=soon",
                "AIKCACHE_TTLS must be prefix=seconds pairs, as in search=600,resource=300.",
            ),
            ("AIKCACHE_POLICY", "fifo", "policy must be 's3fifo', 'lru'"),
            ("AIKCACHE_TIMEOUTS", "1", "there is no setting 'timeouts'. Did you mean AIKCACHE_TIMEOUT?"),
            ("AIKCACHE_ZZZ", "1", "the environment has AIKCACHE_ZZZ, and there is no setting 'zzz'."),
        ],
    )
    def test_a_bad_value_names_its_variable(self, name: str, value: str, message: str) -> None:
        """A variable that does not parse, breaks a rule or names no setting is a `ConfigError`."""
        with pytest.raises(ConfigError, match=re.escape(message)):
            Cache.from_env({name: value})


def test_a_policy_may_be_a_cachetools_cache() -> None:
    """A function from the size to a cache is called with `local_max_entries`."""
    sizes = []

    def policy(size: int) -> cachetools.Cache[Any, Any]:
        sizes.append(size)
        return cachetools.FIFOCache(size)

    Cache(policy=policy, local_max_entries=7)
    assert sizes == [7]


def test_settings_made_by_hand_are_validated_too() -> None:
    """`CacheConfig` refuses on its own what `Cache` does."""
    with pytest.raises(ConfigError, match="timeout must be greater than 0"):
        CacheConfig(timeout=0)
    with pytest.raises(ConfigError, match="ttls must map prefixes to seconds"):
        CacheConfig(ttls=cast(Any, None))


def test_a_journal_may_be_a_path(tmp_path: Path) -> None:
    """It becomes its text."""
    assert CacheConfig(journal=cast(Any, tmp_path)).journal == str(tmp_path)


def test_the_environment_may_ask_for_strong_reads() -> None:
    """`AIKCACHE_CONSISTENCY` is the setting."""
    with Cache.from_env({"AIKCACHE_CONSISTENCY": "strong"}) as cache:
        assert cache.config.consistency == "strong"
    with pytest.raises(ConfigError, match="got 'strongest'"):
        Cache.from_env({"AIKCACHE_CONSISTENCY": "strongest"})


def test_local_ttl_is_refused_for_a_strong_function() -> None:
    """What contradicts itself is refused when decorating, and says which of the two to leave out."""
    cache = Cache()
    with pytest.raises(ConfigError, match=r"local_ttl=30 would hold values in this process, and consistency='strong'"):
        cache.cached("p", consistency="strong", local_ttl=30)(print_nothing)
    with pytest.raises(ConfigError, match="consistency must be 'bounded'"):
        cache.cached("p", consistency="weak")(print_nothing)  # type: ignore[arg-type]


def test_without_a_url_all_reads_are_strong() -> None:
    """One process sees all its own invalidations, and its memory is the only tier."""
    with Cache(consistency="strong") as cache:
        runs: list[int] = []

        @cache.cached("p")
        def f(x: int) -> int:
            runs.append(x)
            return len(runs)

        assert [f(1), f(1)] == [1, 1]
        cache.invalidate("p")
        assert f(1) == 2


def print_nothing(x: int) -> None:
    """A function to decorate."""
