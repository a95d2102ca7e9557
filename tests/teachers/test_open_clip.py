from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from linnet.errors import UserError
from linnet.teachers import class_head, load_teacher
from linnet.teachers.base import VisionLanguageTeacher
from linnet.teachers.open_clip import OpenClipTeacher
from linnet.teachers.text import text_bank


def load(folder: Path) -> OpenClipTeacher:
    teacher = load_teacher(f"open_clip:local-dir:{folder}")
    assert isinstance(teacher, OpenClipTeacher)
    return teacher


@pytest.mark.parametrize("custom_text", [False, True])
def test_embeddings_are_those_of_open_clip_itself(open_clip_folder: Callable[..., Path], custom_text: bool):
    """The teacher must see its own mean, std, size and interpolation, whatever the student uses."""
    folder = open_clip_folder(custom_text=custom_text)
    teacher = load(folder)
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    image = Image.effect_noise((60, 45), 80).convert("RGB")
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model.encode_image(preprocess(image)[None]), dim=1)
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a red bird"])
        expected_text = torch.nn.functional.normalize(model.encode_text(tokens), dim=1)
    pixels = teacher.eval_transform(image)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert torch.allclose(teacher.embed_images(pixels[None]), expected, atol=1e-5)
    assert torch.allclose(teacher.embed_texts(["a red bird"]), expected_text, atol=1e-5)
    assert teacher.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


def test_a_teacher_is_frozen_and_stays_in_evaluation_mode(open_clip_folder: Callable[..., Path]):
    teacher = load(open_clip_folder())
    before = teacher.fingerprint()
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    teacher.embed_images(torch.rand(8, 3, 32, 32))
    assert teacher.fingerprint() == before


def test_fingerprint_tells_weights_apart(open_clip_folder: Callable[..., Path]):
    assert load(open_clip_folder(0)).fingerprint() == load(open_clip_folder(0)).fingerprint()
    assert load(open_clip_folder(0)).fingerprint() != load(open_clip_folder(1)).fingerprint()


def test_bank_is_the_unit_mean_over_templates(open_clip_folder: Callable[..., Path]):
    teacher = load(open_clip_folder())
    bank = text_bank(teacher, ["owl", "wren"], ("a {}.", "one {} here"))
    rows = teacher.embed_texts(["a wren.", "one wren here"])
    assert torch.allclose(bank.norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(bank[1], torch.nn.functional.normalize(rows.mean(0), dim=0), atol=1e-5)


def test_class_head_gives_scaled_cosines(open_clip_folder: Callable[..., Path]):
    teacher = load(open_clip_folder())
    head = class_head(teacher, ["a", "b"], ["owl", "wren"], ("a {}.",))
    rows = teacher.embed_images(torch.rand(3, 3, 32, 32))
    out = head(rows.half())
    assert head.bank_CE is not None
    assert torch.allclose(out.logits_BC, teacher.logit_scale * rows @ head.bank_CE.T, atol=0.02)
    assert out.embedding_BE is not None
    assert torch.allclose(out.embedding_BE.norm(dim=1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("templates", [(), ("a photo",), ("{} and {}",)])
def test_bad_templates(open_clip_folder: Callable[..., Path], templates: tuple[str, ...]):
    with pytest.raises(UserError, match=r"teacher.templates must be sentences with one \{\}"):
        text_bank(load(open_clip_folder()), ["owl", "wren"], templates)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("open_clip:ViT-B-61/openai", "no architecture 'ViT-B-61'. Did you mean 'ViT-B-16'"),
        ("open_clip:ViT-B-16/opnai", "needs one of its weights.*openai"),
        ("open_clip:ViT-B-16", "needs one of its weights"),
        ("open_clip:local-dir:/nowhere", "has no open_clip_config.json"),
        ("opn_clip:x", "unknown teacher 'opn_clip:x'.*Did you mean 'open_clip'"),
        ("mini_clip", "unknown teacher 'mini_clip'.*Did you mean 'mini-clip'"),
        ("run:/nowhere", "no saved student"),
        ("timm:resnet81", "timm knows no model 'resnet81'. Did you mean 'resnet18'"),
        ("timm:local-dir:/nowhere", "no config.json"),
    ],
)
def test_unknown_teachers(id: str, message: str):
    with pytest.raises(UserError, match=message):
        load_teacher(id)


def test_a_folder_with_broken_weights_is_refused(open_clip_folder: Callable[..., Path]):
    folder = open_clip_folder()
    (folder / "open_clip_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="could not be loaded"):
        load_teacher(f"open_clip:local-dir:{folder}")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match="could not be loaded"):
        load_teacher(f"open_clip:local-dir:{folder}")


def test_hub_ids_reach_open_clips_hub_loader(monkeypatch: pytest.MonkeyPatch):
    """No network here: what is tested is that the id arrives, and that a missing network is one clear error."""
    asked = []

    def fail(model_id: str, *_: object, **__: object) -> None:
        asked.append(model_id)
        raise OSError("no network")

    monkeypatch.setattr(open_clip.factory, "_get_hf_config", fail)
    with pytest.raises(UserError, match=r"'open_clip:hf-hub:org/name' could not be loaded .*no network.*local-dir"):
        load_teacher("open_clip:hf-hub:org/name")
    assert asked == ["org/name"]


def test_a_tokenizer_of_an_extra_is_asked_for_before_any_download(monkeypatch: pytest.MonkeyPatch):
    """The default teacher for photos is such a model."""
    import importlib

    real = importlib.import_module

    def without_transformers(name: str, *rest: str | None):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without_transformers)
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("downloads"))
    with pytest.raises(UserError, match=r"pip install 'linnet\[hf\]'"):
        load_teacher("open_clip:ViT-B-16-SigLIP2/webli")


def test_the_mini_clip_is_a_vision_language_teacher():
    assert isinstance(load_teacher("mini-clip"), VisionLanguageTeacher)
