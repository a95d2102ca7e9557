from pathlib import Path

import pytest

from linnet.commands.demo import demo


def test_the_demo_prints_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    tiny = {"train.epochs": 1, "student.name": "test_resnet", "student.image_size": 32, "train.batch_size": 16}
    tiny |= {"prompts.max_steps": 2, "export": False}
    report = demo(tmp_path / "demo", data="aviary:species=4,images=16", options=tiny)
    printed = capsys.readouterr().out
    for shown in ("better than ce?", "teacher mini-clip", "retention", "one seed says nothing about other seeds"):
        assert shown in printed
    assert [result.name for result in report.results] == ["ce", "kd", "pand"]
    for result in report.results:
        assert f"{100 * result.values['test.top1'][0]:.1f}" in printed
        assert (tmp_path / "demo" / f"{result.name}-s0" / "summary.json").exists()
    monkeypatch.setattr("linnet.commands.comparison.cells.distill", lambda **_: pytest.fail("what is finished is kept"))
    assert demo(tmp_path / "demo", data="aviary:species=4,images=16", options=tiny).results == report.results


@pytest.mark.slow
def test_kd_and_pand_beat_ce_on_look_alike_birds(tmp_path: Path):
    """What `make demo` shows, on two more seeds: the gain that the README claims is not luck."""
    for seed in (11, 12):
        report = demo(tmp_path / str(seed), seed)
        for method in ("kd", "pand"):
            difference = report.result(method).images
            assert difference is not None
            assert difference.value > 0.04
        for result in report.results:
            assert (tmp_path / str(seed) / f"{result.name}-s0" / "model.onnx").exists()
