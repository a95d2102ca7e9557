from pathlib import Path

import pytest
import torch

from linnet.deploy import latency
from linnet.deploy.latency import image_ms
from linnet.errors import UserError


@pytest.mark.parametrize("model", ["model.onnx", "model"])
@pytest.mark.parametrize("threads", [1, None])
def test_both_forms_of_a_student_are_timed(tiny_run: Path, model: str, threads: int | None):
    before = torch.get_num_threads()
    assert 0 < image_ms(tiny_run / "run" / model, threads) < 10_000
    assert torch.get_num_threads() == before


def test_the_number_of_threads_reaches_the_runtime(tiny_run: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    real = latency.open_session

    def watched(*arguments):
        session = real(*arguments)
        seen.append(session.get_session_options().intra_op_num_threads)
        return session

    monkeypatch.setattr(latency, "open_session", watched)
    image_ms(tiny_run / "run" / "model.onnx", 3)
    assert seen == [3]


def test_what_is_not_there_cannot_be_timed(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        image_ms(tmp_path / "model.onnx")
