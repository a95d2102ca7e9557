from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from linnet.errors import UserError
from linnet.text.bank import TextBank

BANK = TextBank(("a", "ü,b"), np.eye(2, 3, dtype=np.float32), "mini-clip", "hash", ("a {}.", "one {}"))


@pytest.mark.parametrize("context", [None, np.ones((2, 5), dtype=np.float32)])
def test_a_saved_bank_is_the_same_when_loaded(tmp_path: Path, context: np.ndarray | None):
    replace(BANK, context_PW=context).save(tmp_path / "bank.safetensors")
    loaded = TextBank.load(tmp_path / "bank.safetensors")
    assert (loaded.names, loaded.teacher, loaded.teacher_hash, loaded.templates) == (
        *(BANK.names, BANK.teacher, BANK.teacher_hash, BANK.templates),
    )
    assert np.array_equal(loaded.rows_CE, BANK.rows_CE)
    assert loaded.context_PW is None if context is None else np.array_equal(loaded.context_PW, context)


def test_a_damaged_bank_is_refused(tmp_path: Path):
    BANK.save(tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    save_file({"weights": BANK.rows_CE}, tmp_path / "other.safetensors")
    for name in ("half", "other"):
        with pytest.raises(UserError, match="is not a text bank written by linnet"):
            TextBank.load(tmp_path / f"{name}.safetensors")
    replace(BANK, names=("a", "b", "c")).save(tmp_path / "three.safetensors")
    with pytest.raises(UserError, match=r"damaged: 3 names for an array of \(2, 3\)"):
        TextBank.load(tmp_path / "three.safetensors")
    with pytest.raises(UserError, match="no such text bank"):
        TextBank.load(tmp_path / "gone.safetensors")
