"""The Flask extension: configuration, endpoints, commands, the operator's header, and a request's invalidations."""

from __future__ import annotations

import contextvars
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, Response, stream_with_context

import aikcache
from aikcache import Cache, cached
from aikcache.errors import ConfigError
from aikcache.flask import Aikcache

TOKEN = "0123456789-abcdefghijklmnopqrstuvw"
HEADER = "X-Cache-Bypass"
MakeApp = Callable[..., Flask]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of whoever runs the tests, and no default cache left behind."""
    for name in [name for name in os.environ if name.startswith("AIKCACHE_")]:
        monkeypatch.delenv(name)
    yield
    aikcache.configure()


def make_app(*, default: bool = True, name: str = "shop", **config: Any) -> Flask:
    """As an application factory does it. `/price` is cached, `/loads` says how often its function ran."""
    app = Flask(name)
    app.config.update(config)
    Aikcache(default=default).init_app(app)
    cache: Cache = app.extensions["aikcache"]
    app.extensions["price"] = price = [3]
    app.extensions["loads"] = loads = []

    @cache.cached("price")
    def price_of(product: str) -> int:
        loads.append(product)
        return price[0]

    @app.get("/price")
    def shown() -> str:
        return f"{price_of('tea')} {price_of('tea')}"

    @app.get("/streamed")
    def streamed() -> Response:
        return Response(stream_with_context(str(price_of("tea")) for _ in range(2)))

    return app


class TestConfiguration:
    def test_settings_are_the_applications(self) -> None:
        """Values of their own type and texts, as the environment has them, are the same."""
        typed = make_app(AIKCACHE_TIMEOUT=0.25, AIKCACHE_TTLS={"price": 5}, AIKCACHE_STRICT=True, AIKCACHE_JOURNAL=None)
        assert typed.extensions["aikcache"].config.timeout == 0.25
        texts = make_app(AIKCACHE_TIMEOUT="0.25", AIKCACHE_TTLS="price=5", AIKCACHE_STRICT="yes")
        first, second = typed.extensions["aikcache"].config, texts.extensions["aikcache"].config
        assert (first.timeout, first.ttls, first.strict) == (second.timeout, second.ttls, second.strict)

    def test_what_flask_reads_of_its_environment_as_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`from_prefixed_env` parses values as JSON; they mean what they mean without it."""
        for name, text in (("ENABLED", "0"), ("STRICT", "1"), ("VERSION", "2"), ("LOCAL_TTL", "7")):
            monkeypatch.setenv(f"FLASK_AIKCACHE_{name}", text)
        app = Flask("shop")
        app.config.from_prefixed_env()
        Aikcache(app, default=False)
        config = app.extensions["aikcache"].config
        assert (config.enabled, config.strict, config.version, config.local_ttl) == (False, True, "2", 7)

    @pytest.mark.parametrize(
        "wrong", [{"AIKCACHE_FLASK_METRICS_SCOPE": "bogus"}, {"AIKCACHE_FLASK_BYPASS_TOKEN": bytes(range(40))}]
    )
    def test_what_the_extension_refuses_leaves_the_default_cache_alone(self, wrong: dict[str, Any]) -> None:
        """And the application, which can be given its cache when that is put right."""
        before, app = aikcache.default_cache(), Flask("shop")
        app.config.update(wrong)
        with pytest.raises(ConfigError, match="AIKCACHE_FLASK_"):
            Aikcache(app)
        assert aikcache.default_cache() is before
        assert not app.extensions
        app.config.update(dict.fromkeys(wrong))
        Aikcache(app)

    def test_what_flask_refuses_leaves_all_as_it_was(self) -> None:
        """It takes no routes once it has answered a request; without them it can still be given its cache."""
        before, app = aikcache.default_cache(), Flask("shop")
        app.test_client().get("/")
        wsgi_app = app.wsgi_app
        app.config.update(AIKCACHE_FLASK_DEFERRED=True)
        for _ in range(2):
            with pytest.raises(AssertionError, match="add_url_rule"):
                Aikcache(app)
            assert (aikcache.default_cache(), app.wsgi_app, app.extensions) == (before, wsgi_app, {})
        app.config.update(AIKCACHE_FLASK_ENDPOINTS=False)
        Aikcache(app)
        assert aikcache.default_cache() is app.extensions["aikcache"]

    def test_what_is_not_in_it_is_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`app.config` wins."""
        monkeypatch.setenv("AIKCACHE_TIMEOUT", "3")
        monkeypatch.setenv("AIKCACHE_LOCAL_TTL", "7")
        config = make_app(AIKCACHE_TIMEOUT=2).extensions["aikcache"].config
        assert (config.timeout, config.local_ttl) == (2, 7)

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("AIKCACHE_TIMOUT", "AIKCACHE_TIMEOUT"),
            ("AIKCACHE_FLASK_DEFERED", "AIKCACHE_FLASK_DEFERRED"),
            ("AIKCACHE_SESION_URL", "AIKCACHE_SESSION_URL"),
        ],
    )
    def test_a_misspelt_name_is_an_error_that_names_the_nearest(self, name: str, nearest: str) -> None:
        """Of a cache's, of the extension's own, and of the sessions' settings."""
        config: dict[str, Any] = {name: 1}
        with pytest.raises(ConfigError, match=nearest):
            make_app(**config)

    def test_a_misspelt_variable_of_the_extension_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The environment is held to the same names; those that are right concern no other cache."""
        monkeypatch.setenv("AIKCACHE_FLASK_BYPASS_TOKEN", TOKEN)
        monkeypatch.setenv("AIKCACHE_FLASK_TOKEN", "x")
        with pytest.raises(ConfigError, match="AIKCACHE_FLASK_TOKEN"):
            make_app()
        monkeypatch.delenv("AIKCACHE_FLASK_TOKEN")
        make_app()
        Cache.from_env().close()

    @pytest.mark.parametrize(
        "config",
        [
            {"AIKCACHE_URL": "redis://:hunter2-hunter2@h:x/0"},
            {"AIKCACHE_SECRET": "hunter2-hunter2"},
            {"AIKCACHE_FLASK_BYPASS_TOKEN": "hunter2-hunter2"},
        ],
    )
    def test_no_error_shows_what_is_secret(self, config: dict[str, Any]) -> None:
        """What is wrong is said by the setting's name."""
        with pytest.raises(ConfigError) as caught:
            make_app(**config)
        assert "hunter2" not in str(caught.value)

    def test_sessions_settings_may_stand_beside(self) -> None:
        """They are `CacheSessions`'."""
        make_app(AIKCACHE_SESSION_URL="redis://127.0.0.1:1/0", AIKCACHE_MASTER_KEY=TOKEN)

    def test_an_application_has_one_cache(self) -> None:
        """A second `init_app` is a mistake, and said to be."""
        app = make_app()
        with pytest.raises(ConfigError, match="has a cache already"):
            Aikcache(app)


