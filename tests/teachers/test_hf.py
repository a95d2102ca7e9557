"""Teachers of transformers, compared with the library itself: its own processor, its own models, tiny and random."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from hub_models import TEXTS, TOWER, VISION, bert_tokenizer, save_align, save_bert, save_clip, save_siglip
from PIL import Image

from linnet.errors import UserError
from linnet.teachers import find_kind, load_teacher, load_text_encoder
from linnet.teachers.hf import HuggingFaceTeacher, _logit_scale
from linnet.teachers.sentences import SentenceEncoder

SAVE: dict[str, Callable[[Path], Path]] = {
    "clip": save_clip,
    "siglip": save_siglip,
    "siglip2": lambda folder: save_siglip(folder, gemma=True),
    "align": save_align,
}
SCALE = {"clip": 1 / 0.07, "siglip": 109.947, "siglip2": 109.947, "align": 20.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    return {name: save(root / name) for name, save in SAVE.items()}


@pytest.fixture(params=SAVE)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def teacher(name: str, folders: dict[str, Path]) -> HuggingFaceTeacher:
    return load(folders[name])


def load(folder: Path) -> HuggingFaceTeacher:
    teacher = load_teacher(f"hf:{folder}")
    assert isinstance(teacher, HuggingFaceTeacher)
    return teacher


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def own_texts(folder: Path, texts: list[str]) -> torch.Tensor:
    """What transformers make of texts, padded as the model was trained."""
    network, processor = (auto.from_pretrained(str(folder)) for auto in (transformers.AutoModel, transformers.AutoProcessor))  # fmt: skip
    padding = {"padding": "max_length", "max_length": 40} if "siglip" in folder.name else {"padding": "longest"}
    with torch.no_grad():
        tokens = processor.tokenizer(texts, return_tensors="pt", truncation=True, **padding)
        return unit(network.eval().get_text_features(**tokens).pooler_output)


def test_images_are_seen_as_the_models_own_processor_shows_them(name: str, folders: dict, teacher: HuggingFaceTeacher):
    """Sizes, crops, resampling and normalisation are all the processor's; ALIGN's gives [-1, 1] without a mean."""
    network = transformers.AutoModel.from_pretrained(str(folders[name])).eval()
    processor = transformers.AutoProcessor.from_pretrained(str(folders[name]))
    assert teacher.image_shape == (32, 32)
    for size in ((60, 45), (45, 70)):
        image = Image.effect_noise(size, 80).convert("RGB")
        pixels = processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            expected = unit(network.get_image_features(pixel_values=pixels).pooler_output)
        seen = teacher.eval_transform(image)
        assert 0 <= seen.min() <= seen.max() <= 1
        assert torch.allclose(teacher.normalize(seen[None]), pixels, atol=1e-5)
        assert torch.allclose(teacher.embed_images(seen[None]), expected, atol=1e-4)


def test_texts_are_read_as_transformers_read_them(name: str, folders: dict, teacher: HuggingFaceTeacher):
    texts = [*TEXTS, "a photo of a red bird", "long " * 50]
    rows = teacher.embed_texts(texts)
    assert torch.allclose(rows, own_texts(folders[name], texts), atol=1e-4)
    assert torch.allclose(rows.norm(dim=1), torch.ones(4), atol=1e-5)
    assert (rows[0] - rows[1]).abs().max() > 0.01
    assert torch.allclose(torch.cat([teacher.embed_texts([text]) for text in texts]), rows, atol=1e-4)
    assert teacher.logit_scale == pytest.approx(SCALE[name], rel=1e-4)


def test_siglip_2_reads_lower_case(folders: dict):
    """It was trained on lower-case texts; Gemma's tokenizer keeps capitals."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folders["siglip2"]))
    assert tokenizer("A Red Bird").input_ids != tokenizer("a red bird").input_ids
    teacher = load(folders["siglip2"])
    assert torch.equal(teacher.embed_texts(["A Red Bird"]), teacher.embed_texts(["a red bird"]))


