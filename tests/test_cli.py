import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import linnet
from linnet.__main__ import main
from linnet.config import GROUPS
from linnet.defaults import settings
from linnet.run import Run

TINY = [
    "--student",
    "test_resnet",
    "--student.pretrained=false",
    "--student.image-size=32",
    "--train.epochs=1",
    "--no-export",
]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail: exit 2, one line on stderr, no traceback. Returns the line."""
    with pytest.raises(SystemExit) as exit:
        main(list(words))
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("linnet: ")]
    assert exit.value.code == 2
    assert len(errors) == 1
    return errors[0]


def test_help_waits_for_nothing_heavy(run_python: Callable[[str], str]):
    """What takes time is loaded by the verbs: seconds for torch, tenths of a second for the others."""
    heavy = ("torch", "numpy", "timm", "open_clip", "scipy", "sklearn", "pyarrow", "PIL", "accelerate", "networkx")
    code = f"import sys; from linnet.__main__ import main; main(['--help']); print([m for m in {heavy} if m in sys.modules])"
    *shown, loaded = run_python(code).splitlines()
    assert loaded == "[]"
    for verb in ("demo", "distill", "predict", "list", "doctor"):
        assert any(verb in line for line in shown)


def test_importing_linnet_imports_neither_torch_nor_numpy(run_python: Callable[[str], str]):
    code = "import sys, linnet, linnet.cli; print([m for m in ('torch', 'numpy', 'timm', 'open_clip') if m in sys.modules])"
    assert run_python(code) == "[]"


def test_the_package_names_what_it_exports():
    import linnet

    assert {"distill", "load", "UserError", "Config"} <= set(linnet.__all__)
    assert all(getattr(linnet, name) for name in linnet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'destil'"):
        linnet.destil  # noqa: B018


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distil"], 'Did you mean "distill"'),
        (["distill"], "no data given"),
        (["distill", "/nowhere"], "/nowhere: no such folder"),
        (["distill", "aviary", "--method", "kdd"], "unknown method 'kdd' (known: ce, kd, dkd, dist, figkd, vl2lite, pand, embedding, specmatch, openvocab, dual, vlm-kd, ltkd, dfkd). Did you mean 'kd'?"),
        (["distill", "aviary:species=2,images=3", "--teacher", "mini_clip"], "Did you mean 'mini-clip'?"),
        (["distill", "aviary:species=2,images=3", "--student", "resnet188"], "Did you mean 'resnet18'?"),
        (["distill", "aviary", "--train.epoch", "3"], "unknown setting 'train.epoch'. Did you mean 'epochs'?"),
        (["distill", "aviary", "--trian.epochs", "3"], "unknown settings 'trian.*': the method is 'kd'. Did you mean 'train'?"),
        (["distill", "aviary", "--lr", "3"], "unknown option '--lr'. Did you mean '--train.lr'?"),
        (["distill", "aviary", "-o", "r2"], "unknown option '-o'"),
        (["distill", "aviary", "--export", "false"], "unexpected 'false' (a switch such as --no-export takes no value"),
        (["distill", "aviary", "--seed", "1.5"], "seed must be a whole number, not '1.5'"),
        (["distill", "aviary", "--method", "kd:0.5"], "first method of 'kd:0.5' always has weight 1"),
        (["distill", "aviary", "--train.clip-norm", "0"], "train.clip_norm must be at least 1e-06"),
        (["distill", "aviary:genus=300"], "aviary:genus must be at least 1 and at most 100, not 300"),
        (["distill", "aviary:species=2,images=3", "--student", "inception_v3"], "cannot work at 64 pixels"),
        (["distill", "aviary", "--train.epochs", "0"], "train.epochs must be at least 1, not 0"),
        (["distill", "aviary", "--train.epochs", "many"], "train.epochs must be a whole number, not 'many'"),
        (["distill", "aviary", "--train.lr", "-1"], "train.lr must be at least 1e-08"),
        (["distill", "aviary", "--data.limit-per-class", "0"], "data.limit_per_class must be at least 1"),
        (["distill", "aviary", "--kd.alpha", "2"], "kd.alpha must be at least 0 and at most 1, not 2"),
        (["distill", "aviary", "--method", "pand", "--pand.k", "4"], "unknown setting 'pand.k'. Did you mean 'neighbours'? The options of pand: schedule, ce_weight, text_weight, temperature, scale, nsd_weight, neighbours, center_teacher"),
        (["distill", "aviary", "--pand.neighbours", "4"], "--pand.* are options of pand, but the method is kd: add --method pand, or leave them out"),
        (["distill", "aviary", "--teacher", "hx:x", "--dry-run"], "unknown teacher 'hx:x': expected mini-clip, open_clip:ARCH/TAG"),
        (["distill", "aviary", "--teacher", "hx:x", "--method", "ce", "--dry-run"], "unknown teacher 'hx:x'"),
        (["distill", "aviary", "--method", "dkd", "--teacher.head", "probe", "--teacher", "run:x", "--dry-run"], "--teacher.head probe needs a vision-language teacher"),
        (["distill", "--data", "photos"], "DATA is given without a name, as in 'linnet distill photos/'"),
        (["distill", "aviary", "--methd", "kd"], "unknown option '--methd'. Did you mean '--method'?"),
        (["distill", "aviary", "--student-name", "resnet18"], "unknown option '--student-name'. Did you mean '--student'?"),
        (["distill", "aviary", "--config.x", "y"], "unknown option '--config.x'"),
        (["distill", "aviary", "--train.lr", "none"], "train.lr cannot be none: give a value, or auto"),
        (["distill", "aviary", "--train.milestones", "0.3", "0.4"], "to give several values, repeat the option"),
        (["distill", "aviary", "--student.mean", "0.5,0.5,0.5"], "must be a number, not '0.5,0.5,0.5': to give several values, repeat the option"),
        (["distill", "aviary", "--shots", "5"], "which 'kd' does not train: use --method openvocab"),
        (["distill", "aviary", "--config", "/nowhere.yaml"], "cannot read the configuration /nowhere.yaml"),
        (["distill", "aviary", "--opset", "17"], "--opset must be from 18, the oldest that torch writes, to"),
        (["distill", "aviary", "--opset", "new", "--dry-run"], "opset must be a whole number, not 'new'"),
        (["distill", "aviary", "--kd.weight", "9", "--kd.alpha", "0.5", "--dry-run"], "kd.alpha and kd.weight both weigh the distillation term"),
        (["export", "/nowhere", "--opset", "17"], "--opset must be from 18"),
        (["predict", "/nowhere", "x.jpg"], "/nowhere is neither a run folder nor an .onnx file"),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
):
    out = ["--out", str(tmp_path / "r")] if words[:1] == ["distill"] else []
    assert message in refused(capsys, *words, *out)


OWN = {
    "--method",
    "--out",
    "--seeds",
    "--seed",
    "--config",
    "--resume",
    "--overwrite",
    "--dry-run",
    "--profile",
    "--export",
    "--no-export",
    "--opset",
    "--logger",
}


def test_the_help_of_distill_offers_every_setting_once_and_nothing_else(
    run_python: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
):
    """A new setting, or a new group of them, is one edit in config.py."""
    monkeypatch.setenv("COLUMNS", "240")
    lines = (
        run_python("from linnet.__main__ import main; main(['distill', '--help'])").partition("Basic")[2].splitlines()
    )
    offered = [option for line in lines for option in re.findall(r"--[a-z][\w.-]*", line.partition("  ")[0][:60])]
    settings = {f"{group}.{spec.name}" for group, kind in GROUPS.items() for spec in fields(kind)} - {"data.source"}
    names = {f"--{dotted.replace('_', '-')}" for dotted in settings}
    short = {"--teacher": "--teacher.id", "--student": "--student.name", "--shots": "--shots.count"}
    shown = [short.get(option, option) for option in offered if option.startswith("--") and option not in OWN]
    switched_off = {f"--train.no-{name}" for name in ("nesterov", "channels-last", "sync-batch-norm")}
    assert set(shown) - switched_off - {"--eval", "--image-size", "--text-encoder"} == names
    assert "--data" not in shown


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {epoch: 3}", "unknown setting 'train.epoch'. Did you mean 'epochs'?"),
        ("train: [", "is not valid YAML"),
        ("- 3", "must hold a mapping"),
        ("method: [kd]", "method must be a text"),
    ],
)
def test_bad_configuration_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, message: str):
    (tmp_path / "c.yaml").write_text(content)
    assert message in refused(capsys, "distill", "aviary", "--config", str(tmp_path / "c.yaml"))


def test_a_truncated_image_stops_before_training(
    capsys: pytest.CaptureFixture[str], make_folder: Callable[..., Path], tmp_path: Path
):
    root = make_folder(images=6, splits=("train", "val", "test"))
    bad = root / "test" / "red_bird" / "003.jpg"
    bad.write_bytes(bad.read_bytes()[:400])
    line = refused(capsys, "distill", str(root), "--method", "ce", *TINY, "--out", str(tmp_path / "r"))
    assert "cannot read the image" in line
    assert "red_bird/003.jpg" in line


def test_a_run_folder_in_the_way(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    folder = tmp_path / "run"
    Run.create(folder, settings("aviary", method="ce")[0]).close()
    (folder / "model").mkdir()
    line = refused(capsys, "distill", "aviary:species=2,images=3", "--method", "ce", *TINY, "--out", str(folder))
    assert "--resume" in line
    assert "--overwrite" in line


def test_dry_run_prints_settings_that_can_be_used_as_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    main(
        ["distill", "aviary", "--dry-run", "--train.epochs", "3", "--kd.temperature", "5", "--train.clip-norm", "none"]
    )
    text = capsys.readouterr().out
    printed = yaml.safe_load(text)
    assert printed["train"]["epochs"] == 3
    assert printed["train"]["clip_norm"] is None
    own = {"temperature": 5.0, "alpha": None, "weight": None, "standardize": False, "deviation": None}
    assert printed["options"] == {"kd": own}
    assert printed["teacher"]["id"] == "mini-clip"
    assert "# teacher.id = mini-clip: it knows drawn birds" in text
    (tmp_path / "c.yaml").write_text(text)
    main(["distill", "--config", str(tmp_path / "c.yaml"), "--dry-run", "--seed", "4"])
    assert yaml.safe_load(capsys.readouterr().out) == {**printed, "seed": 4}


def test_distill_and_predict_from_the_command_line(
    capsys: pytest.CaptureFixture[str], make_folder: Callable[..., Path], tmp_path: Path
):
    root, out = make_folder(images=12), tmp_path / "run"
    main(["distill", str(root), "--method", "ce", *TINY, "--train.batch-size=8", "--out", str(out)])
    assert capsys.readouterr().out.strip() == str(out)
    main(["predict", str(out), str(root / "red_bird"), "--json", "--top", "2"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 12
    assert all(len(line["top"]) == 2 for line in lines)
    main(["predict", str(out), str(root / "red_bird" / "000.jpg")])
    assert "%" in capsys.readouterr().out
    main(["predict", str(out), str(root / "red_bird" / "000.jpg"), "--csv"])
    header, line = csv.reader(capsys.readouterr().out.splitlines())
    assert header == ["path", "class", "probability", "class_2", "probability_2", "class_3", "probability_3"]
    assert len(line) == 7
    (root / "red_bird" / "bad.jpg").write_bytes(b"")
    with pytest.raises(SystemExit) as exit:
        main(["predict", str(out), str(root / "red_bird"), "--json"])
    assert exit.value.code == 2
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum("error" in line for line in lines) == 1
    assert len(lines) == 13


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["list", "methods", "kd"], "--kd.temperature"),
        (["list", "students", "resnet1*"], "resnet18"),
        (["list", "teachers"], "open_clip:local-dir:PATH"),
        (["list", "teachers", "ViT-B-16-SigLIP2/*"], "open_clip:ViT-B-16-SigLIP2/webli"),
        (["list", "data"], "aviary"),
        (["doctor"], "bf16"),
        (["--version"], "0."),
    ],
)
def test_lists(capsys: pytest.CaptureFixture[str], words: list[str], expected: str):
    main(words)
    assert expected in capsys.readouterr().out


def test_ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A command-line library that leaves the program by itself would print nothing."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("linnet.commands.finish.train", interrupt)
    with pytest.raises(SystemExit) as exit:
        main(["distill", "aviary:species=2,images=3", "--method", "ce", *TINY, "--out", str(tmp_path / "run")])
    assert exit.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("linnet: stopped (a training goes on after its last")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_under_what_is_printed_is_told():
    """``linnet predict RUN IMAGES --csv > named.csv``."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "linnet", "list", "methods"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr == b"linnet: the disk is full: cannot write what is printed; free some space and try again\n"


