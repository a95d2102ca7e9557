"""Sentence encoders, compared with loops over what the models of transformers give."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hub_models import TEXTS, TOWER, bert_tokenizer, save_bert
from safetensors.torch import save_file

from linnet.errors import UserError
from linnet.teachers import load_text_encoder
from linnet.teachers.sentences import SentenceEncoder

SENTENCES = [*TEXTS, "a", "red " * 60, "a Photo of a Grey Heron"]
SIZE = {**TOWER, "vocab_size": len(bert_tokenizer(40)), "max_position_embeddings": 42}
T5 = {"d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8, "vocab_size": SIZE["vocab_size"]}
NETWORKS: dict[str, Callable[[], Any]] = {
    "mpnet": lambda: transformers.MPNetModel(transformers.MPNetConfig(**SIZE)),
    "xlm-roberta": lambda: transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**SIZE)),
    "qwen3": lambda: transformers.Qwen3Model(transformers.Qwen3Config(**SIZE, num_key_value_heads=2, head_dim=8)),
    "t5 encoder": lambda: transformers.T5EncoderModel(transformers.T5Config(**T5)),
}


def load(folder: Path) -> SentenceEncoder:
    encoder = load_text_encoder(f"hf:{folder}")
    assert isinstance(encoder, SentenceEncoder)
    return encoder


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def sentence_folder(
    root: Path, pooling: dict | None = None, after: tuple[str, ...] = (), about: dict | None = None, **own: object
) -> Path:
    """A BERT in the layout of sentence-transformers, with the modules ``after`` the pooling."""
    save_bert(root)
    kinds = ["Transformer", "Pooling", *after]
    paths = ["" if kind == "Transformer" else f"{i}_{kind}" for i, kind in enumerate(kinds)]
    names = [{"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)]  # fmt: skip
    write(root / "modules.json", names)
    write(root / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False, **own})
    write(root / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, **(pooling or {"pooling_mode_mean_tokens": True})})  # fmt: skip
    if about is not None:
        write(root / "config_sentence_transformers.json", about)
    for path, kind in zip(paths, kinds, strict=True):
        if kind == "Dense":
            settings = {"in_features": 16, "out_features": 6, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}  # fmt: skip
            write(root / path / "config.json", settings)
            drawn = torch.Generator().manual_seed(0)
            tensors = {"linear.weight": torch.randn(6, 16, generator=drawn), "linear.bias": torch.randn(6, generator=drawn)}  # fmt: skip
            save_file(tensors, root / path / "model.safetensors")
    return root


def hidden(folder: Path, texts: list[str], length: int = 20) -> list[torch.Tensor]:
    """(L, D) last hidden states of each text, one at a time, without any padding."""
    network = transformers.AutoModel.from_pretrained(str(folder)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    with torch.no_grad():
        return [
            network(**tokenizer(text, truncation=True, max_length=length, return_tensors="pt")).last_hidden_state[0]
            for text in texts
        ]


def by_hand(states_LD: torch.Tensor, pooling: str) -> torch.Tensor:
    total, weights = torch.zeros(states_LD.shape[1]), 0.0
    if pooling == "cls":
        return states_LD[0]
    if pooling == "lasttoken":
        return states_LD[-1]
    if pooling == "max":
        return torch.stack([max(column) for column in states_LD.T])
    for place, state_D in enumerate(states_LD, 1):
        weight = place if pooling == "weightedmean" else 1
        total, weights = total + weight * state_D, weights + weight
    return total / (weights**0.5 if pooling == "mean_sqrt_len_tokens" else weights)


def unit(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def test_a_plain_model_gives_the_mean_of_its_tokens(tmp_path: Path):
    encoder = load(save_bert(tmp_path / "bert"))
    rows = encoder.embed_texts(SENTENCES)
    assert rows.dtype == torch.float32
    assert torch.allclose(rows.norm(dim=1), torch.ones(5), atol=1e-5)
    expected = unit([by_hand(states, "mean") for states in hidden(tmp_path / "bert", SENTENCES, 40)])
    assert torch.allclose(rows, expected, atol=1e-5)
    assert (rows[0] - rows[1]).abs().max() > 0.01


@pytest.mark.parametrize("name", NETWORKS)
def test_models_of_many_kinds_read_a_text_alone_as_among_others(name: str, tmp_path: Path):
    """Decoders, encoders of T5, positions that start behind the padding; padding on either side."""
    torch.manual_seed(0)
    NETWORKS[name]().save_pretrained(tmp_path)
    sides = []
    for side in ("right", "left"):
        tokenizer = bert_tokenizer(10**30)
        tokenizer.padding_side, tokenizer.model_input_names = side, ["input_ids", "attention_mask"]
        tokenizer.save_pretrained(tmp_path)
        encoder = load(tmp_path)
        together = encoder.embed_texts(SENTENCES)
        alone = torch.cat([encoder.embed_texts([text]) for text in SENTENCES])
        assert torch.allclose(together, alone, atol=1e-5)
        sides.append(together)
    assert torch.allclose(sides[0], sides[1], atol=1e-5)
    assert encoder.length == {"qwen3": 42, "t5 encoder": 512}.get(name, 40)


@pytest.mark.parametrize("name", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_every_pooling_in_both_spellings(name: str, tmp_path: Path):
    old = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
    switches = {f"pooling_mode_{key}": False for key in ("cls_token", "max_tokens", "mean_tokens")}
    expected = None
    for i, pooling in enumerate(({**switches, f"pooling_mode_{old.get(name, name)}": True}, {"pooling_mode": name})):
        encoder = load(sentence_folder(tmp_path / str(i), pooling))
        if expected is None:
            expected = unit([by_hand(states, name) for states in hidden(tmp_path / str(i), SENTENCES)])
        assert torch.allclose(encoder.embed_texts(SENTENCES), expected, atol=1e-5)


def test_several_poolings_stand_side_by_side_in_a_fixed_order(tmp_path: Path):
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}
    rows = load(sentence_folder(tmp_path / "model", pooling)).embed_texts(SENTENCES)
    states = hidden(tmp_path / "model", SENTENCES)
    expected = unit([torch.cat([by_hand(own, name) for name in ("cls", "max", "mean")]) for own in states])
    assert torch.allclose(rows, expected, atol=1e-5)


@pytest.mark.parametrize("after", [("Dense",), ("Normalize", "Dense"), ("Dense", "Normalize")])
def test_dense_layers_are_applied_where_they_stand(after: tuple[str, ...], tmp_path: Path):
    from safetensors.torch import load_file

    folder = sentence_folder(tmp_path / "model", after=after)
    (file,) = folder.glob("*_Dense/model.safetensors")
    dense, rows = load_file(file), []
    for states in hidden(folder, SENTENCES):
        row = by_hand(states, "mean")
        if after[0] == "Normalize":
            row = row / row.norm()
        rows.append(torch.tanh(dense["linear.weight"] @ row + dense["linear.bias"]))
    assert torch.allclose(load(folder).embed_texts(SENTENCES), unit(rows), atol=1e-5)


@pytest.mark.parametrize("counts", [True, False])
def test_the_default_prompt_stands_before_every_text(counts: bool, tmp_path: Path):
    """With ``include_prompt: false`` its tokens and the start token are read, but not pooled."""
    about = {"prompts": {"class": "a photo of ", "query": "owl "}, "default_prompt_name": "class"}
    pooling = {"pooling_mode_mean_tokens": True, "include_prompt": counts}
    folder = sentence_folder(tmp_path / "model", pooling, about=about)
    skipped = 0 if counts else 4  # [CLS] a photo of
    states = hidden(folder, [f"a photo of {text}" for text in SENTENCES])
    expected = unit([by_hand(own[skipped:], "mean") for own in states])
    assert torch.allclose(load(folder).embed_texts(SENTENCES), expected, atol=1e-5)
    write(folder / "config_sentence_transformers.json", {**about, "default_prompt_name": None})
    plain = unit([by_hand(own, "mean") for own in hidden(folder, SENTENCES)])
    assert torch.allclose(load(folder).embed_texts(SENTENCES), plain, atol=1e-5)


def test_lower_case_is_a_setting(tmp_path: Path):
    for lower in (False, True):
        folder = sentence_folder(tmp_path / str(lower), do_lower_case=lower)
        tokenizer = bert_tokenizer(40)
        tokenizer.backend_tokenizer.normalizer.lowercase = False
        tokenizer.save_pretrained(folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        write(folder / "tokenizer_config.json", {**settings, "do_lower_case": False})
        rows = load(folder).embed_texts(["Red BIRD", "red bird"])
        assert torch.equal(rows[0], rows[1]) == lower


def test_the_network_may_lie_in_a_folder_of_its_own(tmp_path: Path):
    """As older models of sentence-transformers have it."""
    folder = sentence_folder(tmp_path / "model")
    expected = load(folder).embed_texts(SENTENCES)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write(folder / "modules.json", modules)
    (folder / "0_Transformer").mkdir()
    for file in [*folder.glob("*.safetensors"), *folder.glob("*config*.json"), *folder.glob("tokenizer*")]:
        if file.is_file():
            file.rename(folder / "0_Transformer" / file.name)
    assert torch.allclose(load(folder).embed_texts(SENTENCES), expected, atol=1e-6)


def test_a_frozen_encoder_with_a_fingerprint_of_all_that_decides(tmp_path: Path):
    folder = sentence_folder(tmp_path / "model")
    encoder = load(folder)
    assert not any(module.training for module in encoder.train().modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.id == f"hf:{folder}"
    before = encoder.fingerprint()
    encoder.embed_texts(SENTENCES)
    assert encoder.to(torch.device("cpu")).fingerprint() == before == load(folder).fingerprint()
    seen = {before}
    changes: list[tuple[str, object]] = [
        ("1_Pooling/config.json", {"pooling_mode": "cls"}),
        ("sentence_bert_config.json", {"max_seq_length": 12}),
        ("sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": True}),
        ("config_sentence_transformers.json", {"prompts": {"x": "a "}, "default_prompt_name": "x"}),
    ]
    for file, content in changes:
        earlier = (folder / file).read_bytes() if (folder / file).is_file() else None
        write(folder / file, content)
        seen.add(load(folder).fingerprint())
        (folder / file).unlink() if earlier is None else (folder / file).write_bytes(earlier)
    network = transformers.AutoModel.from_pretrained(str(folder))
    with torch.no_grad():
        next(network.parameters()).add_(0.1)
    network.save_pretrained(folder)
    seen.add(load(folder).fingerprint())
    assert len(seen) == len(changes) + 2


def clip_module(folder: Path) -> None:
    sentence_folder(folder)
    write(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.CLIPModel"}])  # fmt: skip


def odd_activation(folder: Path) -> None:
    sentence_folder(folder, after=("Dense",))
    write(folder / "2_Dense" / "config.json", {"in_features": 16, "out_features": 6, "activation_function": "os.system"})  # fmt: skip


def pickled_dense(folder: Path) -> None:
    sentence_folder(folder, after=("Dense",))
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda folder: sentence_folder(folder, after=("LayerNorm",)), "Dense or Normalize in its modules.json, not 'sentence_transformers.models.LayerNorm'"),
        (clip_module, "expected Transformer in its modules.json, not 'sentence_transformers.models.CLIPModel'"),
        (lambda folder: sentence_folder(folder, {"pooling_mode": "attention"}), "its pooling 'attention' is none of cls, max"),
        (lambda folder: sentence_folder(folder, about={"prompts": {}, "default_prompt_name": "q"}), "its default prompt 'q' is none"),
        (odd_activation, "its activation 'system' is none of Identity"),
        (pickled_dense, "expected config.json and model.safetensors in its folder 2_Dense"),
        (lambda folder: (save_bert(folder) / "model.safetensors").unlink(), "could not be loaded"),
        (lambda folder: folder.mkdir(), "has no config.json and no modules.json"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_in_one_line(save: Callable[[Path], None], message: str, tmp_path: Path):
    save(tmp_path / "model")
    with pytest.raises(UserError, match=message) as error:
        load_text_encoder(f"hf:{tmp_path / 'model'}")
    assert "\n" not in str(error.value)
