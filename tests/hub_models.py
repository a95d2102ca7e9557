"""Models of transformers with a few thousand random weights, saved as on the Hugging Face hub, with real tokenizers and
image processors."""

import json
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = ["owl", "a wren with a long tail, a type of bird"]
WORDS = ["a photo of a red bird with a long tail, blue crest and white wings.", "an owl or a wren, a type of bird"]
WORDS += [f"{colour} {part}" for colour in ("green", "black", "plain") for part in ("crown", "breast", "grey heron")]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TOWER, "num_hidden_layers": 1, "image_size": 32, "patch_size": 16}


def save_clip(folder: Path, seed: int = 0, length: int = 32) -> Path:
    """CLIP: a start and an end token, padding masked, the shortest side resized, the middle cropped."""
    plain = transformers.CLIPTokenizer().backend_tokenizer
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer, bpe.pre_tokenizer = plain.normalizer, plain.pre_tokenizer
    special, letters = ["<|startoftext|>", "<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(
            vocab_size=360, special_tokens=special, initial_alphabet=letters, end_of_word_suffix="</w>"
        ),
    )
    model = json.loads(bpe.to_str())["model"]
    tokenizer = transformers.CLIPTokenizer(
        vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]], model_max_length=length
    )
    torch.manual_seed(seed)
    text = {**TOWER, "vocab_size": len(model["vocab"]), "max_position_embeddings": length}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    network = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12))
    image = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return _saved(folder, network, tokenizer, image)


def save_siglip(folder: Path, gemma: bool = False, length: int = 24) -> Path:
    """SigLIP, with a tokenizer of its own kind or with SigLIP 2's, which is Gemma's (capital letters are kept, padding
    in front): no start token, an end token, padding that the tower reads, images squashed."""
    words = _word_pieces(lower=not gemma)
    words.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>", "model_max_length": length}
    tokenizer: transformers.PreTrainedTokenizerFast
    if gemma:
        model = json.loads(words.to_str())["model"]
        merges = [tuple(merge) for merge in model["merges"]]
        tokenizer = transformers.GemmaTokenizer(vocab=model["vocab"], merges=merges, **names)
        tokenizer.backend_tokenizer.post_processor = words.post_processor
    else:
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, model_input_names=["input_ids"], **names
        )
    torch.manual_seed(1)
    text = {**TOWER, "vocab_size": words.get_vocab_size(), "max_position_embeddings": length, "projection_size": 16}
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
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    pieces.train_from_iterator(WORDS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    return transformers.BertTokenizer(vocab=pieces.get_vocab(), model_max_length=length)


def _word_pieces(lower: bool) -> Tokenizer:
    """Byte-pair encoding with spaces as letters, as in Gemma's tokenizer."""
    own = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    space = normalizers.Replace(" ", "▁")
    own.normalizer = normalizers.Sequence([normalizers.Lowercase(), space]) if lower else space
    own.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    own.decoder = decoders.Replace("▁", " ")
    texts = WORDS if lower else [*WORDS, *(text.upper() for text in WORDS)]
    own.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"])
    )
    return own


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
