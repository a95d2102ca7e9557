import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import linnet
from linnet.config import Config
from linnet.config_files import write_yaml
from linnet.defaults import settings
from linnet.run import Run

DATA = "aviary:species=3,images=4"
TINY = {"student.name": "test_resnet", "student.image_size": 32, "train.epochs": 2, "train.precision": "fp32"}
TINY |= {"method": "ce", "export": False}


def everything(folder: Path) -> dict[str, bytes]:
    """All files below a folder but those of its lock and its log."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "train.log")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linnet.distill(DATA, out=tmp_path_factory.mktemp("run") / "finished", options=TINY).folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(finished, tmp_path / "copied")))


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_that_linnet_did_not_write_is_deleted(tmp_path: Path, overwrite: bool):
    """A project with a config.yaml of its own, and a refused run with somebody's notes in it, stay as they are."""
    config, _ = settings("aviary", method="ce")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.yaml").write_text("precious: true")
    Run.create(tmp_path / "run", config).close()
    (tmp_path / "run" / "notes.md").write_text("precious")
    for name, kept in (("project", "config.yaml"), ("run", "notes.md")):
        with pytest.raises(linnet.UserError, match="holds files that linnet did not write: choose another --out"):
            Run.create(tmp_path / name, config, overwrite=overwrite)
        assert "precious" in (tmp_path / name / kept).read_text()


def test_a_run_in_use_is_refused(tmp_path: Path):
    config, _ = settings("aviary", method="ce")
    first = Run.create(tmp_path / "r", config)
    with pytest.raises(linnet.UserError, match="in use by another linnet process"):
        Run.create(tmp_path / "r", config, resume=True)
    first.close()
    Run.create(tmp_path / "r", config, resume=True).close()


def files(run: Run) -> set[str]:
    return {path.name for path in run.folder.iterdir() if not path.name.startswith(".")}


def test_whatever_a_run_writes_is_among_its_names(tmp_path: Path):
    """A file that is not would pass for somebody's, and --overwrite would refuse the folder."""
    data, tiny = (
        "aviary:species=4,images=8",
        {"student.name": "test_resnet", "student.image_size": 32, "train.epochs": 1},
    )
    plain = linnet.distill(data, method="ce", out=tmp_path / "plain", options=tiny)
    tiny["export"] = False  # one of the three is exported
    named = linnet.distill(data, method="openvocab", out=tmp_path / "named", options={**tiny, "data.novel": 0.5})
    linnet.export(named.folder, text_tower=True)
    named.write_prompts({"context_PW": torch.zeros(1, 2)})
    free = linnet.distill(
        method="dfkd", teacher=f"run:{plain.folder}", out=tmp_path / "free",
        options={**tiny, "dfkd.alternations": 1, "dfkd.generator_steps": 1, "dfkd.student_steps": 1, "dfkd.width": 4},
    )  # fmt: skip
    plain.write_problems(b"kind,path,detail")
    linnet.evaluate(plain.folder)
    plain.logs.mkdir()  # a logger's
    written = set()
    for run in (plain, named, free):
        names = {path.name for path in vars(run).values() if isinstance(path, Path) and path.parent == run.folder}
        assert files(run) <= names
        written |= files(run)
    assert written == names, "a name that nothing writes"
    Run.create(named.folder, named.settings(), overwrite=True).close()
    assert files(named) == {"config.yaml", "env.json"}


def test_what_a_kill_leaves_is_recognised(tmp_path: Path):
    """env.json goes last: with it gone and the rest still there nothing would say whose folder it is."""
    config, _ = settings("aviary", method="ce")
    run = Run.create(tmp_path / "run", config)
    run.close()
    run.model.mkdir()
    run.summary_file.write_text("{}")
    deleted = []

    class Killed(Exception): ...

    def unlink(path: Path, missing_ok: bool = False) -> None:
        deleted.append(path.name)
        if path.name == "env.json":
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(Killed):
            Run.create(run.folder, config, overwrite=True)
    assert deleted[-1] == "env.json"
    assert not run.model.exists()
    Run.create(run.folder, config, overwrite=True).close()