class TestApplications:
    def test_modules_decorate_before_there_is_an_application(self) -> None:
        """The cache of an application is the one of `from aikcache import cached`."""
        runs: list[int] = []

        @cached("early", operation="twice")
        def twice(x: int) -> int:
            runs.append(x)
            return 2 * x

        app = make_app()
        assert (twice(1), twice(1), runs) == (2, 2, [1])
        assert app.extensions["aikcache"] is aikcache.default_cache()

    def test_each_application_of_a_factory_begins_empty(self) -> None:
        """As tests need it."""
        for _ in range(2):
            app = make_app()
            assert app.test_client().get("/price").text == "3 3"
            assert app.extensions["loads"] == ["tea"]

    def test_two_applications_in_one_process_have_a_cache_each(self) -> None:
        """With `default=False`: none sees the other's, and neither is the default one."""
        one, other = (make_app(default=False, name=name) for name in ("one", "other"))
        other.extensions["price"][0] = 4
        for _ in range(2):
            assert one.test_client().get("/price").text == "3 3"
            assert other.test_client().get("/price").text == "4 4"
        assert one.extensions["loads"] == other.extensions["loads"] == ["tea"]
        assert aikcache.default_cache() not in (one.extensions["aikcache"], other.extensions["aikcache"])

    def test_one_extension_object_serves_many(self) -> None:
        """`cache` is that of the application whose context is open."""
        extension = Aikcache(default=False)
        apps = Flask("one"), Flask("other")
        for app in apps:
            extension.init_app(app)
            with app.app_context():
                assert extension.cache is app.extensions["aikcache"]


