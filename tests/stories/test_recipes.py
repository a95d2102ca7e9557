"""Every recipe starts, trains a few steps with the released settings, and stops; that of openvocab has its own file.

Images are noise, as many classes as the recipe's data have (of Tiny-ImageNet half, of ImageNet-LT a few), weights random
in place of downloads, teachers tiny. Photos are 32 or 64 pixels where the recipe says 224: nothing but the cost hangs on
that here.
"""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from pictures import write_image

import linnet
from linnet.run import Run
from linnet.students.student import Student
from linnet.text.classes import class_table
from linnet.training import learning_rate

RECIPES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))}
CLASSES = {"cub200": 200, "aircraft": 100, "cars": 196, "dogs": 120, "pets": 37, "mit67": 67, "stanford40": 40, "cifar100": 100, "cifar100lt": 100, "tinyimagenet": 100, "imagenet": 16}  # fmt: skip
RELEASED = {  # method and data: learning rate, images per step, weights of the terms
    "vl2lite": (1e-4, 512, {"text_weight": 0.5, "temperature": 2.0, "schedule": "published"}),
    "pand": (1e-4, 128, {"text_weight": 1.0, "nsd_weight": 1.0, "neighbours": 3, "schedule": "published"}),
    "dkd": (0.05, 64, {"alpha": 1.0, "beta": 2.0, "temperature": 4.0}),
    "kd": (0.2, 256, {"alpha": 0.9, "temperature": 4.0}),
    "ltkd": (0.05, 64, {"temperature": 4.0}),
    "vlmkd": (0.1, 256, {"text_weight": 0.5, "vision_weight": 0.0}),
    "dfkd": (0.01, 64, {"bn_weight": 0.3, "attention_weight": 10.0, "contrast_weight": 8.0}),
    "figkd": (0.05, 64, {"weight": 10.0}),
}
TERMS = {
    "vl2lite": {"ce", "vision", "text"},
    "pand": {"ce", "vision", "text", "nsd"},
    "dkd": {"ce", "tckd", "nckd"},
    "kd": {"ce", "kd"},
    "ltkd": {"ce", "between", "within"},
    "vlmkd": {"ce", "text"},
    "dfkd": {"kl", "attention", "contrast"},
    "figkd": {"ce", "figkd"},
}

Options = dict[str, Any]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``drawn(100, 6)``: 100 folders of 6 images of noise in train/ and one image each in test/ and, if asked for, val/."""
    made: dict[tuple[int, int, bool], Path] = {}

    def draw(classes: int, images: int, val: bool = False) -> Path:
        if (classes, images, val) not in made:
            root = made[classes, images, val] = tmp_path_factory.mktemp("drawn")
            for split, count in (("train", images), ("test", 1), *([("val", 1)] if val else [])):
                for c in range(classes):
                    for i in range(count):
                        colour = (c * 7 % 256, c * 31 % 256, c * 61 % 256)
                        seed = 10_000 * len(split) + 100 * c + i
                        write_image(root / split / f"Maker {c // 10} Model-{c:03d}" / f"{i}.png", colour, seed)
        return made[classes, images, val]

    return draw


def check_released(run: Run, name: str) -> None:
    """What the run's settings and its log say is what was released."""
    kind = name.partition("_")[0]
    lr, batch_size, weights = RELEASED[kind]
    small = kind == "figkd" and re.search("mobilenetv2|shufflenet", name)
    config, (row, *others) = run.settings(), run.metrics()
    assert run.is_finished
    assert not others
    assert config.train.lr == (0.01 if small else lr)
    assert config.train.batch_size == batch_size
    assert config.options[config.method].items() >= weights.items()
    assert 1 <= row["step"] <= 20
    assert row["lr"] == learning_rate(row["step"] - 1, row["step"], config.train)
    assert learning_rate(0, 1_000_000, config.train) == pytest.approx(config.train.lr)  # at the start of the whole
    assert row.keys() >= TERMS[kind]
    assert row["loss"] == pytest.approx(sum(row[term] for term in TERMS[kind]), rel=1e-4)


def started(name: str, data: Path | None, out: Path, **options: Any) -> Run:
    options = {"train.epochs": 1, "train.precision": "fp32", "export": False, **options}
    run = linnet.distill(data, config=RECIPES[name], out=out, options=options)
    check_released(run, name)
    return run


def random_teacher(folder: Path, data: Path | None, classes: int, side: int, name: str = "resnet8") -> str:
    """A run of random weights that knows the classes of the data."""
    names = sorted(path.name for path in (data / "train").iterdir()) if data else [str(i) for i in range(classes)]
    torch.manual_seed(0)
    teacher = Student(name, class_table(names), side)
    teacher.eval().save(folder / "model")
    return f"run:{folder}"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith(("vl2lite", "pand"))])
