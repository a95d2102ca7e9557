import json
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from linnet.config import Config, DataConfig
from linnet.data.load import load_manifest
from linnet.data.sources import SOURCES, find_source
from linnet.data.sources.lists import read
from linnet.defaults import default_folder
from linnet.errors import UserError

# split -> (path, label), as the benchmarks write them
IMAGENET = {
    "train": [(f"train/{wnid}/{wnid}_{i}.JPEG", label) for label, wnid in enumerate(("n01440764", "n02012849", "n03126707")) for i in range(6 - 2 * label)],
    "val": [(f"train/{wnid}/{wnid}_9{i}.JPEG", label) for label, wnid in enumerate(("n01440764", "n02012849", "n03126707")) for i in range(2)],
    "test": [(f"val/{wnid}/ILSVRC2012_val_{label}{i}.JPEG", label) for label, wnid in enumerate(("n01440764", "n02012849", "n03126707")) for i in range(2)],
}  # fmt: skip
PLACES = ["a/airfield", "a/apartment_building/outdoor", "c/church/indoor", "c/church/outdoor"]


PIXEL = bytes.fromhex("47494638376101000100800100ffffff0000002c00000000010001000002024401003b")  # a GIF


def write_images(root: Path, paths: list[str]) -> None:
    """The smallest of images, which differ in what stands behind their pixel."""
    for path in paths:
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(PIXEL + path.encode())


