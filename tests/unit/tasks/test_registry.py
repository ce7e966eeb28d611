"""Options of all tasks of an app, routes, and modules that are found."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.primitives.errors import ConfigurationError, UnknownTask
from millstream.tasks.limits import RETRIES_MAX, ROUTES_MAX
from millstream.tasks.options import TaskKeywords, with_defaults
from millstream.tasks.routes import routes_of


def test_defaults_hold_for_what_a_task_leaves_open() -> None:
    app = ms.App(
        "x", task_defaults={"retries": 7, "queue": "work", "result_ttl": "1h", "priority": 3}
    )

    @app.task
    def plain() -> None: ...

    @app.task(max_retries=None, queue="own", ignore_result=False)
    def own() -> None: ...

    assert plain.options.policy.retries == 7
    assert (plain.options.queue, plain.options.priority) == ("work", 3)
    assert plain.options.result_ttl_us == 3_600_000_000
    assert own.options.policy.retries == RETRIES_MAX
    assert (own.options.queue, own.options.priority) == ("own", 3)
    assert own.options.result_ttl_us == 86_400_000_000


def test_one_word_of_several_for_a_thing_is_enough() -> None:
    defaults: TaskKeywords = {"backoff": "constant", "retries": 1}
    assert with_defaults({"retry_backoff": True}, defaults) == {"retries": 1, "retry_backoff": True}


@pytest.mark.parametrize("defaults", [{"retry": 3}, {"priority": 10}, {"retries": -1}])
def test_wrong_defaults_are_refused_by_the_app(defaults: Any) -> None:
    with pytest.raises(ConfigurationError):
        ms.App("x", task_defaults=defaults)


def test_an_option_that_there_is_not_is_refused() -> None:
    app = ms.App("x")
    with pytest.raises(ConfigurationError, match="did you mean 'rate_limit'"):
        app.task(rate_limits="1/s")  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="leave it out"):
        app.task(zzz=1)  # type: ignore[call-overload]


def test_routes_say_where_calls_wait() -> None:
    """First what the call says, then the task, then the first route that fits, then the defaults."""
    routes = {
        "mail.*": "mail",
        re.compile(r"(image|video)\..*"): {"queue": "media", "priority": 1},
        "image.small": "never",
    }
    app = ms.App("x", task_routes=routes, task_defaults={"queue": "rest"})

    def task(name: str, **options: Any) -> ms.Signature[None]:
        @app.task(name=name, **options)
        def function() -> None: ...

        return function.s()

    def place(signature: ms.Signature[None]) -> tuple[str, int]:
        message = signature.message(0)
        return message.queue, message.priority

    assert place(task("mail.send")) == ("mail", 5)
    assert place(task("image.small")) == ("media", 1)
    assert place(task("video.cut", queue="own")) == ("own", 1)
    assert place(task("video.join").set(queue="now", priority=9)) == ("now", 9)
    assert place(task("other")) == ("rest", 5)
    # Sent by name by someone who does not know the task.
    assert place(app.tasks.signature("mail.unknown")) == ("mail", 5)
    assert place(app.tasks.signature("unknown")) == ("rest", 5)


@pytest.mark.parametrize(
    "routes",
    [
        {"": "queue"},
        {"a": ""},
        {"a": {}},
        {"a": {"routing_key": "x"}},
        {"a": {"priority": 12}},
        [(f"task{n}", "q") for n in range(ROUTES_MAX + 1)],
    ],
)
def test_wrong_routes_are_refused_by_the_app(routes: Any) -> None:
    with pytest.raises(ConfigurationError):
        ms.App("x", task_routes=routes)


def test_the_limit_of_routes_is_reached() -> None:
    assert routes_of([(f"task{n}", "q") for n in range(ROUTES_MAX)]).of("task999") == {"queue": "q"}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    (tmp_path / "site_app.py").write_text("import millstream as ms\napp = ms.App('site')\n")
    for package in ("site_shop", "site_mail", "site_empty"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    for package in ("site_shop", "site_mail"):
        source = "from site_app import app\n@app.task\ndef run() -> None: ...\n"
        (tmp_path / package / "tasks.py").write_text(source)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def site() -> ms.App:
    from site_app import app  # type: ignore[import-not-found]

    assert isinstance(app, ms.App)
    return app


def test_modules_are_found_when_they_are_needed(packages: Path) -> None:
    app = site()
    app.autodiscover(["site_shop", "site_empty"])
    app.autodiscover(lambda: ["site_mail"])
    assert "site_shop.tasks" not in sys.modules
    assert app.tasks.get("site_shop.tasks.run").name == "site_shop.tasks.run"
    assert {"site_shop.tasks.run", "site_mail.tasks.run"} <= set(app.tasks.names())
    with pytest.raises(UnknownTask):
        app.tasks.get("site_empty.tasks.run")


def test_an_app_includes_modules(packages: Path) -> None:
    (packages / "site_app.py").write_text(
        "import millstream as ms\napp = ms.App('site', include=['site_shop.tasks', 'site_mail.tasks'])\n"
    )
    assert {"site_shop.tasks.run", "site_mail.tasks.run"} <= set(site().tasks.names())


@pytest.mark.parametrize(
    ("found", "options", "told"),
    [
        (
            ["site_missing"],
            {},
            "'site_missing' cannot be imported: there is no module 'site_missing'",
        ),
        (["site_shop.missing.deep"], {}, "there is no module 'site_shop.missing'"),
        (["site-shop"], {}, "it cannot be the name of a module"),
        (["site_empty"], {}, "none of 'site_empty' has a module 'tasks'"),
        (["site_app"], {}, "none of 'site_app' has a module 'tasks'"),
        (["site_shop"], {"related_name": "jobs"}, "none of 'site_shop' has a module 'jobs'"),
        ("site_shop", {}, "the packages are one text"),
    ],
)
def test_what_is_not_there_is_said(
    packages: Path, found: Any, options: dict[str, Any], told: str
) -> None:
    app = site()
    app.autodiscover(found, **options)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=told):
            app.tasks.names()


@pytest.mark.parametrize("place", ["tasks.py", "__init__.py"])
def test_what_a_module_raises_passes(packages: Path, place: str) -> None:
    (packages / "site_shop" / place).write_text("import not_installed_anywhere\n")
    app = site()
    app.autodiscover(["site_shop"])
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        app.tasks.names()
