from dataclasses import replace
from pathlib import Path

import pytest
import torch

import linnet
from linnet.config import Config, write_yaml
from linnet.defaults import settings
from linnet.run import Run


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
    named = linnet.distill(data, method="openvocab", out=tmp_path / "named", options={**tiny, "data.novel": 0.5})
    linnet.export(named.folder, text_tower=True)
    named.write_prompts({"context_PW": torch.zeros(1, 2)})
    free = linnet.distill(
        method="dfkd", teacher=f"run:{plain.folder}", out=tmp_path / "free",
        options={**tiny, "dfkd.alternations": 1, "dfkd.generator_steps": 1, "dfkd.student_steps": 1, "dfkd.width": 4},
    )  # fmt: skip
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


def test_what_is_read_after_training_may_change(tmp_path: Path):
    run = Run(tmp_path)
    write_yaml(Config(), run.config)
    assert run.changes(replace(Config(), export=False, opset=19)) == []
    assert run.changes(replace(Config(), seed=1)) == ["seed: 0 -> 1"]
