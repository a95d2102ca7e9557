"""Models of transformers with a few thousand random weights, saved as on the Hugging Face hub, with real tokenizers and
image processors."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

TEXTS = ["owl", "a wren with a long tail, a type of bird"]
WORDS = ["a", "photo", "of", "red", "blue", "green", "grey", "bird", "owl", "wren", "heron", "with", "long", "tail", "crest", "wings", "type", "crown", "breast", "plain"]  # fmt: skip
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TOWER, "num_hidden_layers": 1, "image_size": 32, "patch_size": 16}


def save_clip(folder: Path, seed: int = 0, length: int = 32) -> Path:
    """CLIP: a start and an end token, padding masked, the shortest side resized, the middle cropped."""
    vocab, merges = _pieces(["<|startoftext|>", "<|endoftext|>"], LETTERS, end="</w>")
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)
    torch.manual_seed(seed)
    text = {**TOWER, "vocab_size": len(vocab), "max_position_embeddings": length}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    network = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12))
    image = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return _saved(folder, network, tokenizer, image)


def save_siglip(folder: Path, gemma: bool = False, length: int = 40) -> Path:
    """SigLIP, with a tokenizer of its own kind or with SigLIP 2's, which is Gemma's (capital letters are kept, padding
    in front): no start token, an end token, padding that the tower reads, images squashed."""
    letters = sorted({letter for word in WORDS for letter in word} | set("▁.,"))
    letters = [*letters, *(letter.upper() for letter in letters if letter.isalpha())]
    vocab, merges = _pieces(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], letters)
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>", "model_max_length": length}
    end = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer: transformers.PreTrainedTokenizerFast
    if gemma:
        tokenizer = transformers.GemmaTokenizer(vocab=vocab, merges=merges, **names)
        tokenizer.backend_tokenizer.post_processor = end
    else:
        own = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True))
        own.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
        own.post_processor = end
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=own, model_input_names=["input_ids"], **names)
    torch.manual_seed(1)
    text = {**TOWER, "vocab_size": len(vocab), "max_position_embeddings": length, "projection_size": 16}
    network = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION))
    with torch.no_grad():
        network.logit_scale.fill_(4.7)
    image = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    return _saved(folder, network, tokenizer, image)


def save_align(folder: Path, length: int = 40) -> Path:
    """ALIGN: a BERT and an EfficientNet, whose images lie in [-1, 1]."""
    tokenizer = bert_tokenizer(length)
    torch.manual_seed(2)
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": length}
    vision = {"image_size": 32, "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 16, "in_channels": [32], "out_channels": [16], "kernel_sizes": [3], "strides": [2], "num_block_repeats": [1], "expand_ratios": [1], "depthwise_padding": []}  # fmt: skip
    config = transformers.AlignConfig(text_config=text, vision_config=vision, projection_dim=16, temperature_init_value=0.05)  # fmt: skip
    network = transformers.AlignModel(config)
    image = transformers.EfficientNetImageProcessor(
        size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}, do_center_crop=True,
        rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False, include_top=False, resample=2,
    )  # fmt: skip
    return _saved(folder, network, tokenizer, image)


def save_bert(folder: Path, length: int = 40) -> Path:
    tokenizer = bert_tokenizer(length)
    torch.manual_seed(3)
    config = transformers.BertConfig(**TOWER, vocab_size=len(tokenizer), max_position_embeddings=length)
    return _saved(folder, transformers.BertModel(config), tokenizer)


def bert_tokenizer(length: int) -> transformers.BertTokenizer:
    special, letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "abcdefghijklmnopqrstuvwxyz"
    pieces = [
        *special,
        *".,&;",
        *letters,
        *(f"##{letter}" for letter in letters),
        *(word for word in WORDS if len(word) > 1),
    ]
    return transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, model_max_length=length)


def _pieces(special: list[str], letters: list[str], end: str = "") -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of letters and words, and the merges that build each word from its front. ``end`` marks the last
    letter of a word."""
    pieces, merges = [*special, *letters, *([letter + end for letter in letters] if end else [])], []
    for word in WORDS:
        front, *rest = [*word[:-1], word[-1] + end]
        for letter in rest:
            merges += [(front, letter)] if front + letter not in pieces else []
            pieces += [front + letter] if front + letter not in pieces else []
            front += letter
    return {piece: i for i, piece in enumerate(pieces)}, merges


def _saved(folder: Path, network: torch.nn.Module, tokenizer: object, image: object = None) -> Path:
    """Random text towers hardly look at their words: larger embeddings make differences show."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Embedding | torch.nn.Linear):
                module.weight.mul_(20 if isinstance(module, torch.nn.Embedding) else 8)
    network.eval()
    for part in (network, tokenizer, image):
        if part is not None:
            part.save_pretrained(folder)
    return folder