RESULTS = ("checkpoints", "evaluation", "evaluations.jsonl", "gallery", "gallery.png", "metrics.jsonl", "model", "model.onnx", "predictions", "summary.json", "text_tower.onnx")  # fmt: skip


@pytest.mark.parametrize("left", RESULTS)
def test_whatever_took_a_training_to_make_is_not_deleted_without_a_word(tmp_path: Path, left: str):
    """A run that somebody made small, down to one result, is finished work still."""
    config, _ = settings("aviary", method="ce")
    run = Run.create(tmp_path / "run", config)
    run.close()
    assert not run.has_results
    path = run.folder / left
    if left in ("checkpoints", "gallery", "model", "predictions"):
        path.mkdir()
        (path / "x").touch()
    else:
        path.write_text('{"epoch": 1}')
    with pytest.raises(linnet.UserError, match="is not empty: go on with --resume, start again with --overwrite"):
        Run.create(run.folder, config)
    assert path.exists()


@pytest.mark.parametrize(
    "mistake",
    [
        {"student.pretrained": Path("nowhere")},
        {"student.name": "no_such_net"},
        {"method": "kd", "teacher.id": "run:nowhere"},
        {"data.source": "nowhere"},
        {"student.name": "test_vit", "student.stem": "lowres"},
        {"train.batch_size": 2, "data.limit_per_class": 1, "teacher.views": "replay:4", "method": "kd", "teacher.id": "timm:no"},
    ],
)  # fmt: skip
def test_overwrite_deletes_nothing_before_all_else_is_checked(copied: Run, mistake: dict):
    before = everything(copied.folder)
    with pytest.raises(linnet.UserError):
        linnet.distill(DATA, out=copied.folder, options={**TINY, **mistake}, overwrite=True)
    assert everything(copied.folder) == before
    assert not (copied.folder / ".train.log").exists()


def test_what_happens_before_a_run_replaces_another_is_in_its_log(copied: Run, monkeypatch: pytest.MonkeyPatch):
    """And a process that is stopped until then leaves the old run."""
    before = everything(copied.folder)
    with monkeypatch.context() as patch:
        patch.setattr("linnet.commands.finish.Task", lambda *_: pytest.fail("it trains"))
        patch.setattr("linnet.commands.distill.decode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            linnet.distill(DATA, out=copied.folder, options=TINY, overwrite=True)
    assert everything(copied.folder) == before
    run = linnet.distill(DATA, out=copied.folder, options={**TINY, "train.epochs": 1}, overwrite=True)
    assert run.summary()["train.epochs"] == 1
    assert json.loads(run.inputs.read_text())["data"]
    words = run.log.read_text()
    assert words.index("settings chosen for you") < words.index("data: ") < words.index("result of ")
    assert not (run.folder / ".train.log").exists()


@pytest.mark.parametrize("group", ["teacher", "student"])
def test_a_run_does_not_replace_what_it_is_made_from(copied: Run, group: str):
    before = everything(copied.folder)
    needs = {"teacher": {"teacher.id": f"run:{copied.folder}", "method": "kd"}}
    needs["student"] = {"student.pretrained": str(copied.model)}
    with pytest.raises(linnet.UserError, match=rf"--overwrite would delete .*copied.* \({group}\."):
        linnet.distill(DATA, out=copied.folder, options={**TINY, **needs[group]}, overwrite=True)
    assert everything(copied.folder) == before


def test_a_run_goes_on_or_is_replaced(copied: Run):
    with pytest.raises(linnet.UserError, match="give one of them"):
        linnet.distill(DATA, out=copied.folder, resume=True, overwrite=True)


def test_that_there_is_nothing_to_go_on_with_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with pytest.raises(linnet.UserError, match="nothing in .*misspelt to go on with, and no data are given"):
        linnet.distill(out=tmp_path / "misspelt", resume=True)
    caplog.set_level(logging.INFO, "linnet")
    for said in (True, False):
        linnet.distill(DATA, out=tmp_path / "run", options={**TINY, "train.epochs": 1}, resume=True)
        assert ("a new one begins" in caplog.text) is said
        caplog.clear()


def test_a_link_is_replaced_and_what_it_points_to_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    config, _ = settings("aviary", method="ce")
    run = Run.create(tmp_path / "run", config)
    run.close()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "last.pt").write_text("precious")
    run.checkpoints.symlink_to(tmp_path / "elsewhere")
    run.model.symlink_to(tmp_path / "gone")
    run.summary_file.write_text("{}")
    with caplog.at_level(logging.WARNING, "linnet"):
        Run.create(run.folder, config, overwrite=True).close()
    assert files(run) == {"config.yaml", "env.json"}
    assert (tmp_path / "elsewhere" / "last.pt").read_text() == "precious"
    assert "checkpoints is a link: what it points to" in caplog.text


