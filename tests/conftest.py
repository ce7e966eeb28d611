"""What every test shares: the seed of the run, a path for a store, and an account of what did not run.

Environment:
    MILLSTREAM_SEED         replays a run: the number that the run's header printed.
    MILLSTREAM_REQUIRE_ALL  when set, a test that would be skipped fails, unless it needs data of others. CI sets it.
    MILLSTREAM_NEXMARK      the folder of the Nexmark data, see tests/integration/test_nexmark.py.
"""

from __future__ import annotations

import os
import secrets
import signal
import zlib
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

# CI always runs the same examples, so that it fails for a change and not for a throw of the dice.
CI_SEED = 336_776

_run_seed = pytest.StashKey[int]()

hypothesis.settings.register_profile(
    "house",
    print_blob=True,
    # How long an example takes depends on who else uses the machine; pytest-timeout stops a hang.
    deadline=None,
)
hypothesis.settings.load_profile("house")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed of this run before Hypothesis reads its own."""
    given = config.getoption("hypothesis_seed")
    seed = int(given) if given is not None else _chosen_seed()
    config.option.hypothesis_seed = str(seed)
    config.stash[_run_seed] = seed


def _chosen_seed() -> int:
    if "MILLSTREAM_SEED" in os.environ:
        return int(os.environ["MILLSTREAM_SEED"])
    return CI_SEED if os.environ.get("CI") else secrets.randbits(32)


def pytest_report_header(config: pytest.Config) -> str:
    """Print the seed where everybody looks first."""
    seed = config.stash[_run_seed]
    return f"seed: {seed} (replay with MILLSTREAM_SEED={seed} make test)"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number that differs from test to test and is the same in every run with the same seed."""
    return zlib.crc32(request.node.nodeid.encode(), request.config.stash[_run_seed])


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Where a test may make its store. Nothing is there yet."""
    return tmp_path / "store.mill"


# ---- signals are those of a terminal ------------------------------------------------------------

# A shell that starts something in the background lets it ignore Ctrl-C, and all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def hangups() -> Generator[None, None, None]:
    """Let SIGHUP mean what it means on a terminal, for a test and what it starts: under ``nohup`` it means nothing."""
    if not hasattr(signal, "SIGHUP"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


# ---- nothing is skipped silently ----------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one where everything has to run."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a skipped file into a failed one where everything has to run."""
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    expected_failure = hasattr(report, "wasxfail")
    if not os.environ.get("MILLSTREAM_REQUIRE_ALL") or not report.skipped or expected_failure:
        return
    if "needs_data" in report.keywords:
        return  # data of others, which nobody can install
    report.outcome = "failed"
    report.longrepr = (
        f"{report.nodeid} was not run: {_reason(report)}. MILLSTREAM_REQUIRE_ALL is set, so "
        "whatever is missing has to be installed by .ci/run."
    )


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    detail = report.longrepr
    text = detail[2] if isinstance(detail, tuple) else str(detail)
    return text.removeprefix("Skipped: ").strip() or "no reason given"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was not run, and why."""
    reasons = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    deselected = len(terminalreporter.stats.get("deselected", []))
    if deselected:
        reasons["deselected on the command line"] = deselected
    listed = "; ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    terminalreporter.write_line(f"Not run: {listed or 'nothing'}.")