@pytest.mark.parametrize("empty", ["", "  "])
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["distill", None], "DATA"),
        (["distill", "x", "--out", None], "--out"),
        (["distill", "x", "--config", None], "--config"),
        (["distill", "x", "--teacher", None], "--teacher"),
        (["distill", "x", "--data.texts", None], "--data.texts"),
        (["distill", "x", "--data.descriptions", None], "--data.descriptions"),
        (["distill", "x", "--student.pretrained", None], "--student.pretrained"),
        (["distill", "x", "--eval", None], "--eval"),
        (["describe", None], "DATA"),
        (["describe", "x", "--vlm", "y", "--out", None], "--out"),
        (["describe", "x", "--vlm", None], "--vlm"),
        (["describe", "x", "--prompt", None], "--prompt"),
        (["predict", None, "x"], "MODEL"),
        (["predict", "x", None], "IMAGES"),
        (["predict", "x", "y", None], "IMAGES"),
        (["predict", "x", "y", "--classes", None], "--classes"),
        (["predict", "x", "y", "--bank", None], "--bank"),
        (["embed", "--classes", None, "--out", "x"], "--classes"),
        (["embed", "--classes", "a,b", "--out", None], "--out"),
        (["embed", "--classes", "a,b", "--out", "x", "--run", None], "--run"),
        (["export", None], "RUN"),
        (["export", "x", "--out", None], "--out"),
        (["demo", "--out", None], "--out"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(
    arguments: list, name: str, empty: str, capsys: pytest.CaptureFixture[str]
):
    """As "$PHOTOS" is where nobody has set it."""
    with pytest.raises(SystemExit) as stopped:
        main([empty if word is None else word for word in arguments])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"linnet: {name} is empty (an unset variable of the shell?)\n"


@pytest.mark.parametrize(
    "call",
    [
        lambda: linnet.distill(""),
        lambda: linnet.distill(" "),
        lambda: linnet.distill("aviary", out=""),
        lambda: linnet.distill("aviary", config=""),
        lambda: linnet.distill("aviary", teacher=""),
        lambda: linnet.distill("aviary", options={"data.texts": ""}),
        lambda: linnet.distill("aviary", options={"data.novel_classes": ["a", ""]}),
        lambda: linnet.describe("", show=1),
        lambda: linnet.describe("aviary", vlm="x", out=""),
        lambda: linnet.describe("aviary", vlm="", out="x.csv"),
        lambda: linnet.load(""),
        lambda: linnet.export(""),
        lambda: linnet.embed("a,b", run=""),
        lambda: linnet.embed("a,b", teacher="mini-clip", descriptions=""),
    ],
)
def test_nor_is_it_from_python(call: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(linnet.UserError, match="is empty"):
        call()
    assert not list(tmp_path.iterdir())
