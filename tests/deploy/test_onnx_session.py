import os
from pathlib import Path

import pytest

from linnet.deploy import onnx_session
from linnet.deploy.onnx_session import open_session


@pytest.mark.parametrize(("usable", "threads"), [(1, 1), (3, 3), (8, 0)])
def test_no_more_threads_than_processors_that_may_be_used(
    usable: int, threads: int, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
):
    """By its own choice (0) ONNX Runtime starts one for each core of the machine, which then wait for one another."""
    monkeypatch.setattr(onnx_session, "available_cpus", lambda: usable)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    session = open_session(tiny_run / "run" / "model.onnx", "it")
    assert session.get_session_options().intra_op_num_threads == threads


def test_threads_that_wait_do_not_keep_the_processors_busy(tiny_run: Path):
    """By its own choice ONNX Runtime's threads spin, and the next images are decoded on the same processors."""
    session = open_session(tiny_run / "run" / "model.onnx", "it")
    assert session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning") == "0"
