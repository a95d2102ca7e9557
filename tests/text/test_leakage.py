import pytest

from linnet.text.classes import ClassInfo, class_table
from linnet.text.leakage import names_of, naming_share, without_names

APPLES = class_table(["granny_smith", "red_delicious", "lemon"])


@pytest.mark.parametrize(
    ("hide", "text", "left"),
    [
        ("none", "A Granny Smith apple.", "A Granny Smith apple."),
        ("names", "A Granny Smith apple.", "A apple."),
        ("names", "granny-smith apples, LEMONS and a lemon's peel", "apples, and a peel"),
        ("names", "Lemonade of a red apple by Smith", "Lemonade of a red apple by Smith"),
        ("words", "Lemonade of a red apple by Smith", "Lemonade of a apple by"),
        ("words", "Two reds; a smith, grannies", "Two; a, grannies"),
        ("names", "Red Delicious: shiny, lemon, round", "shiny, round"),
    ],
)  # fmt: skip
def test_names_are_cut_out_of_texts_and_nothing_else(hide: str, text: str, left: str):
    assert without_names([(text,)], APPLES, hide) == [(left,)]  # type: ignore[arg-type]


def test_a_text_of_which_nothing_is_left_goes():
    assert without_names([("Lemon.", "a lemon"), ("Lemons!",)], APPLES, "names") == [("a",), ()]


def test_the_longest_name_is_found_first():
    classes = class_table(["tern", "arctic_tern"])
    assert without_names([("an Arctic tern above terns",)], classes, "names") == [("an above",)]


def test_numbers_in_front_and_prompt_names_count_as_names():
    classes = (ClassInfo("007.Parakeet_Auklet", "Parakeet Auklet"), ClassInfo("n01440764", "tench"))
    texts = [("a parakeet auklet", "n01440764"), ("a tench",)]
    assert without_names(texts, classes, "names") == [("a",), ("a",)]


def test_names_may_hold_marks_that_mean_something_in_a_pattern():
    classes = (ClassInfo("c++ (old)", "c++ (old)"), ClassInfo("b", "b"))
    assert without_names([("a C++ (old) book",)], classes, "names") == [("a book",)]


def test_naming_share_counts_texts_that_name_their_own_class():
    texts = [("a lemon", "yellow"), ("a lemon",), ("a lemon",)]
    assert naming_share(texts, [APPLES[2], APPLES[0], None]) == pytest.approx(1 / 3)
    assert naming_share([()], [APPLES[2]]) == 0


def test_a_number_that_belongs_to_a_name_is_part_of_it():
    """Cut off, "300" alone would be hidden wherever it stands."""
    aircraft = class_table(["737-300", "747-400"])
    texts = [("a 737-300 with 300 seats",)]
    assert without_names(texts, aircraft, "names") == [("a with 300 seats",)]
    assert names_of(class_table(["1_rose", "2_tulip"])[0]) == {"rose"}
