"""Every recipe is a valid configuration, and says what the paper says."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import timm
import yaml

from linnet.config import Config
from linnet.data.images import resized_side
from linnet.data.novel import novel_classes
from linnet.defaults import settings
from linnet.students.network import architectures
from linnet.text.classes import ClassInfo

ROOT = Path(__file__).parents[1]
RECIPES = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.yaml"))}
TEMPLATES = {
    "cub200": "a photo of {}, a type of bird",
    "aircraft": "a photo of {}, one of the airplane models",
    "dogs": "a photo of {}, a type of dog",
    "pets": "a photo of {}, a type of pet",
}
STUDENTS = {  # name and weights, all of them torchvision's
    "resnet18": ("resnet18.tv_in1k", True),
    "mobilenetv2": ("mobilenetv2_100", Path("mobilenet_v2-b0353104.pth")),
}
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PAPERS = [
    (f"{method}_{data}_{student}", method, data, student)
    for method in ("pand", "vl2lite")
    for data in TEMPLATES
    for student in STUDENTS
]


@pytest.fixture
def resolve(make_folder: Callable[..., Path]) -> Callable[[Path], Config]:
    def resolve(path: Path) -> Config:
        data = None if path.stem.startswith("dfkd") else make_folder(images=3)
        return settings(data, config=path)[0]

    return resolve


@pytest.mark.parametrize("data", ["aircraft", "cars", "cub200"])
def test_settings_of_data_free(data: str, resolve: Callable[[Path], Config]):
    config = resolve(RECIPES[f"dfkd_{data}_resnet18"])
    train, own = config.train, config.options["dfkd"]
    assert (config.method, config.student.pretrained, config.student.image_size) == ("dfkd", False, 224)
    assert (train.epochs, train.batch_size, train.optimizer, train.nesterov) == (200, 64, "sgd", False)
    assert (train.lr, train.weight_decay, train.schedule, train.select) == (0.01, 5e-4, "cosine", "last")
    assert (own["generator_steps"], own["student_steps"], own["generator_lr"], own["noise"]) == (20, 15, 1e-3, 100)
    assert (own["bn_weight"], own["attention_weight"], own["contrast_weight"], own["order"]) == (0.3, 10.0, 8.0, 3)
    assert (own["upsampling"], own["spatial_attention"], own["width"]) == ("transposed", 0.05, 64)


@pytest.mark.parametrize("path", RECIPES.values(), ids=lambda path: path.stem)
def test_every_recipe_resolves_and_says_how_it_is_started(path: Path, resolve: Callable[[Path], Config]):
    config = resolve(path)
    kind, _, name = (config.teacher.id or "").partition(":")
    if kind == "open_clip":
        architecture, tag = name.split("/")
        assert tag in open_clip.list_pretrained_tags_by_model(architecture)
    elif kind == "run":  # made by the first of two commands
        assert f"--out {name}" in path.read_text()
        (teacher,) = re.findall(r"--method ce --student (\S+)", path.read_text())
        assert teacher in architectures()
    else:
        assert name in timm.list_pretrained()
    assert config.student.name in (timm.list_pretrained() if config.student.pretrained is True else architectures())
    if isinstance(config.student.pretrained, Path):  # fetched by the first of two commands
        assert f"/{config.student.pretrained}\n" in path.read_text()
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"--config recipes/{path.name}" in line for line in comment)
    assert any("on val" in line for line in comment)


@pytest.mark.parametrize(("name", "method", "data", "student"), PAPERS, ids=[row[0] for row in PAPERS])
def test_settings_of_the_papers(name: str, method: str, data: str, student: str, resolve: Callable[[Path], Config]):
    config = resolve(RECIPES[name])
    train, teacher, pand = config.train, config.teacher, method == "pand"
    assert config.method == method
    assert config.data.views == "paper:vl2lite"
    assert teacher.id == "open_clip:convnext_xxlarge/laion2b_s34b_b82k_augreg_soup"
    assert (teacher.views, teacher.head) == ("online", "prompt" if pand else "zero-shot")
    assert teacher.templates == (TEMPLATES[data],)
    assert (config.student.name, config.student.pretrained) == STUDENTS[student]
    assert (config.student.image_size, config.student.crop_mode) == (224, "squash")
    assert (config.student.mean, config.student.std) == CLIP
    assert (train.precision, train.sync_batch_norm) == ("fp32", True)
    assert (train.epochs, train.batch_size) == (300, 128 if pand else 512)
    assert (train.optimizer, train.lr, train.weight_decay) == ("adamw", 1e-4, 1e-4 if pand else 0.0)
    assert (train.warmup, train.clip_norm, train.label_smoothing) == (0.0, None, 0.0)
    options = {"schedule": "published", "temperature": 2.0, "scale": pytest.approx(1 / 0.07)}
    if pand:
        assert (train.schedule, train.half_cycles, train.lr_min) == ("cosine", 3, 1e-5)
        options |= {"text_weight": 1.0, "nsd_weight": 1.0, "neighbours": 3}
        prompts = config.prompts
        assert (prompts.vectors, prompts.text, prompts.epochs, prompts.max_steps) == (16, "template", 200, None)
        assert (prompts.lr, prompts.batch_size, prompts.patience) == (0.002, 128, 50)
    else:
        assert (train.schedule, train.decay) == ("step", 0.5)
        assert train.milestones == pytest.approx([0.1 * i for i in range(1, 10)])
        options |= {"text_weight": 0.5}
    assert {key: config.options[method][key] for key in options} == options


TRAINED = """2 4 6 7 8 10 11 12 14 18 22 24 25 27 28 30 31 32 33 34 35 37 40 44 45 46 48 49 51 52 53 54 55 60 61 64 65 67 71
76 78 79 81 85 88 92 93 101 104 105 109 114 117 118 119 120 121 124 126 130 131 132 133 135 136 137 138 139 140 141 143 145
146 147 148 149 151 152 154 155 156 160 163 165 166 168 170 172 173 174 178 181 183 185 192 193 194 197 198 200"""


def test_settings_of_open_vocabulary(resolve: Callable[[Path], Config]):
    config = resolve(RECIPES["openvocab_cub200_resnet18"])
    train, options = config.train, config.options["openvocab"]
    classes = tuple(ClassInfo(f"{i:03d}.Bird_{i}", f"Bird {i}") for i in range(1, 201))
    novel = {i + 1 for i in novel_classes(classes, config.data)}
    assert novel == set(range(1, 201)) - set(map(int, TRAINED.split()))
    assert len(novel) == 100
    assert (config.student.name, config.student.pretrained, config.student.image_size) == ("resnet18", False, 224)
    assert (train.optimizer, train.nesterov, train.lr, train.weight_decay) == ("sgd", False, 0.05, 1e-4)
    assert (train.epochs, train.batch_size, train.schedule, train.decay) == (5 * 90, 128, "step", 0.1)
    assert train.milestones == pytest.approx([30 / 90, 60 / 90])
    assert {options[f"{name}_weight"] for name in ("cls", "mse", "contrast", "align")} == {1.0}
    assert (options["temperature"], options["texts"], options["filter"]) == (0.07, 256, True)
    assert (config.prompts.vectors, config.prompts.text) == (8, "name")
    assert (config.teacher.templates, config.teacher.views) == (("a photo of {}",), "squash")
    assert (config.student.crop_mode, config.student.crop_pct) == ("squash", 0.875)
    assert resized_side(config.student.image_size, config.student.crop_pct) == 256
    assert (config.data.views, train.precision, train.clip_norm) == ("paper:openvocab", "fp32", None)


def test_precision_is_the_authors():
    """None is known of VLM-KD, whose recipes leave it open, and of DFKD-FGVC, whose recipes say fp32."""
    for name, path in RECIPES.items():
        written = yaml.safe_load(path.read_text())["train"].get("precision")
        assert written == (None if name.startswith("vlmkd") else "fp32"), name


@pytest.mark.parametrize("method", ["pand", "vl2lite"])
@pytest.mark.parametrize("student", STUDENTS)
def test_aircraft_is_trained_on_the_official_train_and_named_by_its_makers(method: str, student: str):
    text = RECIPES[f"{method}_aircraft_{student}"].read_text()
    assert "images_variant_train.txt (3,334), _val.txt (3,333)" in text
    assert '"Boeing 737-300"' in text
    assert "a tenth of train" not in text


PAIRS = [  # FiGKD's ten: recipe, student, teacher, learning rate, DKD's beta
    ("resnet32", "resnet32", "resnet110", 0.05, 2.0),
    ("resnet8x4", "resnet8x4", "resnet32x4", 0.05, 8.0),
    ("wrn_16_2", "wrn_16_2", "wrn_40_2", 0.05, 6.0),
    ("wrn_40_1", "wrn_40_1", "wrn_40_2", 0.05, 6.0),
    ("vgg8", "vgg8_cifar", "vgg13_cifar", 0.05, 6.0),
    ("shufflenetv1_wrn_40_2", "shufflenetv1_cifar", "wrn_40_2", 0.01, 8.0),
    ("shufflenetv1_resnet32x4", "shufflenetv1_cifar", "resnet32x4", 0.01, 8.0),
    ("mobilenetv2_resnet50", "mobilenetv2_cifar", "resnet50_cifar", 0.01, 8.0),
    ("mobilenetv2_vgg13", "mobilenetv2_cifar", "vgg13_cifar", 0.01, 6.0),
    ("shufflenetv2", "shufflenetv2_cifar", "resnet32x4", 0.01, 8.0),
]
SMALL = {  # data: views, size, mean and std
    "cifar100": ("paper:cifar", 32, ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))),
    "tinyimagenet": ("paper:tiny-imagenet-crop", 64, IMAGENET),
}
CASES = [
    *((f"figkd_{data}_{name}", data, *rest) for data in SMALL for name, *rest in PAIRS),
    ("dkd_cifar100_resnet20", "cifar100", "resnet20", "resnet56", 0.05, 2.0),
]


def test_figkds_recipes_are_the_pairs_that_its_author_reports():
    small = {case[0] for case in CASES if case[0].startswith("figkd")}
    large = {f"figkd_{data}_resnet18" for data in ("cub200", "mit67", "stanford40", "dogs")}
    assert {name for name in RECIPES if name.startswith("figkd")} == small | large


def test_the_head_of_figkds_recipes_and_the_tables_tell_the_same_scores():
    lines = (ROOT / "docs/results.md").read_text().partition("### FiGKD")[2].partition("\n### ")[0].splitlines()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if re.match(r"\|.*\d", line)]
    small = {row[-1]: [cell.split("/") for cell in row[1:-1]] for row in rows if "→" in row[0]}
    told = {f"figkd_{data}_{name}": [c[i] for c in row] for i, data in enumerate(SMALL) for name, row in small.items()}
    told |= {f"figkd_{row[0]}_resnet18": row[1:] for row in rows if "→" not in row[0]}
    assert told.keys() == {name for name in RECIPES if name.startswith("figkd")}
    for name, scores in told.items():
        columns = zip(("teacher", "CE", "KD", "DKD", "MLKD", "FiGKD"), scores, strict=True)
        words = ", ".join(f"{column} {score}" for column, score in columns if score != "-") + "."
        assert words in RECIPES[name].read_text().replace("\n# ", " "), name


@pytest.mark.parametrize(("name", "data", "student", "teacher", "lr", "beta"), CASES, ids=[case[0] for case in CASES])
def test_settings_of_the_small_benchmarks(
    name: str, data: str, student: str, teacher: str, lr: float, beta: float, make_folder: Callable[..., Path]
):
    path, folder = RECIPES[name], make_folder(images=3)
    config, _ = settings(folder, config=path)
    train, (views, side, pixels) = config.train, SMALL[data]
    assert config.method == name.partition("_")[0]
    assert config.teacher.id == f"run:runs/{data}-{teacher}"
    teachers_lr = " --train.lr 0.05" if lr != 0.05 else ""  # every teacher is of the kind that has 0.05
    assert f"--method ce --student {teacher}{teachers_lr} --out" in path.read_text()
    assert (config.teacher.views, config.data.views, config.student.image_size) == ("online", views, side)
    assert (config.student.name, config.student.pretrained) == (student, False)
    assert (config.student.mean, config.student.std) == pixels
    assert (train.optimizer, train.nesterov, train.lr, train.weight_decay) == ("sgd", False, lr, 5e-4)
    assert (train.epochs, train.batch_size, train.schedule, train.decay) == (240, 64, "step", 0.1)
    assert [milestone * 240 for milestone in train.milestones] == [150, 180, 210]
    assert (train.warmup, train.clip_norm, train.label_smoothing) == (0.0, None, 0.0)
    dkd, _ = settings(folder, config=path, method="dkd")
    assert dkd.options == {"dkd": {"temperature": 4.0, "alpha": 1.0, "beta": beta, "warmup": 20 / 240}}


def test_settings_of_the_tiny_imagenet_benchmark(resolve: Callable[[Path], Config]):
    config = resolve(RECIPES["kd_tinyimagenet_mobilenetv2"])
    train, own = config.train, config.options["kd"]
    assert (config.method, own["temperature"], own["alpha"]) == ("kd", 4.0, 0.9)
    assert (config.student.name, config.student.image_size) == ("mobilenetv2_tinyimagenet", 64)
    assert (config.student.mean, config.student.std) == ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
    assert config.data.views == "paper:tiny-imagenet"
    assert (train.optimizer, train.nesterov, train.lr, train.weight_decay) == ("sgd", False, 0.2, 5e-4)
    assert (train.epochs, train.batch_size, train.schedule, train.decay) == (200, 256, "step", 0.1)
    assert [milestone * 200 for milestone in train.milestones] == pytest.approx([60, 120, 160])


@pytest.mark.parametrize("gamma", [10, 50, 100])
def test_settings_of_the_long_tail_of_cifar(gamma: int, resolve: Callable[[Path], Config]):
    """Those of the CIFAR benchmark, but for the long tail and the method."""
    name = f"ltkd_cifar100lt_resnet8x4_gamma{gamma}"
    config = resolve(RECIPES[name])
    plain = resolve(RECIPES["figkd_cifar100_resnet8x4"])
    assert config.data.long_tail == gamma
    assert config.teacher.id == f"run:runs/cifar100lt{gamma}-resnet32x4"
    assert (config.method, config.student, config.train) == ("ltkd", plain.student, plain.train)
    assert (config.data.views, config.teacher.views) == (plain.data.views, plain.teacher.views)
    own = config.options["ltkd"]
    assert (own["temperature"], own["rebalance_groups"], own["equal_within"]) == (4.0, True, True)


@pytest.mark.parametrize("epochs", [180, 400])
def test_settings_of_imagenet_lt(epochs: int, resolve: Callable[[Path], Config]):
    config = resolve(RECIPES[f"vlmkd_imagenet_lt_resnet50_{epochs}"])
    train, own = config.train, config.options["vlm-kd"]
    assert (config.method, config.student.name, config.student.pretrained) == ("vlm-kd", "resnet50", False)
    assert (config.student.image_size, config.teacher.text_encoder) == (224, config.teacher.id)
    assert (train.epochs, train.batch_size, train.optimizer, train.nesterov) == (epochs, 256, "sgd", False)
    assert (train.lr, train.weight_decay, train.schedule, train.logit_adjustment) == (0.1, 5e-4, "cosine", 1.0)
    assert (train.sampling, train.class_weights) == ("natural", "none")
    assert (own["text_weight"], own["temperature"], own["vision_weight"], own["hide"]) == (0.5, 0.07, 0.0, "none")


@pytest.mark.parametrize("data", ["cub200", "mit67", "stanford40", "dogs"])
def test_fine_grained_recipes_start_from_scratch_as_their_teacher_does(data: str, resolve: Callable[[Path], Config]):
    path = RECIPES[f"figkd_{data}_resnet18"]
    config = resolve(path)
    assert (config.teacher.id, config.teacher.views) == (f"run:runs/{data}-resnet34-scratch", "online")
    assert (config.student.name, config.student.pretrained, config.student.image_size) == ("resnet18", False, 224)
    assert "--method ce --student resnet34 --out" in path.read_text()
    assert "is not known to us" in path.read_text()


LONG_TAILS = [path for name, path in RECIPES.items() if name.startswith(("vlmkd", "ltkd"))]


@pytest.mark.parametrize("path", LONG_TAILS, ids=lambda path: path.stem)
def test_a_recipe_for_a_long_tail_trains_the_row_with_logit_adjustment(path: Path, make_folder: Callable[..., Path]):
    data = make_folder(images=3)
    config, _ = settings(data, config=path, method="ce", options={"train.logit_adjustment": 1.0})
    own, _ = settings(data, config=path)
    assert list(config.options) == ["ce"]
    assert (config.data, config.student) == (own.data, own.student)
    assert config.train == replace(own.train, logit_adjustment=1.0)


@pytest.mark.parametrize("method", ["ce", "kd", "dkd", "dist"])
def test_a_figkd_recipe_trains_the_other_rows_of_the_table(method: str, make_folder: Callable[..., Path]):
    path = RECIPES["figkd_cifar100_resnet8x4"]
    config, _ = settings(make_folder(images=3), config=path, method=method)
    assert list(config.options) == [method]
    assert config.train.epochs == 240
