from collections.abc import Callable
from pathlib import Path

import pytest

from linnet.data.sources import SOURCES, as_written, find_source
from linnet.errors import UserError


def test_a_folder_is_the_last_guess():
    """Any text is a path: what came after it would never be asked."""
    assert list(SOURCES)[-1] == "folder"
    assert all(SOURCES["folder"].matches(text) for text in ("photos", "a:b", "aviary"))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("aviary", "aviary"),
        ("aviary:species=3,images=2", "aviary"),
        ("./aviary", "folder"),
        ("aviaries", "folder"),
        ("a/photos", "folder"),
        ("C:/photos", "folder"),
    ],
)
def test_data_is_of_the_first_kind_that_takes_it(data: str, kind: str):
    assert find_source(data) is SOURCES[kind]


@pytest.mark.parametrize("data", [None, "", " "])
def test_no_data(data: str | None):
    with pytest.raises(UserError, match="no data given"):
        find_source(data)


@pytest.mark.parametrize("data", ["aviary", "aviary:species=3", "list:a", "list:a:b"])
def test_a_source_that_is_also_a_path_is_refused(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder called aviary was trained on as drawn birds."""
    monkeypatch.chdir(tmp_path)
    assert find_source(data) is not SOURCES["folder"]
    try:
        (tmp_path / data).mkdir()
    except OSError:
        pytest.skip("this file system refuses the name")
    with pytest.raises(UserError, match=f"'{data}' is a source of data and also a path .* write ./{data} for the path"):
        find_source(data)
    for path in (
        f"./{data}",
        f"./{data}/",
        str(tmp_path / data),
        Path(data),
        *(["aviary/"] if data == "aviary" else []),
    ):
        assert find_source(as_written(path)) is SOURCES["folder"]
        assert Path(as_written(path)).resolve() == (tmp_path / data).resolve()
    assert find_source("aviary:") is SOURCES["aviary"]


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ("photos/", "photos"),
        ("./photos", "photos"),
        ("a//b", "a/b"),
        ("aviary:species=3", "aviary:species=3"),
        (".", "."),
    ],
)
def test_data_is_kept_in_one_spelling(data: str, kept: str):
    assert as_written(data) == kept


def test_a_folder_shows_a_few_of_its_images_and_the_aviary_none(make_folder: Callable[..., Path]):
    folder = make_folder(images=12)
    shown = find_source(str(folder)).images(str(folder), 5)
    assert 3 <= len(shown) <= 8  # of 36
    assert all(path.is_file() and folder in path.parents for path in shown)
    assert find_source("aviary").images("aviary", 5) == []
    assert [find_source(data).defaults for data in ("aviary", "photos")] == ["drawn", "photos"]
