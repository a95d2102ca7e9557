"""Vision-language models that write, as transformers builds them, with random weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_vlm import MODELS, qwen2_vl

from linnet.errors import UserError
from linnet.teachers.writer import Writer, choose_precision, find_model, hash_model

SIZES = [(40, 36), (20, 60), (60, 20), (33, 33), (100, 40)]  # other shapes, other numbers of image tokens


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2_vl(tmp_path_factory.mktemp("qwen"))


@pytest.fixture
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in SIZES]


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_writes_what_its_images_write_alone(name: str, tmp_path: Path, images: list[Image.Image]):
    writer = Writer(find_model(str(MODELS[name](tmp_path))), "fp32", 16, 8)
    same = [((image,), "what is it?") for image in images]
    written = writer.write(same)
    assert written == [writer.write([one])[0] for one in same]
    assert len({one.text for one in written}) > 1  # it looks at the images
    assert len({one.input_tokens for one in written}) > 1 or name == "qwen2_vl"
    longer = [((image,), "what is it? " + "really? " * i) for i, image in enumerate(images)]
    assert writer.write(longer) == [writer.write([one])[0] for one in longer]
    assert writer.write(longer) != written
    assert writer.batch_size == 8


def test_tokens_are_counted_without_the_padding(qwen: Path, images: list[Image.Image]):
    writer = Writer(qwen, "fp32", 5, 8)
    short, long = writer.write([((images[0],), "abc"), ((images[0],), "abcdefgh")])
    assert long.input_tokens == short.input_tokens + 5
    assert short.output_tokens <= 5
    ends = writer.tokenizer.convert_tokens_to_ids(["a", "b", "<end>", "<pad>", "<pad>"])
    assert writer._decoded(ends, 7) == ("ab", 7, 3)


def test_what_a_model_is_set_to_for_chatting_does_not_count(qwen: Path, tmp_path: Path, images: list[Image.Image]):
    """A penalty on repetition would count the padding, too: the text would depend on what else is in the batch."""
    chatty = tmp_path / "chatty"
    shutil.copytree(qwen, chatty)
    settings = json.loads((chatty / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 5.0, "repetition_penalty": 1.9, "no_repeat_ngram_size": 1}
    (chatty / "generation_config.json").write_text(json.dumps(settings))
    asked = [((image,), "what?") for image in images]
    assert Writer(chatty, "fp32", 16, 8).write(asked) == Writer(qwen, "fp32", 16, 8).write(asked)
    assert hash_model(chatty) != hash_model(qwen)


def test_a_model_that_takes_no_batch_gets_single_images(
    qwen: Path, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    writer, real = Writer(qwen, "fp32", 4, 8), Writer._write
    asked = [((image,), "what?") for image in images[:2]]
    expected = writer.write(asked)

    def one_at_a_time(self: Writer, conversations: list) -> list:
        if len(conversations) > 1:
            raise ValueError("no batches")
        return real(self, conversations)

    monkeypatch.setattr(Writer, "_write", one_at_a_time)
    with caplog.at_level("INFO", "linnet"):
        assert writer.write(asked) == expected
    assert writer.batch_size == 1
    assert "the model takes one image at a time (several: no batches)" in caplog.text


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [path.unlink() for name in names for path in folder.glob(name)]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("*.safetensors"), "no weights in safetensors format"),
        (without("config.json"), "it has no config.json"),
        (without("chat_template*"), "has no chat template"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "transformers cannot load .* as a model that answers"),
    ],
)  # fmt: skip
def test_what_is_no_model_that_answers_is_said(qwen: Path, tmp_path: Path, spoil: Callable, message: str):
    shutil.copytree(qwen, tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(UserError, match=message):
        Writer(find_model(str(tmp_path / "model")), "fp32", 4, 1)


def test_a_model_of_nowhere_is_said():
    with pytest.raises(UserError, match="'some/where' is neither a folder nor a model that the Hugging Face hub gives"):
        find_model("some/where")


def test_without_a_gpu_the_model_is_fp32_unless_asked_otherwise():
    assert choose_precision("auto")[0] == "fp32"
    assert choose_precision("bf16")[0] == "bf16"