def test_recipes_of_vl2lite_and_pand(
    name: str, drawn: Callable[..., Path], open_clip_folder: Callable[..., Path], tmp_path: Path, monkeypatch
):
    method, data, student = name.split("_")
    images = {"cub200": 4, "aircraft": 6, "dogs": 6, "pets": 16}[data]
    folder = drawn(CLASSES[data], images, val=data == "aircraft")
    monkeypatch.chdir(tmp_path)
    options: Options = {"teacher.id": f"open_clip:local-dir:{open_clip_folder(context_length=77)}"}
    if student == "mobilenetv2":  # the recipe's own file, found where the first command leaves it
        torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "mobilenet_v2-b0353104.pth")
    else:
        torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
        options["student.pretrained"] = tmp_path / "resnet18.pth"
    if method == "pand":
        options["prompts.max_steps"] = 2
    run = started(name, folder, tmp_path / "run", **options, **{"student.image_size": 32})
    config, saved = run.settings(), Student.load(run.model)
    assert (config.train.precision, config.train.sync_batch_norm) == ("fp32", True)
    assert "sync_batch_norm has no effect: one process" in run.log.read_text()
    assert saved.normalize.mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert saved.normalize.std.flatten().tolist() == pytest.approx([0.26862954, 0.26130258, 0.27577711])
    if data == "aircraft":
        assert run.summary()["images.train"] == 600  # nothing is set aside: there is a val


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if "cifar100_" in name or "tinyimagenet" in name])
def test_recipes_of_small_images(name: str, drawn: Callable[..., Path], tmp_path: Path):
    data = name.split("_")[1]
    side = 64 if data == "tinyimagenet" else 32
    images = 4 if name.startswith("kd") else 3
    folder = drawn(CLASSES[data], images)
    teacher = random_teacher(tmp_path / "teacher", folder, CLASSES[data], side)
    limit = 1 if data == "tinyimagenet" and not name.startswith("kd") else None
    options: Options = {"teacher.id": teacher, "data.limit_per_class": limit}
    if name.startswith("kd"):  # 256 images a step
        options["student.image_size"] = side = 32
    assert started(name, folder, tmp_path / "run", **options).settings().student.image_size == side
    if name == "figkd_cifar100_resnet32":  # the other rows of its table
        for method, key, value in (("kd", "alpha", None), ("dkd", "beta", 2.0), ("dist", "inter_weight", 2.0)):
            more = {**options, "train.epochs": 1, "export": False}
            row = linnet.distill(folder, config=RECIPES[name], method=method, out=tmp_path / method, options=more)
            assert row.settings().options[method][key] == value


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if re.match("figkd_(cub|mit|stanford|dogs)", name)])
def test_recipes_of_figkd_on_photos(name: str, drawn: Callable[..., Path], tmp_path: Path):
    classes = CLASSES[name.split("_")[1]]
    folder = drawn(classes, 4)
    teacher = random_teacher(tmp_path / "teacher", folder, classes, 64, "resnet34")
    options = {"teacher.id": teacher, "student.image_size": 64, "data.limit_per_class": 3 if classes < 100 else 1}
    assert started(name, folder, tmp_path / "run", **options).settings().student.pretrained is False


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("ltkd")])
def test_recipes_of_ltkd(name: str, drawn: Callable[..., Path], tmp_path: Path):
    folder = drawn(100, 12)
    teacher = random_teacher(tmp_path / "teacher", folder, 100, 32)
    run = started(name, folder, tmp_path / "run", **{"teacher.id": teacher})
    assert run.settings().data.long_tail == float(name.partition("gamma")[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("vlmkd")])
def test_recipes_of_vlm_kd(name: str, open_clip_folder: Callable[..., Path], tmp_path: Path):
    """Lists with a long tail, as ImageNet-LT has them, and a table of texts."""
    rows = []
    for split, images in (("train", 20), ("val", 2), ("test", 2)):
        lines = [(f"{split}/{c}/{i}.png", c) for c in range(CLASSES["imagenet"]) for i in range(images + 2 * c)]
        for number, (path, c) in enumerate(lines):
            write_image(tmp_path / "photos" / path, (10 * c, 90, 200 - 10 * c), seed=1000 * len(split) + number)
        lists = "".join(f"{path} {c}\n" for path, c in lines)
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / "lists" / f"ImageNet_LT_{split}.txt").write_text(lists)
        rows += [(path, f"a round thing with {c} stripes") for path, c in lines if split == "train"]
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "text"), *rows])
    data = f"list:{tmp_path / 'lists' / 'ImageNet_LT_train.txt'}:{tmp_path / 'photos'}"
    options = {"data.texts": tmp_path / "texts.csv", "student.image_size": 32}
    options["teacher.id"] = f"open_clip:local-dir:{open_clip_folder(context_length=77)}"
    run = started(name, data, tmp_path / "run", **options)  # type: ignore[arg-type]
    assert run.settings().train.logit_adjustment == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("dfkd")])
def test_recipes_of_dfkd(name: str, tmp_path: Path):
    teacher = random_teacher(tmp_path / "teacher", None, CLASSES[name.split("_")[1]], 32, "resnet34")
    options = {"teacher.id": teacher, "student.image_size": 32, "dfkd.alternations": 1}
    # few steps: a random teacher soon makes the generator collapse
    options |= {"dfkd.generator_steps": 2, "dfkd.student_steps": 3}
    assert started(name, None, tmp_path / "run", **options).metrics()[0]["step"] == 3


@pytest.mark.slow
def test_no_recipe_is_left_out():
    there = {name.partition("_")[0] for name in RECIPES}
    assert there == {*RELEASED, "openvocab"}