def test_a_run_whose_data_moved_says_what_to_give(make_folder: Callable[..., Path], tmp_path: Path):
    photos, options = make_folder(images=4), {**TINY, "student.pretrained": False}
    run = linnet.distill(photos, out=tmp_path / "run", options=options)
    there = photos.rename(tmp_path / "there")
    with pytest.raises(linnet.UserError, match=r"no such folder .*; if the data have moved, give DATA, too"):
        linnet.distill(out=run.folder, resume=True)
    linnet.distill(there, out=run.folder, resume=True)
    with pytest.raises(linnet.UserError, match=r"no such folder \(.*\)$"):
        linnet.distill(photos, out=tmp_path / "new", options=options)


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b'[{"python": '])
@pytest.mark.parametrize("name", ["env.json", "inputs.json", "config.yaml", "metrics.jsonl", "summary.json", "checkpoints/last.pt"])  # fmt: skip
def test_a_damaged_file_of_a_run_says_what_to_do(copied: Run, name: str, content: bytes):
    """A power cut leaves files empty, cut off or full of zeros."""
    (copied.folder / name).write_bytes(content)
    if name in ("env.json", "metrics.jsonl", "summary.json"):  # nothing depends on them, or they are written again
        run = linnet.distill(DATA, out=copied.folder, options=TINY, resume=True)
        assert run.summary()["test.top1"] >= 0
        assert json.loads(run.environment.read_text())
        return
    with pytest.raises(linnet.UserError, match=rf"{name} is (damaged|not valid YAML)") as error:
        linnet.distill(DATA, out=copied.folder, options=TINY, resume=True)
    assert "--overwrite" in str(error.value) or "--resume" in str(error.value)


def test_what_a_killed_process_left_in_a_run_is_cleared(copied: Run):
    left = [copied.folder / ".env.json.17.tmp", copied.best_student / ".model.safetensors.0a1b2c3d.tmp"]
    for path in left:
        path.touch()
    Run.create(copied.folder, copied.settings(), resume=True).close()
    assert not any(path.exists() for path in left)


def test_a_damaged_summary_is_no_finished_run(copied: Run):
    assert copied.is_finished
    copied.summary_file.write_bytes(b"")
    assert not copied.is_finished
    with pytest.raises(linnet.UserError, match="summary.json is damaged .*: linnet distill --resume writes it again"):
        copied.summary()