def test_context_that_is_words_reads_like_these_words(teacher: HuggingFaceTeacher):
    """Behind the start token, if there is one, and before the text, whether padding stands in front or behind."""
    tokenize, sentences = teacher.tokenize, [f"a photo of {text}" for text in TEXTS]
    (whole, _), (own, _) = tokenize.rows(sentences), tokenize.rows(TEXTS)
    words = whole[tokenize.start : len(whole) - len(own) + tokenize.start]
    assert [*own[: tokenize.start], *words, *own[tokenize.start :]] == whole, "the oracle needs words of their own"
    context = teacher._token_embedding.weight[torch.tensor(words)]
    expected = teacher.embed_texts(sentences)
    assert torch.allclose(teacher.embed_texts(TEXTS, context), expected, atol=1e-4)
    assert (teacher.embed_texts(TEXTS, context.flip(0)) - expected).abs().max() > 1e-3
    assert (teacher.embed_texts(TEXTS) - expected).abs().max() > 1e-3


def test_no_end_is_cut_and_only_the_context_gets_a_gradient(teacher: HuggingFaceTeacher):
    room = teacher.room(TEXTS)
    assert room == teacher.tokenize.context_length - max(map(len, teacher.tokenize.rows(TEXTS))) > 0
    before, fingerprint = teacher.embed_texts(TEXTS), teacher.fingerprint()
    context = torch.randn(room, teacher.token_width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows = teacher.embed_texts(TEXTS, context)
    (rows @ torch.linspace(-1, 1, rows.shape[1])).sum().backward()
    assert context.grad is not None
    assert (context.grad.norm(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    with pytest.raises(UserError, match=f"{room + 1} context vectors do not fit"):
        teacher.embed_texts(TEXTS, torch.zeros(room + 1, teacher.token_width))
    with pytest.raises(RuntimeError):
        teacher.embed_texts(TEXTS, torch.zeros(2, teacher.token_width + 1))
    assert torch.equal(teacher.embed_texts(TEXTS), before), "a hook was left behind"
    assert teacher.fingerprint() == fingerprint
    assert teacher.room(["bird " * 60]) == 0


def test_many_texts_give_the_values_and_gradients_of_few(folders: dict):
    teacher = load(folders["clip"])
    texts = [f"{first} {second} bird" for first in "abcdefghijklmnopqr" for second in "abcdefghijklmno"]
    together, pieces = (torch.full((2, 16), 0.3).requires_grad_() for _ in range(2))
    whole = teacher.embed_texts(texts, together)
    parts = torch.cat([teacher.embed_texts(texts[start : start + 90], pieces) for start in range(0, 270, 90)])
    weights = torch.randn(whole.shape, generator=torch.Generator().manual_seed(0))
    (whole * weights).sum().backward()
    (parts * weights).sum().backward()
    assert len(texts) > 256
    assert torch.allclose(whole, parts, atol=1e-5)
    assert together.grad is not None and pieces.grad is not None
    assert torch.allclose(together.grad, pieces.grad, rtol=1e-3, atol=1e-3)


def test_fingerprint_tells_weights_settings_and_tokenizers_apart(tmp_path: Path):
    first, again, other = (load(save_clip(tmp_path / str(i), seed)) for i, seed in enumerate((0, 0, 1)))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    for file, key in (("config.json", "text_config"), ("tokenizer_config.json", "model_max_length")):
        path = tmp_path / "1" / file
        content = path.read_text()
        settings = json.loads(content)
        if file == "config.json":
            settings[key]["num_attention_heads"] = 4
        else:
            settings[key] = 20
        path.write_text(json.dumps(settings))
        assert load(tmp_path / "1").fingerprint() != first.fingerprint(), file
        path.write_text(content)
    teacher = first.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_half_precision_weights_become_float32(tmp_path: Path):
    """transformers keep the type of the file, in which a CPU would be slow or wrong."""
    folder = save_clip(tmp_path / "half")
    transformers.AutoModel.from_pretrained(str(folder), dtype=torch.float16).save_pretrained(folder)
    teacher = load(folder)
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}


def test_what_an_id_names(folders: dict, tmp_path: Path):
    assert find_kind("hf:org/name").gives == "vlm"
    assert isinstance(load_text_encoder(f"hf:{folders['clip']}"), HuggingFaceTeacher)
    bert = save_bert(tmp_path / "bert")
    assert isinstance(load_text_encoder(f"hf:{bert}"), SentenceEncoder)
    with pytest.raises(UserError, match=r"reads texts only and cannot be a teacher: give it as --text-encoder"):
        load_teacher(f"hf:{bert}")
    assert load_text_encoder("mini-clip").id == "mini-clip"
    with pytest.raises(UserError, match="reads no texts"):
        load_text_encoder("timm:resnet18")


def naflex(folder: Path) -> None:
    config = transformers.Siglip2Config(text_config={**TOWER, "vocab_size": 99}, vision_config={**TOWER, "patch_size": 16, "num_patches": 4})  # fmt: skip
    transformers.Siglip2Model(config).save_pretrained(folder)
    bert_tokenizer(40).save_pretrained(folder)
    transformers.Siglip2ImageProcessor().save_pretrained(folder)


def classifier(folder: Path) -> None:
    transformers.ViTModel(transformers.ViTConfig(**VISION)).save_pretrained(folder)


def without(file: str) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        save_clip(folder)
        (folder / file).unlink()

    return save


def whole_images(folder: Path) -> None:
    save_clip(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False).save_pretrained(folder)


def a_vector_for_each_token(folder: Path) -> None:
    config = transformers.FlavaConfig(text_config={**TOWER, "vocab_size": 99}, image_config=VISION, multimodal_config=TOWER)  # fmt: skip
    transformers.FlavaModel(config).save_pretrained(folder)
    bert_tokenizer(40).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(folder)


def other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(save_clip(folder) / "model.safetensors")
    tensors.pop("text_projection.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def pickled(folder: Path) -> None:
    without("model.safetensors")(folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")


def own_code(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoModel": "own.Own"}}))
    (folder / "own.py").write_text("raise SystemExit('ran')")


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (naflex, "into patches .NaFlex.; choose a model of one fixed image size"),
        (classifier, "a ViTModel is no model that embeds images and texts"),
        (without("preprocessor_config.json"), "could not be loaded|has no image processor"),
        (without("config.json"), "has no config.json and no modules.json: expected a model in the layout of transformers"),
        (pickled, "could not be loaded .*model.safetensors"),
        (whole_images, "gives images of several sizes"),
        (a_vector_for_each_token, "expected one vector of the same width for an image and a text, not .5, 768. and .3, 768."),
        (other_weights, "lack 1 tensors of a CLIPModel .text_projection.weight"),
        (own_code, "needs code of its own, which linnet never runs"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_teacher_is_refused_in_one_line(save: Callable[[Path], None], message: str, tmp_path: Path):
    save(tmp_path / "model")
    with pytest.raises(UserError, match=message) as error:
        load_teacher(f"hf:{tmp_path / 'model'}")
    assert "\n" not in str(error.value)


def test_a_name_that_is_not_there():
    for id in ("hf:/nowhere/model", "hf:./nowhere", "hf:a/b/c"):
        with pytest.raises(UserError, match="there is no folder .*: expected a folder, or ORG/NAME"):
            load_teacher(id)
    with pytest.raises(UserError, match=r"'hf:org/name' could not be loaded \(.*\): check the name and the network"):
        load_teacher("hf:org/name")
    with pytest.raises(UserError, match="unknown teacher 'hf'"):
        load_teacher("hf")


@pytest.mark.usefixtures("without_transformers")
def test_the_extra_is_asked_for():
    with pytest.raises(UserError, match=r"pip install 'linnet\[hf\]'"):
        load_teacher("hf:org/name")


def test_a_tower_that_takes_no_context_says_so(tmp_path: Path):
    """OWL-ViT does not tell its token embedding; without prompts it is a teacher like any other."""
    text = {**TOWER, "vocab_size": 200, "max_position_embeddings": 40, "eos_token_id": 3}
    network = transformers.OwlViTModel(transformers.OwlViTConfig(text_config=text, vision_config=VISION, projection_dim=12))  # fmt: skip
    for part in (network, bert_tokenizer(40), transformers.OwlViTImageProcessor(size={"height": 32, "width": 32})):
        part.save_pretrained(tmp_path)
    teacher = load(tmp_path)
    assert teacher.embed_texts(TEXTS).shape == (2, 12)
    with pytest.raises(UserError, match="takes no context vectors: use --teacher.head zero-shot or probe"):
        _ = teacher.token_width


def test_a_model_without_a_scale_for_its_cosines_is_refused():
    with pytest.raises(UserError, match="a Identity has no scale for its cosines"):
        _logit_scale("hf:org/name", torch.nn.Identity())