def write_list(file: Path, rows: list[tuple[str, int]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{path} {label}\n" for path, label in rows))
    return file


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """The folder of the lists; images/ is beside it."""
    for split, rows in IMAGENET.items():
        write_list(tmp_path / "lists" / f"ImageNet_LT_{split}.txt", rows)
        write_images(tmp_path / "images", [path for path, _ in rows])
    write_list(tmp_path / "lists" / "ImageNet_LT_open.txt", [("open/x.JPEG", -1)])  # comes with them, and is no split
    return tmp_path / "lists"


def inaturalist(folder: Path, split: str, rows: list[tuple[str, int]], categories: Mapping[int, str] | None = None) -> Path:  # fmt: skip
    content = {
        "images": [{"id": 100 + i, "file_name": path} for i, (path, _) in enumerate(rows)],
        "annotations": [{"id": i, "image_id": 100 + i, "category_id": label} for i, (_, label) in reversed(list(enumerate(rows)))],
        "categories": [{"id": id, "name": name} for id, name in (categories or {}).items()],
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / f"{split}2018.json").write_text(json.dumps(content))
    return folder / f"{split}2018.json"


def test_imagenet_lt(imagenet: Path):
    manifest = load_manifest(DataConfig(source=f"list:{imagenet}:{imagenet.parent / 'images'}"))
    assert Counter(manifest.splits.tolist()) == {"train": 12, "val": 6, "test": 6}
    assert np.bincount(manifest.labels[manifest.rows("train")]).tolist() == [6, 4, 2]
    listed = {
        imagenet.parent / "images" / path: (label, split) for split in IMAGENET for path, label in IMAGENET[split]
    }
    rows = zip(manifest.paths, manifest.labels.tolist(), manifest.splits.tolist(), strict=True)
    assert {path: (label, split) for path, label, split in rows} == listed
    assert manifest.class_names == ["n01440764", "n02012849", "n03126707"]
    assert [info.prompt_name for info in manifest.classes] == ["tench", "crane 1", "crane 2"]  # a bird and a machine


def test_a_train_list_finds_its_siblings_among_others(imagenet: Path):
    """Both benchmarks keep their lists in one folder."""
    write_list(imagenet / "Places_LT_train.txt", [("a/airfield/1.jpg", 0)])
    (imagenet / "._ImageNet_LT_train.txt").write_bytes(b"\x00")  # macOS leaves such files
    data = f"list:{imagenet / 'ImageNet_LT_train.txt'}:{imagenet.parent / 'images'}"
    assert len(load_manifest(DataConfig(source=data))) == 24
    with pytest.raises(UserError, match=r"two train lists, ImageNet_LT_train.txt and Places_LT_train.txt: give the train list itself"):  # fmt: skip
        load_manifest(DataConfig(source=f"list:{imagenet}:{imagenet.parent / 'images'}"))
    assert default_folder(Config(data=DataConfig(source=data))).name == "ImageNet_LT-kd-s0"
    assert default_folder(Config(data=DataConfig(source=f"list:{imagenet}"))).name == "lists-kd-s0"


@pytest.mark.parametrize(
    ("front", "root", "lists"),
    [
        ("/", "images", "lists"),  # Places' leading slash
        ("/data_256/", "images", "lists"),
        ("data_256/", "images", "lists"),
        ("data_256/", "images/data_256", "lists"),  # ROOT is the folder that the paths begin with
        ("./data_256/", "images", "lists"),
        ("images/data_256/", "", "."),  # the default: the folder of the lists
    ],
)
def test_what_paths_are_relative_to(front: str, root: str, lists: str, tmp_path: Path):
    rows = [(f"{front}{place}/{i}.jpg", label) for label, place in enumerate(PLACES) for i in range(4)]
    below = "" if front == "/" else "data_256/"
    write_images(tmp_path / "images", [f"{below}{place}/{i}.jpg" for place in PLACES for i in range(4)])
    write_list(tmp_path / lists / "Places_LT_train.txt", rows)
    manifest = load_manifest(DataConfig(source=f"list:{tmp_path / lists}" + (f":{tmp_path / root}" if root else "")))
    assert set(manifest.splits) == {"train", "val", "test"}  # nothing but a train list is flat
    assert manifest.class_names == ["airfield", "apartment_building/outdoor", "church/indoor", "church/outdoor"]
    assert [i.prompt_name for i in manifest.classes] == ["airfield", "apartment building outdoor", "church indoor", "church outdoor"]  # fmt: skip
    written = {path: path.read_bytes().removeprefix(PIXEL).decode() for path in manifest.paths}
    assert len(written) == len(set(written.values())) == 16
    assert all(f"/{PLACES[i]}/" in f"/{written[path]}" for path, i in zip(manifest.paths, manifest.labels, strict=True))


def test_absolute_paths_are_taken_as_they_are(tmp_path: Path):
    rows = [(f"{tmp_path}/photos of birds/{name}/{i}.jpg", label) for label, name in enumerate(("owl", "wren")) for i in range(4)]  # fmt: skip
    write_images(Path("/"), [path for path, _ in rows])
    manifest = load_manifest(DataConfig(source=f"list:{write_list(tmp_path / 'lists' / 'train.txt', rows)}"))
    assert sorted(map(str, manifest.paths)) == sorted(path for path, _ in rows)
    assert manifest.class_names == ["owl", "wren"]
    assert default_folder(Config(data=DataConfig(source=f"list:{tmp_path}/lists/train.txt"))).name == "lists-kd-s0"


def test_absolute_paths_beside_relative_ones(tmp_path: Path):
    rows = [(f"{name}/{i}.jpg", label) for label, name in enumerate(("owl", "wren")) for i in range(4)]
    write_images(tmp_path, [path for path, _ in rows])
    rows[0] = (f"{tmp_path}/owl/0.jpg", 0)
    write_list(tmp_path / "train.txt", rows)
    assert load_manifest(DataConfig(source=f"list:{tmp_path}")).class_names == ["0", "1"]  # nothing that all share


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        ({3: ["train_val2018/Plantae/7477"], 5: ["train_val2018/Aves/12"]}, ["7477", "12"]),
        ({3: ["owl/nest", "owl/flight"], 5: ["wren/nest"], 9: ["gull"]}, ["owl", "wren/nest", "gull"]),
        ({3: ["a/bar"], 5: ["b/bar"]}, ["a/bar", "b/bar"]),
        ({3: ["x/001.Owl"], 5: ["x/002.Red_Wren"]}, ["001.Owl", "002.Red_Wren"]),
        ({3: ["all"], 5: ["all"]}, ["3", "5"]),  # folders that tell nothing
        ({3: ["owl", "wren"], 5: ["wren"]}, ["3", "5"]),
        ({3: [""], 5: [""]}, ["3", "5"]),
    ],
)
def test_class_names_from_folders(folders: dict[int, list[str]], names: list[str], tmp_path: Path):
    rows = [(f"{folder}/{label}-{i}.jpg".lstrip("/"), label) for label, own in folders.items() for folder in own for i in range(3)]  # fmt: skip
    write_images(tmp_path, [path for path, _ in rows])
    manifest = load_manifest(DataConfig(source=f"list:{write_list(tmp_path / 'train.txt', rows)}"))
    assert manifest.class_names == names
    assert sorted(set(manifest.labels.tolist())) == list(range(len(folders)))  # the labels have gaps
    if "001.Owl" in names:
        assert [info.prompt_name for info in manifest.classes] == ["Owl", "Red Wren"]


