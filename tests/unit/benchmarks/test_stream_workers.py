"""The rate of workers that share a stream, from what they published."""

from __future__ import annotations

import polars as pl
import pytest

from benchmarks.stream.shared import rate_between

SECOND = 1_000_000


def published(*commits: tuple[int, int, int]) -> pl.DataFrame:
    rows = [(partition, second * SECOND, hits) for partition, second, hits in commits]
    return pl.DataFrame(rows, schema=["partition", "at_us", "hits"], orient="row")


def test_partitions_are_counted_while_all_are_at_work():
    # partition 0   10 . 20 . 20 . 20 . 900       begun at 1, the first partition is through at 7
    # partition 1    .  5 . 10 . 10 . 10 . 10 900
    commits = published(
        *((0, 0, 10), (0, 2, 20), (0, 4, 20), (0, 6, 20), (0, 7, 900)),
        *((1, 1, 5), (1, 3, 10), (1, 5, 10), (1, 7, 10), (1, 9, 10), (1, 10, 900)),
    )
    # 40 in the 4 seconds behind the first commit of partition 0, 20 in those of partition 1, whose start counts not.
    assert rate_between(commits, 1 * SECOND) == pytest.approx(40 / 4 + 20 / 4)


def test_the_order_of_the_rows_does_not_matter():
    commits = published((0, 0, 1), (0, 2, 6), (0, 4, 8), (0, 5, 99))
    assert rate_between(commits.reverse(), 0) == rate_between(commits, 0) == pytest.approx(14 / 4)


@pytest.mark.parametrize(
    "commits",
    [
        published((0, 0, 10), (0, 2, 10), (0, 4, 10), (1, 4, 10)),
        published((0, 0, 10), (0, 1, 10), (0, 2, 10), (1, 3, 10), (1, 4, 10), (1, 5, 10)),
    ],
    ids=["one commit", "one is done before the other begins"],
)
def test_without_commits_of_all_there_is_no_rate(commits: pl.DataFrame):
    with pytest.raises(RuntimeError, match="too few events"):
        rate_between(commits, 0)
