"""Where the demo puts its store and picture: it removes what it made itself, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from millstream.app import App
from millstream.cli.flights.place import MARKER, PICTURE_MARK, clear, marked, write_picture
from millstream.primitives.errors import ConfigurationError


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return tmp_path / "flights.svg"


@pytest.fixture
def made(store_path: Path) -> Path:
    """The store of an earlier demo."""
    with App("flights", store=store_path) as app:
        app.topic("departures").append([{"key": b"k", "value": b"v"}])
        with marked(store_path):
            pass
    return store_path


def test_where_nothing_is_there_is_nothing_to_remove(store_path: Path, picture: Path) -> None:
    assert clear(store_path, picture) is False
    store_path.mkdir()
    assert clear(store_path, picture) is False
    assert store_path.is_dir()


def test_the_store_of_an_earlier_demo_is_removed(made: Path, picture: Path) -> None:
    assert clear(made, picture) is True
    assert not made.exists()


def test_a_removal_that_was_cut_short_is_taken_up_again(made: Path, picture: Path) -> None:
    shutil.rmtree(made / "segments")
    (made / "MILLSTREAM").unlink()
    assert clear(made, picture) is True
    assert not made.exists()


def test_another_store_stays(made: Path, picture: Path) -> None:
    (made / MARKER).unlink()
    with pytest.raises(ConfigurationError, match="did not make") as caught:
        clear(made, picture)
    assert "--store" in caught.value.next_step
    with App("flights", store=made) as app:
        assert app.topics() == ["departures"]


def test_what_is_no_store_stays(tmp_path: Path, picture: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "letter").write_text("dear", encoding="utf-8")
    file.write_text("mine", encoding="utf-8")
    for path in (folder, file):
        with pytest.raises(ConfigurationError, match="did not make"):
            clear(path, picture)
    assert (folder / "letter").read_text(encoding="utf-8") == "dear"
    assert file.read_text(encoding="utf-8") == "mine"


def test_something_of_a_stranger_in_our_store_keeps_all_of_it(made: Path, picture: Path) -> None:
    (made / "letter").write_text("dear", encoding="utf-8")
    before = sorted(made.rglob("*"))
    with pytest.raises(ConfigurationError, match="letter"):
        clear(made, picture)
    assert sorted(made.rglob("*")) == before


def test_a_link_to_our_store_is_not_followed(made: Path, tmp_path: Path, picture: Path) -> None:
    link = tmp_path / "link.mill"
    link.symlink_to(made)
    with pytest.raises(ConfigurationError, match="link"):
        clear(link, picture)
    assert (made / MARKER).is_file()


def test_a_store_in_which_a_demo_runs_stays(made: Path, picture: Path) -> None:
    with marked(made):
        with pytest.raises(ConfigurationError, match="another demo"):
            clear(made, picture)
        with pytest.raises(ConfigurationError, match="another demo"), marked(made):
            pass
    assert clear(made, picture) is True


def test_only_a_picture_of_ours_is_replaced(store_path: Path, picture: Path) -> None:
    write_picture(picture, f"<svg>{PICTURE_MARK}</svg>")
    clear(store_path, picture)
    write_picture(picture, f"<svg>{PICTURE_MARK} again</svg>")
    assert "again" in picture.read_text(encoding="utf-8")
    picture.write_text("<svg>mine</svg>", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="did not draw"):
        clear(store_path, picture)
    assert picture.read_text(encoding="utf-8") == "<svg>mine</svg>"
    assert list(picture.parent.iterdir()) == [picture]


def test_a_place_where_the_picture_cannot_lie_is_refused_at_once(
    made: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for path in (made / "p.svg", made, tmp_path / "file" / "p.svg", tmp_path):
        with pytest.raises(ConfigurationError, match=r"cannot be left|did not draw"):
            clear(made, path)
    assert (made / MARKER).is_file()


def test_the_directory_of_the_picture_is_made(store_path: Path, tmp_path: Path) -> None:
    picture = tmp_path / "new" / "folder" / "flights.svg"
    clear(store_path, picture)
    write_picture(picture, "<svg/>")
    assert picture.read_text(encoding="utf-8") == "<svg/>"
