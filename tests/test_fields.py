from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from linnet.config import Config
from linnet.config_files import nest
from linnet.errors import UserError
from linnet.fields import AUTO, Auto, Bounds, Pattern, allowed, coerce, field_sentences, from_dict
from linnet.methods import METHODS


def test_strings_of_the_command_line_become_values():
    config = from_dict(
        Config,
        nest(
            {
                "train.epochs": "3",
                "train.clip-norm": "none",
                "student.pretrained": "false",
                "train.milestones": ["0.5", "0.9"],
            }
        ),
    )
    assert (config.train.epochs, config.train.clip_norm, config.student.pretrained) == (3, None, False)
    assert config.train.milestones == (0.5, 0.9)
    assert from_dict(Config, nest({"student.pretrained": "a/b.pth"})).student.pretrained == Path("a/b.pth")


def test_inherited_options_keep_their_sentences_and_the_newer_one_wins():
    @dataclass(frozen=True)
    class Base:
        first: int = 1
        """Of the base."""
        second: int = 2
        """Of the base, too."""

    @dataclass(frozen=True)
    class Own(Base):
        second: int = 3
        """Its own."""

    assert field_sentences(Own) == {"first": "Of the base.", "second": "Its own."}
    pand, vl2lite = (field_sentences(METHODS[id].Options) for id in ("pand", "vl2lite"))
    assert pand["temperature"] == vl2lite["temperature"]
    assert set(vl2lite) < set(pand)


@pytest.mark.parametrize("word", [None, "auto"])
def test_what_may_be_left_open_is_left_open_by_null_or_auto_but_not_by_none(word: str | None):
    assert coerce(word, Annotated[int, Bounds(1), Auto], "train.epochs") is AUTO
    with pytest.raises(UserError, match="train.epochs cannot be none: give a value, or auto"):
        coerce("none", Annotated[int, Bounds(1), Auto], "train.epochs")
    assert coerce("none", Annotated[Literal["none", "light"], Auto], "data.views") == "none"  # a choice


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Annotated[int, Bounds(1)], "a whole number of at least 1"),
        (Annotated[float, Bounds(0, 1), Auto], "a number from 0 to 1"),
        (Literal["a", "b", "c"], "a, b or c"),
        (bool | Path, "true or false or a path"),
        (Annotated[str, Pattern("x+", "some x")], "some x"),
        (tuple[float, ...], "a number, or several"),
        (int | None, "a whole number"),
    ],
)
def test_allowed_values_in_words(kind: object, words: str):
    assert allowed(kind) == words