class TestEndpoints:
    def test_health_is_served_as_json(self) -> None:
        """200 as long as calls are answered, 503 once the cache is closed; no proxy keeps it."""
        app = make_app(default=False)
        result = app.test_client().get("/health/cache")
        assert (result.status_code, result.json["status"], result.headers["Cache-Control"]) == (200, "ok", "no-store")  # type: ignore[index]
        app.extensions["aikcache"].close()
        result = app.test_client().get("/health/cache")
        assert (result.status_code, result.json["ready"]) == (503, False)  # type: ignore[index]

    def test_health_shows_no_secret_and_stays_ready_with_redis_away(self) -> None:
        """A password in the URL is not shown, and calls go on, so it is ready."""
        result = make_app(
            AIKCACHE_URL="redis://user:hunter2@127.0.0.1:1/0", AIKCACHE_INSTANCE="shop", AIKCACHE_CONNECT_TIMEOUT=30
        ).test_client().get("/health/cache")  # fmt: skip
        assert (result.status_code, result.json["status"]) == (200, "degraded")  # type: ignore[index]
        assert "hunter2" not in result.text

    def test_metrics_are_served(self) -> None:
        """Those of the application's prefix, wherever it is mounted."""
        app = make_app(AIKCACHE_METRICS="shop")
        client = app.test_client()
        client.get("/price")
        assert 'shop_cache_hits_total{operation="price:price_of",tier="local"} 1.0' in client.get("/metrics/cache").text
        assert "shop_cache" in client.get("/metrics/cache", environ_overrides={"SCRIPT_NAME": "/mounted"}).text

    def test_they_can_be_left_out(self) -> None:
        """All by a setting; metrics also where nothing is exported."""
        bare = make_app(AIKCACHE_FLASK_ENDPOINTS=False).test_client()
        assert [bare.get(path).status_code for path in ("/health/cache", "/metrics/cache")] == [404, 404]
        silent = make_app(AIKCACHE_METRICS=None).test_client()
        assert [silent.get(path).status_code for path in ("/health/cache", "/metrics/cache")] == [200, 404]

    def test_without_their_packages_there_is_less(self) -> None:
        """Without prometheus_client no metrics, without rich no commands, without cryptography no sessions."""
        code = """
import sys
sys.modules.update(dict.fromkeys(("prometheus_client", "cryptography", "rich"), None))
import importlib.util as u; find = u.find_spec
u.find_spec = lambda name: None if name == "rich" else find(name)
from flask import Flask
from aikcache.flask import Aikcache
app = Flask("shop"); Aikcache(app); client = app.test_client()
print([client.get(path).status_code for path in ("/health/cache", "/metrics/cache")], list(app.cli.commands))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.stdout.strip() == "[200, 404] []", done.stderr


class TestBypass:
    def test_with_the_token_functions_run_and_the_cache_is_refreshed(self) -> None:
        """Each key once; everybody gets the new value afterwards."""
        app = make_app(AIKCACHE_FLASK_BYPASS_TOKEN=TOKEN)
        client = app.test_client()
        assert client.get("/price").text == "3 3"
        app.extensions["price"][0] = 4
        assert client.get("/price").text == "3 3"
        assert client.get("/price", headers={HEADER: TOKEN}).text == "4 4"
        assert client.get("/price").text == "4 4"
        assert len(app.extensions["loads"]) == 2

    @pytest.mark.parametrize("given", ["", "x", TOKEN[:-1], TOKEN + "x", "ü€", f"{TOKEN},{TOKEN}"])
    def test_with_anything_else_the_cache_answers(self, given: str) -> None:
        """No part of the token, and nothing beside it, is enough."""
        app = make_app(AIKCACHE_FLASK_BYPASS_TOKEN=TOKEN)
        for _ in range(2):
            app.test_client().get("/price", environ_overrides={"HTTP_X_CACHE_BYPASS": given})
        assert app.extensions["loads"] == ["tea"]

    def test_without_a_token_there_is_no_such_header(self) -> None:
        """It is off unless it is configured, also for an empty header."""
        app = make_app(AIKCACHE_FLASK_BYPASS_TOKEN="")
        for value in ("", "None", TOKEN):
            app.test_client().get("/price", headers={HEADER: value})
        assert app.extensions["loads"] == ["tea"]

    def test_the_headers_name_can_be_chosen(self) -> None:
        """Then the usual one is none."""
        app = make_app(AIKCACHE_FLASK_BYPASS_TOKEN=TOKEN, AIKCACHE_FLASK_BYPASS_HEADER="X-Fresh")
        for name in (HEADER, HEADER, "X-Fresh"):
            app.test_client().get("/price", headers={name: TOKEN})
        assert len(app.extensions["loads"]) == 2

    @pytest.mark.parametrize("token", ["password", "a" * 40, 5])
    def test_a_token_that_can_be_guessed_is_refused(self, token: object) -> None:
        """As a secret is."""
        with pytest.raises(ConfigError, match="BYPASS_TOKEN"):
            make_app(AIKCACHE_FLASK_BYPASS_TOKEN=token)


class TestDeferred:
    @staticmethod
    def shop(**config: Any) -> Flask:
        """A view that invalidates, and a hook that commits when the request is torn down."""
        app = make_app(**config)
        cache: Cache = app.extensions["aikcache"]
        seen: list[object] = []
        app.extensions["seen"] = seen
        app.config["PROPAGATE_EXCEPTIONS"] = False

        @app.get("/update/<how>")
        def update(how: str) -> str:
            cache.invalidate("price")
            if how == "fail":
                raise LookupError
            return "done"

        @app.teardown_request
        def commit(error: BaseException | None) -> None:
            seen.append(other_sees(cache))

        return app

    @pytest.mark.parametrize("how", ["succeed", "fail"])
    def test_a_requests_invalidations_wait_for_its_end(self, how: str) -> None:
        """Other requests get the old value until all hooks have run, and then never; also if the request failed."""
        app = self.shop(AIKCACHE_FLASK_DEFERRED=True)
        cache: Cache = app.extensions["aikcache"]
        cache.set("price:kept:1", "old")
        app.test_client().get(f"/update/{how}")
        assert app.extensions["seen"] == ["old"]
        assert cache.get("price:kept:1") is None

    def test_otherwise_they_are_made_at_once(self) -> None:
        """It is asked for, and not the rule."""
        app = self.shop()
        app.extensions["aikcache"].set("price:kept:1", "old")
        app.test_client().get("/update/succeed")
        assert app.extensions["seen"] == [None]

    def test_a_client_that_has_its_answer_finds_what_it_changed(self) -> None:
        """The block has ended when the server sends the first byte."""
        app = self.shop(AIKCACHE_FLASK_DEFERRED=True)
        cache: Cache = app.extensions["aikcache"]
        cache.set("price:kept:1", "old")
        environ = app.test_request_context("/update/succeed").request.environ
        app.wsgi_app(environ, lambda *head: lambda data: None)
        assert cache.get("price:kept:1") is None

    def test_a_streamed_answer_is_outside(self) -> None:
        """What it does while it is sent is not held back, and blocks no later request."""
        app = self.shop(AIKCACHE_FLASK_DEFERRED=True, AIKCACHE_FLASK_BYPASS_TOKEN=TOKEN)
        assert app.test_client().get("/streamed", headers={HEADER: TOKEN}).text == "33"
        assert not app.extensions["aikcache"].engine.local.waiting


def other_sees(cache: Cache) -> object:
    """What a thread outside of the request is given."""
    return contextvars.Context().run(cache.get, "price:kept:1")


@pytest.mark.servers
class TestCommands:
    def test_they_ask_the_applications_own_server(self, redis_url: str) -> None:
        """No option and no environment says where: the application does, and as which instance."""
        app = make_app(
            AIKCACHE_URL=redis_url, AIKCACHE_INSTANCE="shop", AIKCACHE_TIMEOUT=30, AIKCACHE_CONNECT_TIMEOUT=30,
            AIKCACHE_ENABLED=True, AIKCACHE_LOCAL_TTL=5,
        )  # fmt: skip
        app.test_client().get("/price")
        run = app.test_cli_runner()
        result = run.invoke(args=["cache", "keys", "price", "--json", "--timeout", "60"])
        assert result.exit_code == 0, result.output
        assert [key["key"] if isinstance(key, dict) else key for key in json.loads(result.stdout)["keys"]] == [
            "price:price_of:tea"
        ]
        assert run.invoke(args=["cache", "invalidate", "price", "--timeout", "60"]).exit_code == 0
        assert app.extensions["loads"] == ["tea"]
        app.extensions["aikcache"].close()

    def test_help_lists_what_is_about_an_application(self) -> None:
        """The command's own words, without its demo."""
        result = make_app().test_cli_runner().invoke(args=["cache", "--help"])
        assert "invalidate" in result.stdout
        assert "demo" not in result.stdout

    def test_errors_are_one_line(self) -> None:
        """As the command's: no traceback, and exit status 2 for what has to be configured."""
        result = make_app().test_cli_runner().invoke(args=["cache", "ping"])
        assert (result.exit_code, "which server?" in result.stderr) == (2, True)

    def test_the_library_of_the_command_is_not_loaded_for_requests(self) -> None:
        """An application that only serves imports none of it."""
        code = (
            "import sys; from flask import Flask; from aikcache.flask import Aikcache\n"
            "Aikcache(Flask('shop')); print([n for n in ('rich', 'aikcache.cli', 'cryptography') if n in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.stdout.strip() == "[]", done.stderr
