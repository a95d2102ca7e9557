import unicodedata
from pathlib import Path

import pytest

from linnet.errors import UserError
from linnet.text.classes import (
    ClassInfo,
    class_sentences,
    class_table,
    described,
    find_class,
    first_sentences,
    say_nothing,
)

BIRDS = (ClassInfo("001.Sooty_Gull", "Sooty Gull"), ClassInfo("017.Red_Owl", "Red Owl"))


def test_descriptions_are_found_by_class_name_or_prompt_name(tmp_path: Path):
    file = tmp_path / "birds.yaml"
    file.write_text("Sooty Gull: a grey   gull.\n017.Red_Owl: [a red owl., with ears.]\n", encoding="utf-8")
    gull, owl = described(BIRDS, file)
    assert gull.descriptions == ("a grey gull.",)
    assert owl.descriptions == ("a red owl.", "with ears.")
    assert class_sentences(gull, ("a photo of a {}.",)) == ["a photo of a Sooty Gull. a grey gull."]
    assert class_sentences(owl, ("a {}.", "one {}")) == [
        *("a Red Owl. a red owl.", "a Red Owl. with ears."),
        *("one Red Owl. a red owl.", "one Red Owl. with ears."),
    ]
    assert class_sentences(BIRDS[0], ("a photo of a {}.",)) == ["a photo of a Sooty Gull."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"Sooty Gul": "x", "Red Owl": "y"}', "describes 1 of 2 classes: '001.Sooty_Gull' is missing"),
        ("- a\n- b", "must map each class name"),
        ("Sooty Gull: 3", "not 'Sooty Gull': 3"),
        ("Sooty Gull: []", "must map each class name"),
        ("Sooty Gull: ['']", "must map each class name"),
        ("{", "not valid YAML or JSON"),
    ],
)
def test_bad_descriptions(text: str, message: str, tmp_path: Path):
    (tmp_path / "d.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        described(BIRDS, tmp_path / "d.yaml")
    with pytest.raises(UserError, match="cannot read"):
        described(BIRDS, tmp_path / "gone.yaml")


def test_a_class_is_found_in_either_spelling_of_its_accents():
    composed, apart = "bl\u00e4uling", "bla\u0308uling"
    for wanted in (composed, apart):
        for name in (composed, apart):
            assert find_class(wanted, [ClassInfo("x", "x"), ClassInfo(name, name)]) == 1


def test_a_class_is_found_by_name_words_or_number():
    for wanted in ("017.Red_Owl", "Red Owl", "17", "017"):
        assert find_class(wanted, BIRDS) == 1
    with pytest.raises(UserError, match=r"no class 'Red Owls'"):
        find_class("Red Owls", BIRDS)
    with pytest.raises(UserError, match="no class '2'"):
        find_class("2", BIRDS)


def prompt_names(*names: str) -> list[str]:
    classes = class_table(names)
    assert [info.name for info in classes] == list(names)
    return [info.prompt_name for info in classes]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["001.Black_footed_Albatross", "002.Laysan_Albatross"], ["Black footed Albatross", "Laysan Albatross"]),
        (["017.Cardinal", "101.White_Pelican"], ["Cardinal", "White Pelican"]),  # some of CUB's classes
        (["001.ak47", "002.7up"], ["ak47", "7up"]),
        (["1_rose", "2_tulip"], ["rose", "tulip"]),
        (["0_rose", "1_Spider-Man", "2_T-shirt"], ["rose", "Spider-Man", "T-shirt"]),
        (["03-lily", "01-rose", "02-tulip"], ["lily", "rose", "tulip"]),
        (["1 rose", "2 tulip"], ["rose", "tulip"]),
        (["1. rose", "2. black-footed cat"], ["rose", "black-footed cat"]),
        (["1 - rose", "2 - tulip"], ["rose", "tulip"]),
        (["1 – rose", "2 – tulip"], ["rose", "tulip"]),
        (["1—rose", "2—tulip"], ["rose", "tulip"]),
        (["1_玫瑰", "2_Ähre"], ["玫瑰", "Ähre"]),
        (["n02085620-Chihuahua", "n02086240-Shih-Tzu"], ["Chihuahua", "Shih-Tzu"]),
    ],
)
def test_a_number_that_only_counts_the_classes_is_dropped(names: list[str], expected: list[str]):
    assert prompt_names(*names) == expected


@pytest.mark.parametrize(
    "names",
    [
        ["737-300", "747-400", "767-200"],
        ["707-320", "737-200"],
        ["1957 Chevrolet", "1958 Ford"],
        ["2012_Audi_A4", "2013_BMW_M3"],
        ["n01440764", "n01443537"],
        ["C-130", "E-170"],
        ["A320", "A330"],
        ["7up", "3M"],
        ["7_up", "3_M"],
        ["class1", "class2"],
        ["1 rose", "3 tulip"],  # a gap
        ["10_a", "11_b"],
        ["1.5 litre", "2.0 V6"],
        ["1-2 person tent", "2-3 person hut"],
        ["1_cent", "2_cents"],
        ["1_oak", "1_elm"],
        ["1-a", "b"],  # not every name has a number
        ["1.a", "2.a"],  # would no longer be unique
        ["1_320", "2_200"],  # nothing with letters is left
        ["1_rose"],  # one name cannot be counted
        ["n02085620-crane", "n02086240-crane"],
        ["n02085620-crane", "tench"],
        ["1_", "2_"],
        ["0", "1"],
        ["T-shirt", "Spider-Man", "BlackFootedAlbatross"],
    ],
    ids=" ".join,
)
def test_a_number_that_belongs_to_a_name_stays(names: list[str]):
    assert prompt_names(*names) == [" ".join(name.replace("_", " ").split()) for name in names]


def test_no_prompt_is_left_without_a_name():
    assert prompt_names("__", "_", "1_rose") == ["__", "_", "1 rose"]


def test_a_number_that_belongs_to_a_name_finds_no_class():
    aircraft = class_table(["737-300", "747-400"])
    assert find_class("747-400", aircraft) == 1
    with pytest.raises(UserError, match="no class '747'"):
        find_class("747", aircraft)


@pytest.mark.parametrize(
    ("names", "silent"),
    [
        (["class1", "class2"], True),
        (["class_00", "class_01", "class_02"], True),
        (["1", "0"], True),
        (["n01440764", "n01443537"], True),
        (["A320", "A330"], False),
        (["737", "747"], False),
        (["class1", "rose2"], False),
        (["rose", "tulip"], False),
    ],
    ids=str,
)
def test_names_that_say_nothing(names: list[str], silent: bool):
    assert say_nothing(class_table(names)) == silent


def test_first_sentences_take_the_first_template_and_the_first_description():
    one, two = ClassInfo("a", "a", ("x.", "y.")), ClassInfo("b", "b")
    assert first_sentences([one, two], ("the {}.", "a {}")) == ["the a. x.", "the b."]


def test_accents_have_one_spelling_wherever_classes_are_named(tmp_path: Path):
    """Some systems write é as e and an accent: it would be another class."""
    composed, taken_apart = (unicodedata.normalize(form, "Bläuling") for form in ("NFC", "NFD"))
    assert composed != taken_apart
    (info,) = class_table([taken_apart])
    assert info == (composed, composed, ())
    (tmp_path / "d.yaml").write_text(f"{taken_apart}: blue", encoding="utf-8")
    assert described([info], tmp_path / "d.yaml")[0].descriptions == ("blue",)
    assert find_class(taken_apart, [info]) == 0
