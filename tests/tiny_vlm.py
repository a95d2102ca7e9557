"""Vision-language models of transformers that fit a test: real classes and processors, a few thousand random weights."""

from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LETTERS = [*"abcdefghijklmnopqrstuvwxyz .,:\"'()-_ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789\n"]
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096}  # fmt: skip
# <user>, the images, the words, <assistant>
TEMPLATE = (
    "{% for message in messages %}<user>{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """One token per letter."""
    names = ["<pad>", "<end>", "<unk>", "<user>", "<assistant>", *special]
    inner = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*names, *LETTERS])}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": names[3:]})
    return fast


def save(folder: Path, model: torch.nn.Module, processor: object) -> Path:
    """With weights so large that the model is sure of every letter: rounding decides nothing."""
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.normal_(0, 0.3)
    model.generation_config.eos_token_id = 1
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def llava_next(folder: Path, seed: int = 0) -> Path:
    """Tiles and newlines: the number of image tokens depends on the shape of an image."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    torch.manual_seed(seed)
    tokens, grid = tokenizer("<image>"), [[16, 32], [32, 16], [32, 32]]
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8, projection_dim=32)  # fmt: skip
    text = LlamaConfig(vocab_size=len(tokens), pad_token_id=0, eos_token_id=1, bos_token_id=None, **TEXT)
    config = LlavaNextConfig(vision_config=vision, text_config=text, image_token_index=tokens.convert_tokens_to_ids("<image>"), image_grid_pinpoints=grid, vision_feature_layer=-1)  # fmt: skip
    images = LlavaNextImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=grid)  # fmt: skip
    processor = LlavaNextProcessor(images, tokens, patch_size=8, vision_feature_select_strategy="default", chat_template=TEMPLATE.replace("IMAGE", "<image>"), num_additional_image_tokens=1)  # fmt: skip
    return save(folder, LlavaNextForConditionalGeneration(config), processor)


def qwen2_vl(folder: Path, seed: int = 0) -> Path:
    """Images at their own size, with positions in three directions."""
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    torch.manual_seed(seed)
    tokens = tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    ids = {name: tokens.convert_tokens_to_ids(f"<|{word}|>") for name, word in {"image_token_id": "image_pad", "video_token_id": "video_pad", "vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}.items()}  # fmt: skip
    rope = {"type": "mrope", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = {"vocab_size": len(tokens), "rope_scaling": rope, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None, **TEXT}  # fmt: skip
    vision = {"embed_dim": 32, "hidden_size": 32, "depth": 1, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2}
    limits = {"patch_size": 8, "min_pixels": 16 * 16, "max_pixels": 16 * 16 * 8}
    images, videos = Qwen2VLImageProcessor(**limits), Qwen2VLVideoProcessor(**limits)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    processor = Qwen2VLProcessor(images, tokens, videos, chat_template=TEMPLATE.replace("IMAGE", image))
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
    return save(folder, model, processor)


def idefics3(folder: Path, seed: int = 0, kind: str = "Idefics3") -> Path:
    """An image in pieces, each announced in words."""
    torch.manual_seed(seed)
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tokens = tokenizer(*special, *(f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3)))
    tokens.image_token, tokens.fake_image_token, tokens.global_image_token, tokens.end_of_utterance_token = special
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}  # fmt: skip
    text = {"model_type": "llama", "vocab_size": len(tokens), "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None, **TEXT}  # fmt: skip
    made = {part: getattr(transformers, kind + part) for part in ("Config", "ForConditionalGeneration", "Processor")}
    config = made["Config"](vision_config=vision, text_config=text, image_token_id=tokens.convert_tokens_to_ids("<image>"), scale_factor=2, pad_token_id=0)  # fmt: skip
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    images = getattr(transformers, f"{kind}ImageProcessor")(**sizes)
    videos = [transformers.SmolVLMVideoProcessor(**sizes)] if kind == "SmolVLM" else []
    template = TEMPLATE.replace("IMAGE", "<image>")
    processor = made["Processor"](images, tokens, *videos, image_seq_len=1, chat_template=template)
    return save(folder, made["ForConditionalGeneration"](config), processor)


def smolvlm(folder: Path, seed: int = 0) -> Path:
    pytest.importorskip("num2words", reason="its processor needs num2words")
    return idefics3(folder, seed, "SmolVLM")


MODELS = {"llava_next": llava_next, "qwen2_vl": qwen2_vl, "idefics3": idefics3, "smolvlm": smolvlm}