@pytest.mark.parametrize(
    ("file", "content", "names"),
    [
        ("classes.txt", "owl\nsnowy_owl\nBoeing 737\n", ["snowy_owl", "Boeing 737"]),
        ("classes.txt", "Boeing 707\nBoeing 727\nBoeing 737\n", ["Boeing 727", "Boeing 737"]),  # numbers, but no labels
        ("classes.txt", "Airbus 2\nBoeing 1\nTupolev 1\n", ["Boeing 1", "Tupolev 1"]),
        ("class_names.txt", "red owl 2\nwren 1\ngull 0\n", ["wren", "red owl"]),
        ("classes.txt", "2 red owl\n1 wren\n0 gull\n", ["wren", "red owl"]),
        ("classes.txt", '2,"red owl"\n1,wren\n', ["wren", "red owl"]),
        ("classes.txt", "# birds\ngull\nwren\nred owl\n", ["wren", "red owl"]),
        ("categories.json", '[{"id": 2, "name": "Strix aluco"}, {"id": 1, "name": "Troglodytes troglodytes"}]', ["Troglodytes troglodytes", "Strix aluco"]),
        ("categories.json", '{"categories": [{"id": 2, "name": "b"}, {"id": 1, "name": "a"}]}', ["a", "b"]),
    ],
)  # fmt: skip
def test_class_names_from_a_file_beside_the_lists(file: str, content: str, names: list[str], tmp_path: Path):
    rows = [(f"{'xyz'[label]}/{i}.jpg", label) for label in (1, 2) for i in range(4)]
    write_images(tmp_path, [path for path, _ in rows])
    write_list(tmp_path / "train.txt", rows)
    (tmp_path / file).write_text(content)
    assert load_manifest(DataConfig(source=f"list:{tmp_path}")).class_names == names


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("classes.txt", "owl\nwren\n", "classes.txt has no name for 1 of 2 labels, such as 2"),
        ("classes.txt", "Class\nowl\nwren\n", "begins with 'Class', the header of a table: leave it out"),
        ("classes.txt", "id,name\n1,owl\n2,wren\n", "begins with 'id,name', the header of a table"),
        ("classes.txt", "owl\n\nwren\n", "no name for 1 of 2 labels, such as 1"),
        ("categories.json", '[{"id": 1, "name": "a"}]', "no name for 1 of 2 labels, such as 2"),
        ("categories.json", '{"birds": 3}', "must hold a list of categories"),
        ("categories.json", "[3]", "must hold a list of categories"),
        ("categories.json", "{", "not valid JSON"),
    ],
)
def test_bad_class_names(file: str, content: str, message: str, tmp_path: Path):
    rows = [(f"{label}/{i}.jpg", label) for label in (1, 2) for i in range(4)]
    write_images(tmp_path, [path for path, _ in rows])
    write_list(tmp_path / "train.txt", rows)
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=message):
        load_manifest(DataConfig(source=f"list:{tmp_path}"))


