import math

import numpy as np
import pytest
import pywt
import torch
from hand_made import check_gradient_reaches_the_student_alone, logit_batch, logit_method, logit_student

from linnet.config import Config
from linnet.errors import UserError
from linnet.losses import cross_entropy, softened_kl
from linnet.step import Progress, StudentOutput
from linnet.teachers.base import ClassHead


@pytest.mark.filterwarnings("ignore:Level value:UserWarning")  # PyWavelets', where filters are longer than the signal
@pytest.mark.parametrize(("classes", "wavelet", "levels"), [(8, "haar", 1), (7, "haar", 3), (9, "db3", 2)])
@pytest.mark.parametrize("band", ["high", "low", "both"])
@pytest.mark.parametrize("standardize", [True, False])
def test_figkd_is_the_naive_sum_over_pywavelets_coefficients(
    classes: int, wavelet: str, levels: int, band: str, standardize: bool
):
    data, out = logit_batch(classes), logit_student(classes)
    made = logit_method(
        "figkd", classes, wavelet=wavelet, levels=levels, band=band, standardize=standardize, weight=3.0
    )
    assert sorted(made.order_C.tolist()) == list(range(classes))

    def coefficients(row: torch.Tensor) -> np.ndarray:
        z = row.detach().numpy()
        z = (z - z.mean()) / math.sqrt(z.var() + 1e-6) if standardize else z
        low, *details = pywt.wavedec(z[made.order_C.numpy()], wavelet, mode="periodization", level=levels)
        return np.concatenate({"high": details, "low": [low], "both": [low, *details]}[band])

    expected = 0.0
    for z, u in zip(out.logits_BC, data.teacher.logits_BC, strict=True):
        expected += ((coefficients(z) - coefficients(u)) ** 2).sum() / classes / 6
    terms = made(data, out, Progress(0, 24))
    assert terms["figkd"].item() == pytest.approx(3 * expected, rel=1e-8)
    assert terms["ce"].item() == pytest.approx(cross_entropy(out.logits_BC, data.labels).item())


def test_haar_detail_is_blind_to_what_a_pair_has_in_common():
    data, out = logit_batch(), logit_student()
    made = logit_method("figkd", standardize=False, class_order="random")
    value = made(data, out, Progress(0, 24))["figkd"]
    pair = made.order_C[2:4]
    both, one = out.logits_BC.detach().clone(), out.logits_BC.detach().clone()
    both[:, pair] += 5
    one[:, pair[0]] += 5
    assert made(data, StudentOutput(out.features_BD, both), Progress(0, 24))["figkd"].item() == pytest.approx(
        value.item()
    )
    assert made(data, StudentOutput(out.features_BD, one), Progress(0, 24))["figkd"] > value
    low = logit_method("figkd", standardize=False, class_order="random", band="low")
    seen = [low(data, StudentOutput(out.features_BD, z), Progress(0, 24))["figkd"] for z in (both, out.logits_BC)]
    assert seen[0].item() != pytest.approx(seen[1].item())


def test_at_full_haar_depth_it_is_the_mean_squared_error_of_centred_logits():
    data, out = logit_batch(), logit_student()
    made = logit_method("figkd", levels=3, standardize=False, weight=1.0)
    z, u = (x - x.mean(dim=1, keepdim=True) for x in (out.logits_BC, data.teacher.logits_BC))
    assert made(data, out, Progress(0, 24))["figkd"].item() == pytest.approx((z - u).square().mean().item())


def test_with_both_bands_it_is_the_mean_squared_error_in_any_order():
    data, out = logit_batch(), logit_student()
    expected = (out.logits_BC - data.teacher.logits_BC).square().mean().item()
    for order in ("dataset", "semantic", "random"):
        made = logit_method("figkd", band="both", standardize=False, class_order=order, wavelet="sym4", weight=1.0)
        assert made(data, out, Progress(0, 24))["figkd"].item() == pytest.approx(expected)


def test_the_kl_of_details_is_softened():
    data, out = logit_batch(), logit_student()
    for given, temperature in (({}, 4.0), ({"temperature": 2.0}, 2.0)):
        made = logit_method("figkd", metric="kl", weight=1.0, **given)
        details = [made.coefficients(x) for x in (out.logits_BC, data.teacher.logits_BC)]
        assert made(data, out, Progress(0, 24))["figkd"] == softened_kl(*details, temperature)


def test_the_order_of_the_classes():
    assert logit_method("figkd", class_order="dataset").order_C.tolist() == list(range(8))
    random_order = [
        logit_method("figkd", class_order="random", config=Config(seed=seed)).order_C.tolist() for seed in (0, 0, 1)
    ]
    assert random_order[0] == random_order[1] != random_order[2]
    weights = torch.cat([torch.eye(4), torch.eye(4) + 0.01])  # classes c and c + 4 are alike
    heads = [
        ClassHead(weights_CD=weights),
        ClassHead(bank_CE=weights),
        ClassHead(bank_CE=torch.randn(8, 4), probe=(weights, torch.zeros(8))),
    ]
    for head in heads:
        order = logit_method("figkd", head=head, class_order="semantic").order_C
        assert all(abs(a - b) == 4 for a, b in order.view(-1, 2).tolist())


def test_the_order_is_checkpointed_and_the_filters_are_not():
    """A resumed run goes on with the pairs that it began with."""
    assert list(logit_method("figkd").state_dict()) == ["order_C"]


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
        logit_method("figkd", **options)


def test_a_teacher_without_class_vectors_is_refused_for_the_semantic_order_only():
    with pytest.raises(UserError, match="use --figkd.class-order random"):
        logit_method("figkd", head=ClassHead(order_C=torch.arange(8)), class_order="semantic")
    logit_method("figkd", head=ClassHead(order_C=torch.arange(8)), class_order="dataset")


def test_gradient_reaches_the_student_and_never_the_teacher():
    check_gradient_reaches_the_student_alone("figkd")