def test_a_weight_that_changed_on_the_disk_is_noticed(copied: Run):
    """Neither torch nor safetensors compares a checksum."""
    for path in (copied.last_checkpoint, copied.best_student / "model.safetensors"):
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 4096] = bytes(4096)
        path.write_bytes(content)
    with pytest.raises(linnet.UserError, match="last.pt is damaged .*: delete it, and --resume trains from the first"):
        linnet.distill(out=copied.folder, resume=True)
    copied.last_checkpoint.unlink()
    copied.summary_file.unlink()
    run = linnet.distill(out=copied.folder, resume=True)  # as it was told
    assert run.is_finished
    weights = bytearray((run.best_student / "model.safetensors").read_bytes())
    weights[-100:] = bytes(100)
    (run.best_student / "model.safetensors").write_bytes(weights)
    with pytest.raises(linnet.UserError, match="safetensors is damaged .* to train again, give --overwrite instead"):
        linnet.distill(out=copied.folder, resume=True)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The disk is full in the second epoch; the run goes on from the first and ends as one that was not stopped."""
    whole = linnet.distill(DATA, out=tmp_path / "whole", options=TINY)
    save, saved = torch.save, []

    def full(content: object, file: object) -> None:
        saved.append(content)
        if len(saved) == 2:
            import errno

            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError as error:
                raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 704 vs 598") from error
        save(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(linnet.UserError, match=r"the disk is full: cannot write .*last.pt .* --resume"):
            linnet.distill(DATA, out=tmp_path / "run", options=TINY)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    run = linnet.distill(out=tmp_path / "run", resume=True)
    weights = [(own.model / "model.safetensors").read_bytes() for own in (whole, run)]
    assert weights[0] == weights[1]


def test_a_row_of_metrics_that_cannot_be_written_is_told(tmp_path: Path):
    run = Run(tmp_path / "run" / "nowhere")
    with pytest.raises(linnet.UserError, match=r"cannot write .*metrics.jsonl"):
        run.add_metrics({"epoch": 1})


def test_a_finished_run_needs_no_last_checkpoint(copied: Run):
    options = {**TINY, "train.checkpoint": "drop"}
    before = copied.summary()
    run = linnet.distill(DATA, out=copied.folder, options=options, resume=True)
    assert not run.last_checkpoint.exists()
    again = linnet.distill(out=copied.folder, options={"export": True}, resume=True)  # what it is not needed for
    assert again.onnx.exists()
    timed = ("onnx.max_difference", "latency.one_thread_ms", "latency.ms")
    assert again.summary().items() >= {key: value for key, value in before.items() if key not in timed}.items()
    shutil.rmtree(run.checkpoints)
    with pytest.raises(linnet.UserError, match="finished and its checkpoints were deleted"):
        linnet.distill(out=copied.folder, resume=True)
    copied.summary_file.unlink()
    with pytest.raises(linnet.UserError, match="finished and its checkpoints were deleted"):
        linnet.distill(out=copied.folder, resume=True)
    assert again.onnx.exists()


def test_a_resumed_run_compares_only_what_is_typed(copied: Run, monkeypatch: pytest.MonkeyPatch):
    run = linnet.distill(DATA, out=copied.folder, resume=True)  # nothing of its method, student and length
    assert run.settings() == Run(copied.folder).settings()
    with pytest.raises(linnet.UserError, match=r"made with other settings \(train.epochs: 2 -> 3\)"):
        linnet.distill(DATA, out=copied.folder, options={"train.epochs": 3}, resume=True)
    monkeypatch.chdir(copied.folder.parent)
    (Path("runs") / "aviary-species-3-images-4-ce-s0").parent.mkdir()
    name = settings(DATA, method="ce", options=TINY)[0]
    from linnet.defaults import default_folder

    copied.folder.rename(default_folder(name))
    again = linnet.distill(DATA, method="ce", resume=True)  # and the folder is found by what is typed
    assert again.settings().train.epochs == 2


def test_a_run_is_resumed_from_elsewhere_and_with_its_data_moved(
    make_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home, other = tmp_path / "home", tmp_path / "other"
    make_folder(images=8, root=home / "photos")
    other.mkdir()
    monkeypatch.chdir(home)
    options = {**TINY, "student.pretrained": False}
    whole = linnet.distill("photos", out="runs/x", options=options).summary()
    monkeypatch.chdir(other)
    again = linnet.distill(out=home / "runs" / "x", resume=True)
    assert again.summary()["test.top1"] == whole["test.top1"]
    shutil.move(home / "photos", tmp_path / "moved")
    with pytest.raises(linnet.UserError, match="no such folder"):
        linnet.distill(out=home / "runs" / "x", resume=True)
    moved = linnet.distill(tmp_path / "moved", out=home / "runs" / "x", resume=True)
    assert moved.settings().data.source == str(tmp_path / "moved")
    make_folder(images=7, root=tmp_path / "others")
    with pytest.raises(linnet.UserError, match="the data changed since"):
        linnet.distill(tmp_path / "others", out=home / "runs" / "x", resume=True)
    assert Run(home / "runs" / "x").settings().data.source == str(tmp_path / "moved")  # a refused one changes nothing
    linnet.distill(out=home / "runs" / "x", resume=True)
    assert Run(home / "runs" / "x").is_finished


def test_only_paths_may_differ(tmp_path: Path):
    config, _ = settings(DATA, method="ce", options=TINY)
    Run.create(tmp_path / "run", config).close()
    other: Config = replace(config, data=replace(config.data, source="aviary:species=4,images=4"))
    with pytest.raises(linnet.UserError, match="made with other settings .*species=3,images=4 -> "):
        Run.create(tmp_path / "run", other, resume=True)


def test_what_is_read_after_training_may_change(tmp_path: Path):
    run = Run(tmp_path)
    write_yaml(Config(), run.config)
    assert run.changes(replace(Config(), export=False, opset=19)) == []
    assert run.changes(replace(Config(), seed=1)) == ["seed: 0 -> 1"]


@pytest.mark.parametrize(("method", "later"), [("kd", ("weight", "deviation")), ("openvocab", ("align_teacher",))])
def test_a_run_from_before_an_option_existed_goes_on(method: str, later: tuple[str, ...], tmp_path: Path):
    config, _ = settings(DATA, method=method)
    earlier = {name: value for name, value in config.options[method].items() if name not in later}
    assert len(earlier) == len(config.options[method]) - len(later)
    write_yaml(replace(config, options={method: earlier}), Run(tmp_path).config)
    assert Run(tmp_path).changes(config) == []


@pytest.mark.parametrize("views", ["light", "paper:openvocab"])
def test_a_training_does_not_go_on_with_other_views_than_it_began_with(
    views: str, tmp_path: Path, killed_after: Callable
):
    """Those of light never changed; those of paper:openvocab are of version 2, and an earlier linnet noted no version."""
    options = {**TINY, "train.epochs": 2, "data.views": views}
    with killed_after(2):  # after the checkpoint of the first epoch
        linnet.distill(DATA, method="ce", out=tmp_path / "run", options=options)
    run = Run(tmp_path / "run")
    noted = json.loads(run.inputs.read_text())
    assert noted[f"views {views}"] == {"light": "1", "paper:openvocab": "2"}[views]
    run.inputs.write_text(json.dumps({name: value for name, value in noted.items() if not name.startswith("views")}))
    if views == "paper:openvocab":
        with pytest.raises(linnet.UserError, match=r"begun with version 1 of views paper:openvocab, this linnet has 2"):
            linnet.distill(out=run.folder, resume=True)
        run.inputs.write_text(json.dumps(noted))
    assert linnet.distill(out=run.folder, resume=True).is_finished
    run.inputs.write_text("{}")
    assert linnet.distill(out=run.folder, resume=True).is_finished  # nothing is drawn any more


def test_a_run_of_before_jpegs_were_decoded_smaller_goes_on_as_it_began(copied: Run):
    """Other pixels would be another training."""
    assert copied.settings().student.jpeg == "scaled"
    text = copied.config.read_text()
    copied.config.write_text(text.replace("  jpeg: scaled\n", ""))
    assert copied.config.read_text() != text
    assert copied.settings().student.jpeg == "full"
    resolved, _ = settings(out=copied.folder, resume=True)
    assert resolved.student.jpeg == "full"
