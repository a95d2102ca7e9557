"""The methods on logits alone: what they make of the losses and transforms that are tested elsewhere."""

import math

import numpy as np
import pytest
import pywt
import torch

from linnet import methods
from linnet.config import Config
from linnet.data.batches import Batch
from linnet.data.manifest import ClassInfo
from linnet.errors import UserError
from linnet.losses import cross_entropy, decoupled_kl, relation_losses, softened_kl
from linnet.methods.base import Context, Method, Progress
from linnet.students import StudentOutput
from linnet.teachers.base import ClassHead, Teacher, TeacherOutput

LOGIT_METHODS = ("dkd", "dist", "figkd")


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prepared(method: str, classes: int = 8, head: ClassHead | None = None, seed: int = 0, **options: object) -> Method:
    teacher = Teacher("fake", torch.nn.Identity(), lambda image: torch.zeros(3, 8, 8), "")
    teacher.kind = "classifier"  # type: ignore[misc]
    made = methods.build(method, {method: options})
    head = head or ClassHead(weights_CD=random(classes, 5, seed=9))
    names = tuple(ClassInfo(str(c), f"class {c}") for c in range(classes))
    made.prepare(Context(Config(seed=seed), names, 5, teacher, head))
    return made


def batch(classes: int = 8, seed: int = 1) -> Batch:
    teacher = TeacherOutput(4 * random(6, classes, seed=seed))
    return Batch(torch.arange(6), 0, torch.zeros(6, 3, 8, 8), torch.arange(6) % classes, teacher)


def student(classes: int = 8, seed: int = 2) -> StudentOutput:
    return StudentOutput(torch.zeros(6, 5), random(6, classes, seed=seed).requires_grad_())


def epoch(number: int, epochs: int = 24) -> Progress:
    return Progress(number, epochs, number, epochs)


def test_dkd_warms_up_over_a_twelfth_of_the_epochs():
    data, out = batch(), student()
    tckd, nckd = decoupled_kl(out.logits_BC, data.teacher.logits_BC, data.labels, 4.0)  # type: ignore[union-attr]
    for number, factor in ((0, 0.5), (1, 1.0), (2, 1.0), (23, 1.0)):  # 24 / 12 = 2 epochs
        terms = prepared("dkd")(data, out, epoch(number))
        assert terms["ce"].item() == pytest.approx(cross_entropy(out.logits_BC, data.labels).item())
        assert terms["tckd"].item() == pytest.approx(factor * tckd.item())
        assert terms["nckd"].item() == pytest.approx(8 * factor * nckd.item())
    assert prepared("dkd", warmup=0.0)(data, out, epoch(0))["tckd"] == tckd


def test_dist_weighs_both_relations():
    data, out = batch(), student()
    inter, intra = relation_losses(out.logits_BC, data.teacher.logits_BC, 4.0)  # type: ignore[union-attr]
    terms = prepared("dist", inter_weight=3.0)(data, out, epoch(0))
    assert [terms["inter"].item(), terms["intra"].item()] == pytest.approx([3 * inter.item(), 2 * intra.item()])


@pytest.mark.filterwarnings("ignore:Level value:UserWarning")  # PyWavelets', where filters are longer than the signal
@pytest.mark.parametrize(("classes", "wavelet", "levels"), [(8, "haar", 1), (7, "haar", 3), (9, "db3", 2)])
@pytest.mark.parametrize("band", ["high", "low", "both"])
@pytest.mark.parametrize("standardize", [True, False])
def test_figkd_is_the_naive_sum_over_pywavelets_coefficients(
    classes: int, wavelet: str, levels: int, band: str, standardize: bool
):
    data, out = batch(classes), student(classes)
    made = prepared("figkd", classes, wavelet=wavelet, levels=levels, band=band, standardize=standardize, weight=3.0)
    assert sorted(made.order_C.tolist()) == list(range(classes))

    def coefficients(row: torch.Tensor) -> np.ndarray:
        z = row.detach().numpy()
        z = (z - z.mean()) / math.sqrt(z.var() + 1e-6) if standardize else z
        low, *details = pywt.wavedec(z[made.order_C.numpy()], wavelet, mode="periodization", level=levels)
        return np.concatenate({"high": details, "low": [low], "both": [low, *details]}[band])

    expected = 0.0
    for z, u in zip(out.logits_BC, data.teacher.logits_BC, strict=True):  # type: ignore[union-attr]
        expected += ((coefficients(z) - coefficients(u)) ** 2).sum() / classes / 6
    terms = made(data, out, epoch(0))
    assert terms["figkd"].item() == pytest.approx(3 * expected, rel=1e-8)
    assert terms["ce"].item() == pytest.approx(cross_entropy(out.logits_BC, data.labels).item())


def test_haar_detail_is_blind_to_what_a_pair_has_in_common():
    data, out = batch(), student()
    made = prepared("figkd", standardize=False, class_order="random")
    value = made(data, out, epoch(0))["figkd"]
    pair = made.order_C[2:4]
    both, one = out.logits_BC.detach().clone(), out.logits_BC.detach().clone()
    both[:, pair] += 5
    one[:, pair[0]] += 5
    assert made(data, StudentOutput(out.features_BD, both), epoch(0))["figkd"].item() == pytest.approx(value.item())
    assert made(data, StudentOutput(out.features_BD, one), epoch(0))["figkd"] > value
    low = prepared("figkd", standardize=False, class_order="random", band="low")
    seen = [low(data, StudentOutput(out.features_BD, z), epoch(0))["figkd"] for z in (both, out.logits_BC)]
    assert seen[0].item() != pytest.approx(seen[1].item())


