from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import pytest
import tokenizers
import torch
from hub_models import save_align, save_siglip

from linnet.deploy.export import export_text_tower
from linnet.deploy.text_tower import OnnxTextTower, Tokenizer, portable_tokenizer
from linnet.errors import UserError
from linnet.teachers import load_teacher
from linnet.teachers.hf import HuggingFaceTeacher
from linnet.teachers.texts import text_bank
from linnet.text.classes import class_table


def test_a_tokenizer_of_transformers_is_carried_too():
    """As in SigLIP's: a fast tokenizer with an end token, behind open_clip's cleaning."""
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<pad>": 1, "<unk>": 2, "</s>": 3, "red": 4, "bird": 5}, "<unk>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 3)])

    class Fast:
        backend_tokenizer, pad_token, pad_token_id = inner, "<pad>", 1

    class Canonical:
        """What open_clip's HFTokenizer does with it."""

        tokenizer, context_length, clean_fn = Fast(), 6, staticmethod(open_clip.tokenizer.get_clean_fn("canonicalize"))

        def __call__(self, texts: list[str]) -> torch.Tensor:
            rows = [inner.encode(self.clean_fn(text), add_special_tokens=False).ids[:5] for text in texts]
            return torch.tensor([[*row, 3, *[1] * (5 - len(row))] for row in rows])

    description = portable_tokenizer(Canonical(), ["a photo of a red_bird."])
    assert Tokenizer(description)(["a RED, bird!", "red"]).tolist() == [[2, 4, 5, 3, 1, 1], [4, 3, 1, 1, 1, 1]]

    class Other(Canonical):
        def __call__(self, texts: list[str]) -> torch.Tensor:
            return super().__call__(texts).flip(1)

    with pytest.raises(UserError, match="it reads 'a photo of a cat.' differently"):
        portable_tokenizer(Other(), [])
    with pytest.raises(UserError, match="a tokenizer of the kind function cannot be exported"):
        portable_tokenizer(lambda texts: texts, [])


HUB: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "without a mask": (save_siglip, ["tokens"]),
    "padding in front": (partial(save_siglip, gemma=True), ["tokens", "mask"]),
    "masked": (save_align, ["tokens", "mask"]),
}


@pytest.mark.parametrize("name", HUB)
def test_towers_of_transformers_are_carried_with_their_tokenizers(name: str, tmp_path: Path):
    """On names that were not compared when the file was written: short, long, in capitals, too long."""
    save, inputs = HUB[name]
    teacher = load_teacher(f"hf:{save(tmp_path / 'hub')}")
    assert isinstance(teacher, HuggingFaceTeacher)
    templates = ("a photo of a {}.", "{}")
    export_text_tower(teacher, text_bank(teacher, class_table(["owl", "wren"]), templates), tmp_path / "tower.onnx")
    tower = OnnxTextTower(tmp_path / "tower.onnx")
    assert [own.name for own in tower._session.get_inputs()] == inputs
    classes = class_table(["x", "Red_Bird", "GREY HERON with long tail, plain breast", "bird " * 60])
    expected = text_bank(teacher, classes, templates).rows_CE
    assert np.abs(tower.bank(classes).rows_CE - expected).max() < 1e-3
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    with pytest.raises(UserError, match="'Owl' and 'owl' read the same"):
        tower.bank(class_table(["Owl", "wren", "owl"]))
    with pytest.raises(UserError, match="does not know their letters"):
        tower.bank(class_table(["玫瑰", "owl", "菊花"]))


def test_a_tokenizer_in_python_alone_cannot_be_carried():
    class Slow:
        """As SigLIP's, which needs sentencepiece."""

    class Tokenize:
        tokenizer, context_length = Slow(), 6

    with pytest.raises(UserError, match="a tokenizer of the kind Slow cannot be exported"):
        portable_tokenizer(Tokenize(), [])
