import pytest
import torch
from hand_made import fake_teacher, logit_batch, logit_method, logit_student

from linnet import methods
from linnet.config import Config
from linnet.losses import cross_entropy
from linnet.methods.base import Context, Method, Needs
from linnet.methods.sum import MethodSum
from linnet.step import Progress

NOW = Progress(0, 1)


def test_a_sum_adds_the_weighted_terms_of_the_others_and_never_their_ce():
    data, out = logit_batch(), logit_student()
    both = logit_method("ce+kd:0.25")(data, out, NOW)
    assert torch.allclose(both["ce"], cross_entropy(out.logits_BC, data.labels))
    assert torch.allclose(both["kd"], 0.25 * logit_method("kd")(data, out, NOW)["kd"])


def test_sums_take_the_detail_without_its_cross_entropy():
    data, out = logit_batch(), logit_student()
    terms, alone = (logit_method(method)(data, out, NOW) for method in ("dist+figkd:0.5", "figkd"))
    assert set(terms) == {"ce", "inter", "intra", "figkd"}
    assert terms["ce"].item() == pytest.approx(alone["ce"].item())
    assert terms["figkd"].item() == pytest.approx(alone["figkd"].item() / 2)


class Told(Method):
    """A method that remembers what it was told, and has a number and maybe a picture to show."""

    def __init__(self, name: str, picture: torch.Tensor | None = None, maps: bool = False):
        super().__init__()
        self.name, self.picture, self.needs, self.heard = name, picture, Needs(maps=maps), []

    def prepare(self, context: Context) -> None:
        self.heard.append("prepare")

    def hand_over(self, student: object) -> None:
        self.heard.append(student)

    def numbers(self) -> dict[str, float]:
        return {f"{self.name}.number": 1.0}

    def pictures(self) -> torch.Tensor | None:
        return self.picture


def test_every_part_is_prepared_handed_the_student_and_heard():
    picture = torch.rand(2, 3, 8, 8)
    parts = [Told("a"), Told("b", picture, maps=True), Told("c", torch.zeros(1))]
    both = MethodSum([(part, 1.0) for part in parts])
    both.prepare(Context(Config(), (), 5, fake_teacher("vlm"), None))
    both.hand_over("the student")
    assert all(part.heard == ["prepare", "the student"] for part in parts)
    assert both.numbers() == {"a.number": 1.0, "b.number": 1.0, "c.number": 1.0}
    assert both.pictures() is picture  # the first that has some
    assert MethodSum([(Told("a"), 1.0)]).pictures() is None
    assert both.needs.maps
    assert not MethodSum([(Told("a"), 1.0), (Told("b"), 1.0)]).needs.maps


def test_the_parameters_of_all_parts_are_trained():
    pand, figkd = (methods.build(method, {}) for method in ("pand+figkd", "figkd"))
    assert isinstance(pand, MethodSum)
    assert not isinstance(figkd, MethodSum)
    assert [type(part).__name__ for part in pand.parts] == ["PAND", "FiGKD"]