def test_at_full_haar_depth_it_is_the_mean_squared_error_of_centred_logits():
    data, out = batch(), student()
    made = prepared("figkd", levels=3, standardize=False, weight=1.0)
    z, u = (x - x.mean(dim=1, keepdim=True) for x in (out.logits_BC, data.teacher.logits_BC))  # type: ignore[union-attr]
    assert made(data, out, epoch(0))["figkd"].item() == pytest.approx((z - u).square().mean().item())


def test_with_both_bands_it_is_the_mean_squared_error_in_any_order():
    data, out = batch(), student()
    expected = (out.logits_BC - data.teacher.logits_BC).square().mean().item()  # type: ignore[union-attr]
    for order in ("dataset", "semantic", "random"):
        made = prepared("figkd", band="both", standardize=False, class_order=order, wavelet="sym4", weight=1.0)
        assert made(data, out, epoch(0))["figkd"].item() == pytest.approx(expected)


def test_the_kl_of_details_is_softened():
    data, out = batch(), student()
    for given, temperature in (({}, 4.0), ({"temperature": 2.0}, 2.0)):
        made = prepared("figkd", metric="kl", weight=1.0, **given)
        details = [made.coefficients(x) for x in (out.logits_BC, data.teacher.logits_BC)]  # type: ignore[operator, union-attr]
        assert made(data, out, epoch(0))["figkd"] == softened_kl(*details, temperature)


def test_the_order_of_the_classes():
    assert prepared("figkd", class_order="dataset").order_C.tolist() == list(range(8))
    random_order = [prepared("figkd", class_order="random", seed=seed).order_C.tolist() for seed in (0, 0, 1)]
    assert random_order[0] == random_order[1] != random_order[2]
    weights = torch.cat([torch.eye(4), torch.eye(4) + 0.01])  # classes c and c + 4 are alike
    heads = [
        ClassHead(weights_CD=weights),
        ClassHead(bank_CE=weights),
        ClassHead(bank_CE=torch.randn(8, 4), probe=(weights, torch.zeros(8))),
    ]
    for head in heads:
        order = prepared("figkd", head=head, class_order="semantic").order_C
        assert all(abs(a - b) == 4 for a, b in order.view(-1, 2).tolist())


def test_the_order_is_checkpointed_and_the_filters_are_not():
    """A resumed run goes on with the pairs that it began with."""
    assert list(prepared("figkd").state_dict()) == ["order_C"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": 4}, "figkd.levels must be at most 3 for 8 classes"),
        ({"temperature": 2.0}, "add metric kl, or leave it out"),
        ({"wavelet": "dmey"}, "figkd.wavelet must be haar, db1 to db38, sym2 to sym20 or coif1 to coif17, not 'dmey'"),
        ({"wavelet": "db39"}, "db1 to db38"),
        ({"class_order": "alphabet"}, "must be one of dataset, semantic, random"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, words: str):
    with pytest.raises(UserError, match=words):
        prepared("figkd", **options)


def test_a_teacher_without_class_vectors_is_refused_for_the_semantic_order_only():
    with pytest.raises(UserError, match="use --figkd.class-order random"):
        prepared("figkd", head=ClassHead(order_C=torch.arange(8)), class_order="semantic")
    prepared("figkd", head=ClassHead(order_C=torch.arange(8)), class_order="dataset")


@pytest.mark.parametrize("method", LOGIT_METHODS)
def test_gradient_reaches_the_student_and_never_the_teacher(method: str):
    data, out = batch(), student()
    assert data.teacher is not None
    data.teacher.logits_BC.requires_grad_()
    terms = prepared(method)(data, out, epoch(3))
    sum(term for name, term in terms.items() if name != "ce").backward()  # type: ignore[union-attr]
    assert data.teacher.logits_BC.grad is None
    assert out.logits_BC.grad is not None
    assert out.logits_BC.grad.abs().sum() > 0


def test_sums_take_the_detail_without_its_cross_entropy():
    data, out = batch(), student()
    teacher = Teacher("fake", torch.nn.Identity(), lambda image: torch.zeros(3, 8, 8), "")
    teacher.kind = "classifier"  # type: ignore[misc]
    both = methods.build("dist+figkd:0.5", {})
    names = tuple(ClassInfo(str(c), str(c)) for c in range(8))
    both.prepare(Context(Config(), names, 5, teacher, ClassHead(weights_CD=random(8, 5, seed=9))))
    terms = both(data, out, epoch(0))
    assert set(terms) == {"ce", "inter", "intra", "figkd"}
    alone = prepared("figkd")(data, out, epoch(0))
    assert terms["ce"].item() == pytest.approx(alone["ce"].item())
    assert terms["figkd"].item() == pytest.approx(alone["figkd"].item() / 2)
