from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from hub_models import save_bert
from PIL import Image

from linnet.errors import UserError
from linnet.teachers import check_teacher, load_teacher, open_clip_texts
from linnet.teachers.base import VisionLanguageTeacher
from linnet.teachers.heads import class_head
from linnet.teachers.open_clip import OpenClipTeacher
from linnet.teachers.texts import text_vectors
from linnet.text.classes import ClassInfo


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


BIRDS = (ClassInfo("a", "owl"), ClassInfo("b", "wren"))


def test_bank_is_the_unit_mean_over_templates(open_clip_folder: Callable[..., Path]):
    teacher = load(open_clip_folder())
    bank = text_vectors(teacher, BIRDS, ("a {}.", "one {} here"))
    rows = teacher.embed_texts(["a wren.", "one wren here"])
    assert torch.allclose(bank.norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(bank[1], torch.nn.functional.normalize(rows.mean(0), dim=0), atol=1e-5)


def test_class_head_gives_scaled_cosines(open_clip_folder: Callable[..., Path]):
    teacher = load(open_clip_folder())
    head = class_head(teacher, BIRDS, ("a {}.",))
    rows = teacher.embed_images(torch.rand(3, 3, 32, 32))
    out = head(rows.half())
    assert head.bank_CE is not None
    assert torch.allclose(out.logits_BC, teacher.logit_scale * rows @ head.bank_CE.T, atol=0.02)
    assert out.embedding_BE is not None
    assert torch.allclose(out.embedding_BE.norm(dim=1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("templates", [(), ("a photo",), ("{} and {}",)])
def test_bad_templates(open_clip_folder: Callable[..., Path], templates: tuple[str, ...]):
    with pytest.raises(UserError, match=r"templates must be sentences with one \{\}"):
        text_vectors(load(open_clip_folder()), BIRDS, templates)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("open_clip:ViT-B-61/openai", "no architecture 'ViT-B-61'. Did you mean 'ViT-B-16'"),
        ("open_clip:ViT-B-16/opnai", "openai"),
        ("open_clip:ViT-B-16", "needs a tag, as in open_clip:ViT-B-16/TAG: openai"),
        ("open_clip:local-dir:/nowhere", "has no open_clip_config.json"),
        ("opn_clip:x", "unknown teacher 'opn_clip:x'.*Did you mean 'open_clip'"),
        *[
            (id, "nothing stands behind the last colon")
            for id in ("timm:local-dir:", "open_clip:local-dir: ", "timm:resnet18:", "run:")
        ],
        ("mini_clip", "unknown teacher 'mini_clip'.*Did you mean 'mini-clip'"),
        (str(Path(__file__).parent), f"Did you mean 'run:{Path(__file__).parent}'"),
        ("run:/nowhere", "no saved student"),
        ("timm:resnet188", "timm has no model 'resnet188'. Did you mean 'resnet18'"),
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
    for look in (load_teacher, check_teacher):  # the latter before any data
        with pytest.raises(UserError, match=r"has no weights: expected open_clip_model.safetensors"):
            look(f"open_clip:local-dir:{folder}")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_cfg": {}}', '{"model_cfg": null}'])
def test_a_damaged_configuration_is_named_before_any_data(content: str, open_clip_folder: Callable[..., Path]):
    folder = open_clip_folder()
    (folder / "open_clip_config.json").write_text(content)
    with pytest.raises(UserError, match=r"open_clip_config.json is damaged"):
        check_teacher(f"open_clip:local-dir:{folder}")


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


@pytest.mark.usefixtures("without_transformers")
def test_a_tokenizer_of_an_extra_is_asked_for_before_any_download(monkeypatch: pytest.MonkeyPatch):
    """The default teacher for photos is such a model."""
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("downloads"))
    with pytest.raises(UserError, match=r"pip install 'linnet\[hf\]'"):
        load_teacher("open_clip:ViT-B-16-SigLIP2/webli")


def test_the_mini_clip_is_a_vision_language_teacher():
    assert isinstance(load_teacher("mini-clip"), VisionLanguageTeacher)


# --- learned context vectors in place of tokens ---

SIGLIP = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
TOWERS = {
    "CLIP": {"custom_text": False},
    "CustomTextCLIP": {"custom_text": True},
    "end by id": {"custom_text": True, "text": {"pool_type": "eos", "eos_id": 49407}},
    "SigLIP": {"custom_text": True, "text": SIGLIP},
}
TEXTS = ["owl", "a wren with a long tail, a type of bird"]


@pytest.fixture(params=TOWERS)
def teacher(request: pytest.FixtureRequest, open_clip_folder: Callable[..., Path]) -> OpenClipTeacher:
    return lively(load(open_clip_folder(context_length=32, **TOWERS[request.param])))


def lively(teacher: OpenClipTeacher) -> OpenClipTeacher:
    """Random text towers hardly look at their words: larger embeddings make differences show."""
    tower = teacher.text_tower.tower
    with torch.no_grad():
        for parameter in (tower.token_embedding.weight, tower.positional_embedding):
            parameter.mul_(20)
    return teacher


def some_context(teacher: OpenClipTeacher, vectors: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(vectors, teacher.token_width, generator=torch.Generator().manual_seed(seed))
    return drawn.mul(0.4).requires_grad_()


def by_hand(teacher: OpenClipTeacher, texts: list[str], context_PW: torch.Tensor, pool: str = "end") -> torch.Tensor:
    """[start] context [text and end] [padding], of full length, one text at a time, through the layers of the tower."""
    tower, rows = teacher.text_tower.tower, []
    for text in texts:
        tokens = teacher.tokenize([text])[0]
        words = tokens[1 : tokens.argmax() + 1]  # with the end token, which has the highest number
        end = len(context_PW) + len(words)
        assert end < len(tokens), "the oracle itself would cut the end token"
        padding = torch.zeros(len(tokens) - 1 - end, dtype=torch.long)
        table = tower.token_embedding.weight
        embedded = torch.cat([table[tokens[:1]], context_PW, table[words], table[padding]])
        hidden = tower.transformer((embedded + tower.positional_embedding)[None], attn_mask=tower.attn_mask)
        row = tower.ln_final(hidden)[0, end if pool == "end" else -1]
        project = tower.text_projection
        rows.append(project(row) if isinstance(project, torch.nn.Linear) else row @ project)
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def pool_of(teacher: OpenClipTeacher) -> str:
    return "last" if getattr(teacher.text_tower.tower, "pool_type", "") == "last" else "end"


def test_context_that_is_words_reads_like_these_words(teacher: OpenClipTeacher):
    """A context one place off, or without its positions, would still train, on another prompt than it says."""
    words = teacher.tokenize(["a photo of the"])[0, 1:5]
    context = teacher.text_tower.token_embedding.weight[words]
    expected = teacher.embed_texts([f"a photo of the {text}" for text in TEXTS])
    assert torch.allclose(teacher.embed_texts(TEXTS, context), expected, atol=1e-5)
    assert not torch.allclose(teacher.embed_texts(TEXTS, context.flip(0)), expected, atol=1e-2)
    assert not torch.allclose(teacher.embed_texts(TEXTS), expected, atol=1e-2)


def test_the_end_token_is_never_cut(teacher: OpenClipTeacher):
    """CLIP reads a text at its end token: without it, the embedding is that of some word, and nothing complains."""
    room = teacher.room(TEXTS)
    longest = max(len(teacher.tokenize([text])[0].nonzero()) for text in TEXTS)
    assert 0 < room == 32 - longest
    context = some_context(teacher, room)
    assert torch.allclose(
        teacher.embed_texts(TEXTS, context), by_hand(teacher, TEXTS, context, pool_of(teacher)), atol=1e-5
    )
    with pytest.raises(UserError, match=f"{room + 1} context vectors do not fit"):
        teacher.embed_texts(TEXTS, some_context(teacher, room + 1))
    assert teacher.room(["bird " * 40]) == 0


def test_a_text_that_holds_the_padding_token_keeps_its_end(teacher: OpenClipTeacher):
    """In CLIP's vocabulary the "!" of "!&" is token 0, the padding: counting the other tokens made the text shorter
    than it is, so its end token was cut."""
    text = ["a !& b"]
    tokens = teacher.tokenize(text)[0]
    assert 0 in tokens[: tokens.argmax()]
    room = teacher.room(text)
    assert room == 32 - (int(tokens.argmax()) + 1)
    for vectors in (3, room):
        context = some_context(teacher, vectors)
        expected = by_hand(teacher, text, context, pool_of(teacher))
        assert torch.allclose(teacher.embed_texts(text, context), expected, atol=1e-5)
    with pytest.raises(UserError, match="do not fit"):
        teacher.embed_texts(text, some_context(teacher, room + 1))


def test_only_padding_that_no_token_reads_is_left_out(teacher: OpenClipTeacher):
    lengths, context = [], some_context(teacher, 4)
    handle = teacher.text_tower.tower.ln_final.register_forward_hook(
        lambda module, inputs, output: lengths.append(output.shape[1])
    )
    cut = teacher.embed_texts(TEXTS, context)
    teacher.text_tower.can_be_cut = False
    whole = teacher.embed_texts(TEXTS, context)
    handle.remove()
    if pool_of(teacher) == "last":
        assert lengths == [32, 32]
    else:
        words = [len(teacher.tokenize([text])[0].nonzero()) - 1 for text in TEXTS]
        assert lengths == [1 + 4 + sum(words), 32]
    assert torch.allclose(cut, whole, atol=1e-6)
    (gradient,) = torch.autograd.grad(cut[:, 0].sum(), context)
    assert torch.allclose(gradient, torch.autograd.grad(whole[:, 0].sum(), context)[0], atol=1e-5)
    assert gradient.norm() > 1e-3


@pytest.mark.parametrize("tokens", [1, 14, 30])
def test_texts_in_one_row_or_in_several_read_as_each_of_them_alone(
    teacher: OpenClipTeacher, tokens: int, monkeypatch: pytest.MonkeyPatch
):
    """A text that saw the one before it, or stood at other positions, would have the vector of another text."""
    monkeypatch.setattr(open_clip_texts, "ROW_TOKENS", tokens)
    texts = ["a wren with a long tail", "owl", "", "an owl", "a !& b", "wren"]
    context = some_context(teacher, 4)
    rows, given = [], teacher.text_tower.parts
    monkeypatch.setattr(
        teacher.text_tower, "parts", lambda *asked: rows.append([len(p) for p in given(*asked)]) or given(*asked)
    )
    together = teacher.embed_texts(texts, context)
    if pool_of(teacher) == "end":
        assert rows == {1: [[1] * 6], 14: [[4, 2]], 30: [[6]]}[tokens]
    alone = torch.cat([teacher.embed_texts([text], context) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together, alone.roll(1, 0), atol=1e-2)
    teacher.text_tower.can_be_cut = False
    assert torch.allclose(together, teacher.embed_texts(texts, context), atol=1e-5)


def test_only_the_context_gets_a_gradient_and_the_teacher_stays_as_it_was(teacher: OpenClipTeacher):
    """A hook or a shortened mask left behind would change every later text; an extra entry of the state dict would
    change the fingerprint, and with it throw away the cache."""
    tower = teacher.text_tower.tower
    state = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    buffers = {name: tensor.clone() for name, tensor in teacher.named_buffers()}
    before, fingerprint = teacher.embed_texts(TEXTS), teacher.fingerprint()
    context = some_context(teacher, 4)
    (teacher.embed_texts(TEXTS, context) @ torch.arange(16.0)).sum().backward()
    assert context.grad is not None
    assert (context.grad.norm(dim=1) > 1e-4).all()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())

    def unchanged() -> None:
        assert not tower.token_embedding._forward_hooks
        assert list(teacher.state_dict()) == list(state)
        assert all(torch.equal(tensor, state[name]) for name, tensor in teacher.state_dict().items())
        assert {name: tensor.shape for name, tensor in teacher.named_buffers()} == {
            name: tensor.shape for name, tensor in buffers.items()
        }
        assert all(torch.equal(tensor, buffers[name]) for name, tensor in teacher.named_buffers())
        assert isinstance(tower.positional_embedding, torch.nn.Parameter)
        assert teacher.fingerprint() == fingerprint
        assert torch.equal(teacher.embed_texts(TEXTS), before)

    unchanged()
    with pytest.raises(RuntimeError):
        teacher.embed_texts(TEXTS, torch.zeros(4, teacher.token_width + 1))
    unchanged()


def test_many_texts_give_the_values_and_gradients_of_few(teacher: OpenClipTeacher):
    """More than 256 texts take another path, which computes activations twice: the hook must be there both times."""
    texts = [f"{first} {second} bird" for first in "abcdefghijklmnopqr" for second in "abcdefghijklmno"]
    weights = torch.randn(len(texts), 16, generator=torch.Generator().manual_seed(0))
    assert len(texts) == 270
    together, pieces = some_context(teacher, 4), some_context(teacher, 4)
    whole = teacher.embed_texts(texts, together)
    (whole * weights).sum().backward()
    parts = [teacher.embed_texts(texts[start : start + 90], pieces) for start in range(0, 270, 90)]
    (torch.cat(parts) * weights).sum().backward()
    assert torch.allclose(whole, torch.cat(parts), atol=1e-5)
    assert together.grad is not None and pieces.grad is not None
    assert torch.allclose(together.grad, pieces.grad, rtol=1e-3, atol=1e-4)
    assert pieces.grad.norm() > 0.1
    assert not teacher.text_tower.token_embedding._forward_hooks
    with torch.no_grad():
        assert torch.allclose(teacher.embed_texts(texts, pieces), whole, atol=1e-5)


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_last_hidden_state_pooler"])
def test_a_tower_of_transformers_reads_no_padding(open_clip_folder: Callable[..., Path], tmp_path: Path, pooler: str):
    """It masks it, so nothing is lost; a tower of BiomedCLIP would read 256 tokens for "a photo of a wren"."""
    bert = str(save_bert(tmp_path / "clip-0-True"))  # where open_clip looks for the tokenizer, beside its own files
    text = {"hf_model_name": bert, "hf_tokenizer_name": bert, "hf_model_pretrained": False}
    text |= {"hf_pooler_type": pooler, "hf_proj_type": "linear"}
    teacher = load(open_clip_folder(custom_text=True, context_length=32, text=text))
    read = list[int]()
    teacher.text_tower.tower.transformer.register_forward_hook(
        lambda module, inputs, output: read.append(output.last_hidden_state.shape[1])
    )
    context = some_context(teacher, 4)
    longest = 32 - teacher.room(TEXTS)
    short = teacher.embed_texts(TEXTS), teacher.embed_texts(TEXTS, context)
    teacher.text_tower.masked_token = None
    whole = teacher.embed_texts(TEXTS), teacher.embed_texts(TEXTS, context)
    assert read == [longest, longest + 4, 32, 32]
    for one, other in zip(short, whole, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    gradients = [torch.autograd.grad(rows[1][:, 0].sum(), context)[0] for rows in (short, whole)]
    assert torch.allclose(*gradients, atol=1e-5) and gradients[0].norm() > 1e-3
