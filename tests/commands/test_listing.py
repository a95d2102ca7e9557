import dataclasses
import typing

import pytest

from linnet.commands.listing import lines
from linnet.errors import UserError
from linnet.fields import allowed, field_sentences
from linnet.methods import METHODS


def test_each_method_has_a_line():
    shown = list(lines("methods"))
    assert len(shown) == len(METHODS) + 1
    for line, (id, method) in zip(shown[:-1], METHODS.items(), strict=True):
        assert line.split() == [id, *method.summary.split()]
    assert "linnet list methods METHOD" in shown[-1]


@pytest.mark.parametrize("id", METHODS)
def test_the_options_of_a_method_are_shown_with_sentence_default_and_bounds(id: str):
    options = METHODS[id].Options
    shown, hints = list(lines("methods", id)), typing.get_type_hints(options, include_extras=True)
    if not dataclasses.fields(options):
        assert shown[1:] == ["  (no options)"]
        return
    assert len(shown) == 1 + 2 * len(dataclasses.fields(options))
    for spec, line, sentence in zip(dataclasses.fields(options), shown[1::2], shown[2::2], strict=True):
        assert line.startswith(f"  --{id}.{spec.name.replace('_', '-')}  {allowed(hints[spec.name])}  [default: ")
        assert sentence.strip() == field_sentences(options)[spec.name]


def test_options_of_pand_by_hand():
    shown = [line.strip() for line in lines("methods", "pand")]
    assert "--pand.neighbours  a whole number of at least 1  [default: 3]" in shown
    assert "--pand.center-teacher  true or false  [default: false]" in shown
    assert any(line.startswith("--pand.schedule  ") and line.endswith("[default: auto]") for line in shown)


def test_a_pattern_names_several_methods():
    heads = [line.split()[0] for line in lines("methods", "d*") if not line.startswith(" ")]
    assert heads == ["dkd", "dist", "dfkd"]


def test_a_method_that_is_not_there():
    with pytest.raises(UserError, match=r"no method 'pant' \(known: ce, kd, .*\)\. Did you mean 'pand'\?"):
        list(lines("methods", "pant"))
