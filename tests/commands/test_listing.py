import dataclasses
import re
import typing
from collections.abc import Callable

import pytest

from linnet.commands.listing import lines
from linnet.errors import UserError
from linnet.fields import allowed, field_sentences
from linnet.methods import METHODS
from linnet.students.edge import EDGE_STUDENTS
from linnet.students.network import count_millions, has_weights


def test_each_method_has_a_line_that_helps_to_choose():
    head, *shown = lines("methods")
    assert head.split() == ["method", "needs", "cost", "beside", "ce", "what", "for"]
    for line, (id, method) in zip(shown, METHODS.items(), strict=False):
        own, needs, cost, use = re.split("  +", line)
        assert (own, use) == (id, method.use)
        assert needs.startswith(("labels", "no data"))
        assert cost
    assert "linnet list methods METHOD" in shown[-1]
    assert max(map(len, shown)) <= 100


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("ce", "labels  none"),
        ("kd", "labels, any teacher  teacher once"),
        ("pand", "labels, VLM  teacher once"),
        ("vlm-kd", "labels, texts  texts read once"),
        ("dfkd", "no data, classifier  teacher every step"),
    ],
)
def test_needs_and_cost_are_those_of_the_method(id: str, words: str):
    (line,) = [line for line in lines("methods") if line.startswith(f"{id} ")]
    assert words in re.sub("  +", "  ", line)


def test_a_teacher_of_the_students_views_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    for views, words in (("online", "teacher every step"), ("replay:4", "teacher 4 times")):
        monkeypatch.setattr(METHODS["kd"], "defaults", {"teacher": {"views": views}})
        assert any(line.startswith("kd ") and words in line for line in lines("methods"))


def test_the_small_students_come_without_timm(run_without_torch: Callable[[str], str]):
    shown = run_without_torch("from linnet.__main__ import main; main(['list', 'students'])")
    assert "mobilenetv3_small_100     2.54 M" in shown
    assert "linnet list students '*'" in shown.splitlines()[-1]


@pytest.mark.parametrize("name", EDGE_STUDENTS)
def test_the_small_students_are_as_timm_has_them(name: str):
    assert count_millions(name) == pytest.approx(EDGE_STUDENTS[name].millions, abs=0.005)
    assert has_weights(name)


def test_a_pattern_names_students_with_parameters_and_weights():
    shown = [line.split() for line in lines("students", "test_resnet*")]
    assert shown == [["test_resnet", f"{count_millions('test_resnet'):.2f}", "M", "weights"]]
    assert ["resnet8x4", "1.23", "M", "from", "scratch", "only"] in [
        line.split() for line in lines("students", "resnet8x*")
    ]


def test_of_many_students_only_the_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("linnet.students.network.count_millions", lambda name: pytest.fail("it is built"))
    shown = list(lines("students", "resnet*"))
    assert shown[-1].startswith(f"{len(shown) - 1} networks; of up to 40")
    with pytest.raises(UserError, match="no network 'resnet188'. Did you mean 'resnet18'"):
        list(lines("students", "resnet188"))


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
    assert heads == ["dkd", "dist", "dual", "dfkd"]


@pytest.mark.parametrize("what", ["methods", "teachers", "students", "data"])
def test_tables_fit_a_terminal(what: str):
    assert max(map(len, lines(what))) <= 100


def test_a_method_that_is_not_there():
    with pytest.raises(UserError, match=r"no method 'pant' \(known: ce, kd, .*\)\. Did you mean 'pand'\?"):
        list(lines("methods", "pant"))