def test_json_of_inaturalist(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Train and val have labels, test has none: val is val, and nothing is tested."""
    numbers = {2: "Plantae/2", 7: "Aves/7"}
    rows = {split: [(f"train_val2018/{numbers[label]}/{split}{i}.jpg", label) for label in numbers for i in range(3)] for split in ("train", "val")}  # fmt: skip
    for split in rows:
        inaturalist(tmp_path / "lists", split, rows[split])
        write_images(tmp_path, [path for path, _ in rows[split]])
    (tmp_path / "lists" / "test2018.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": "test2018/x.jpg"}]})
    )
    with caplog.at_level(logging.WARNING, "linnet"):
        manifest = load_manifest(DataConfig(source=f"list:{tmp_path / 'lists'}:{tmp_path}"))
    assert "test2018.json has no labels" in caplog.text
    assert Counter(manifest.splits.tolist()) == {"train": 6, "val": 6}
    assert manifest.class_names == ["2", "7"]
    where = {tmp_path / path: label for own in rows.values() for path, label in own}
    assert {path: (2, 7)[i] for path, i in zip(manifest.paths, manifest.labels, strict=True)} == where

    inaturalist(tmp_path / "lists", "train", rows["train"], {0: "x", 2: "Rosa canina", 7: "Strix aluco"})
    data = f"list:{tmp_path / 'lists' / 'train2018.json'}:{tmp_path}"
    assert load_manifest(DataConfig(source=data)).class_names == ["Rosa canina", "Strix aluco"]
    (tmp_path / "lists" / "val2018.json").rename(tmp_path / "lists" / "test2018.json")  # an honest number
    assert Counter(load_manifest(DataConfig(source=data)).splits.tolist()) == {"train": 4, "val": 2, "test": 6}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold images"),
        ('{"images": []}', "no train list"),  # without annotations
        ('{"images": [], "annotations": []}', "is empty"),
        ('{"images": [{"id": 1}], "annotations": []}', "must hold images"),
        ('{"images": [{"id": 1, "file_name": "x.jpg"}], "annotations": []}', "without a label in 'annotations', such as 'x.jpg'"),
        ('{"images": [], "annotations": [{"image_id": 1, "category_id": "7"}]}', "category_id is a whole number .* not '7'"),
        ('{"images": [], "annotations": [{"image_id": 1, "category_id": 7}, {"image_id": 1, "category_id": 8}]}', "image 1 two labels: 7, 8"),
        ('{"images": [], "annotations": [], "categories": [1]}', "must hold images"),
    ],
)  # fmt: skip
def test_bad_json(content: str, message: str, tmp_path: Path):
    (tmp_path / "train2018.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_manifest(DataConfig(source=f"list:{tmp_path}"))
    assert "\n" not in str(caught.value)


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(lists: Path) -> None:
        file = lists / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new, 1))

    return change


TRAIN, FIRST = "ImageNet_LT_train.txt", "train/n01440764/n01440764_0.JPEG"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (edit(TRAIN, f"{FIRST} 0", FIRST), f"train.txt, line 1: expected 'path label'.*there is no label: '{FIRST}'"),
        (edit(TRAIN, "_1.JPEG 0", "_1.JPEG zero"), "line 2: .*not a whole number .*_1.JPEG zero'"),
        (edit(TRAIN, "_1.JPEG 0", "_1.JPEG -1"), "line 2: .*not a whole number"),
        (edit(TRAIN, "_1.JPEG 0", "_1.JPEG 0.0"), "line 2: .*not a whole number"),
        (edit(TRAIN, f"{FIRST} 0", f"{FIRST} 0\n{FIRST} 2"), f"lists {FIRST} twice, with the labels 0 and 2"),
        (edit("ImageNet_LT_test.txt", "00.JPEG 0", "00.JPEG 7"), r"test.txt: the label 7 \(of val/.*_00.JPEG\) does not occur in ImageNet_LT_train.txt"),
        (edit(TRAIN, "_0.JPEG 0", "_x.JPEG 0"), "train.txt lists 1 image.* such as train/n01440764/n01440764_x.JPEG, looked for in .*images: give .*as ROOT"),
        (lambda lists: (lists / TRAIN).write_text("\n"), "train.txt is empty"),
        (lambda lists: (lists / TRAIN).write_bytes(b"\xff\xfe 0"), "not UTF-8"),
        (lambda lists: (lists / TRAIN).unlink(), "has no train list: expected a file such as NAME_train.txt .* beside ImageNet_LT_val.txt, ImageNet_LT_test.txt"),
        (lambda lists: [file.unlink() for file in lists.iterdir()], "has no train list"),
        (lambda lists: (lists / "ImageNet_LT_validation.txt").write_text(""), "two val lists"),
        (lambda lists: lists.rename(lists.parent / "elsewhere"), "lists: no such file or folder"),
        (lambda lists: (lists.parent / "images").rename(lists.parent / "pictures"), "images: no such folder .*ROOT"),
    ],
)  # fmt: skip
def test_bad_lists_give_one_clear_error(imagenet: Path, break_it: Callable[[Path], object], message: str):
    break_it(imagenet)
    with pytest.raises(UserError, match=message) as caught:
        load_manifest(DataConfig(source=f"list:{imagenet}:{imagenet.parent / 'images'}"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", ["list:", "list:a:", "list:a:b:c", "list::b"])
def test_two_paths_are_expected(data: str):
    with pytest.raises(UserError, match=r"expected list:LISTS or list:LISTS:ROOT"):
        load_manifest(DataConfig(source=data))


def test_a_list_says_its_split(imagenet: Path):
    with pytest.raises(UserError, match="one of the words train, val and test"):
        load_manifest(DataConfig(source=f"list:{imagenet / 'ImageNet_LT_open.txt'}"))
    (imagenet / TRAIN).rename(imagenet / "ImageNet_LT_training.txt")  # the words that folders may have
    assert len(load_manifest(DataConfig(source=f"list:{imagenet}:{imagenet.parent / 'images'}"))) == 24


def test_all_missing_images_are_counted(imagenet: Path):
    with pytest.raises(UserError, match=f"lists 12 image.* such as {FIRST}"):
        load_manifest(DataConfig(source=f"list:{imagenet}"))


def test_a_folder_that_cannot_be_listed_is_asked_for_each_image(imagenet: Path, monkeypatch: pytest.MonkeyPatch):
    """And so is one whose file system takes X.JPEG for x.jpeg."""

    listdir = os.listdir

    def refuse(path: str) -> list[str]:
        if "images" in Path(path).parts:
            raise PermissionError(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert len(read(f"list:{imagenet}:{imagenet.parent / 'images'}", True)) == 24


def test_what_is_only_scored_needs_no_train_list(imagenet: Path):
    (imagenet / TRAIN).unlink()
    manifest = load_manifest(DataConfig(source=f"list:{imagenet}:{imagenet.parent / 'images'}"), training=False)
    assert Counter(manifest.splits.tolist()) == {"val": 6, "test": 6}


def test_a_list_shows_a_few_of_its_images(imagenet: Path):
    data = f"list:{imagenet}:{imagenet.parent / 'images'}"
    source = find_source(data)
    assert source is SOURCES["list"] and source.is_there(data) and not source.is_there("list:nowhere")
    shown = source.images(data, 4)
    assert 3 <= len(shown) <= 4 and all(path.is_file() for path in shown)
    assert source.images(f"list:{imagenet}", 4) == source.images("list:nowhere", 4) == []


def test_lists_in_the_home_folder(imagenet: Path, monkeypatch: pytest.MonkeyPatch):
    """A shell leaves the ~ after a colon as it is."""
    monkeypatch.setenv("HOME", str(imagenet.parent))
    assert len(read("list:~/lists:~/images", True)) == 24


def test_folders_are_looked_into_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Image by image, 115,846 of them are a long wait on a network drive."""
    rows = [(f"{label}/{i}.jpg", label) for label in range(3) for i in range(400)]
    write_images(tmp_path, [path for path, _ in rows])
    write_list(tmp_path / "train.txt", rows)
    asked: list[str] = []
    real, opened = os.path.isfile, os.listdir
    monkeypatch.setattr(os.path, "isfile", lambda path: asked.append(str(path)) or real(path))
    monkeypatch.setattr(os, "listdir", lambda path: asked.append(str(path)) or opened(path))
    assert len(read(f"list:{tmp_path}", True)) == 1200
    assert sum(path.endswith(".jpg") for path in asked) < 100
    assert {str(tmp_path / str(label)) for label in range(3)} <= set(asked)


def test_a_test_list_that_is_switched_off_is_not_read(imagenet: Path):
    (imagenet / "ImageNet_LT_test.txt").write_text("no label here\n")
    (imagenet / "other_test.txt").write_text("")
    data = f"list:{imagenet}:{imagenet.parent / 'images'}"
    assert set(load_manifest(DataConfig(source=data, test="none")).splits) == {"train", "val"}


def test_missing_images_may_be_left_out(imagenet: Path):
    data, first = f"list:{imagenet}:{imagenet.parent / 'images'}", imagenet.parent / "images" / FIRST
    first.unlink()
    with pytest.raises(
        UserError, match=f"lists 1 image.* such as {FIRST}.*or leave them out with --data.on-error skip"
    ):
        load_manifest(DataConfig(source=data))
    manifest = load_manifest(DataConfig(source=data, on_error="skip"))
    assert len(manifest) == 23 and first not in manifest.paths
    assert [tuple(problem) for problem in manifest.problems] == [("missing", first, f"listed in {TRAIN}")]
    with pytest.raises(UserError, match="lists 12 image"):  # ROOT is wrong, then: nothing would be left
        load_manifest(DataConfig(source=f"list:{imagenet}", on_error="skip"))


def test_accents_may_be_spelled_otherwise_on_the_disk(tmp_path: Path):
    names = {form: [unicodedata.normalize(form, name) for name in ("Bläuling", "Käuzchen")] for form in ("NFC", "NFD")}
    write_images(tmp_path / "images", [f"{name}/é{i}.jpg" for name in names["NFD"] for i in range(4)])
    rows = [(f"{name}/é{i}.jpg", label) for label, name in enumerate(names["NFC"]) for i in range(4)]
    write_list(tmp_path / "train.txt", rows)
    manifest = read(f"list:{tmp_path}:{tmp_path / 'images'}", True)
    assert len(manifest) == 8 and manifest.class_names == names["NFC"]
