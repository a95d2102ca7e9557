"""A vision-language model that writes: images and a prompt in, a text out. Any model of transformers that answers about
images works (LLaVA-NeXT, Qwen2-VL and Qwen2.5-VL, SmolVLM, Idefics3 and their kin), with its own chat template.

Decoding is greedy and plain, so that the same image and prompt give the same text.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from linnet.environment import computes_bf16
from linnet.errors import UserError, first_line, require
from linnet.files import given_path
from linnet.hub import reach_hub, reason
from linnet.text.journal import Written

log = logging.getLogger("linnet")

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]  # what a model is made of; no code among it
NOT_THESE = ["*/*", "consolidated*"]  # other forms of the same weights

Conversation = tuple[Sequence[Image.Image], str]  # images, and what is asked about them


def check_model(id: str) -> None:
    """
    Raises:
        UserError: it can be seen without the network that there is no such model.
    """
    folder = given_path(id, "vlm")
    require("transformers", "hf")
    if folder.is_dir():
        _check_folder(folder)
    elif folder.is_absolute() or id.startswith((".", "~")) or id.count("/") > 1:
        raise UserError(f"there is no folder {folder}: expected a folder, or ORG/NAME of the Hugging Face hub")


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a model of transformers: it has no config.json")
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no weights in safetensors format, the only one that linnet loads")


def find_model(id: str) -> Path:
    """The folder of a model: a local one, or one of the Hugging Face hub, downloaded on first use.

    Raises:
        UserError: there is no such model, or it has no safetensors weights.
    """
    check_model(id)
    folder = Path(id)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        reach_hub(f"'{id}'")
        try:
            folder = Path(snapshot_download(id, allow_patterns=FILES, ignore_patterns=NOT_THESE))
        except Exception as error:  # the hub raises errors of many libraries
            raise UserError(
                f"'{id}' is neither a folder nor a model that the Hugging Face hub gives ({reason(error)})"
            ) from error
    _check_folder(folder)
    return folder


def hash_model(folder: Path) -> str:
    """Hash of all files that decide what a model writes."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in FILES for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            digest.update(f"{path.name}|{hashlib.file_digest(file, 'sha256').hexdigest()}|".encode())
    return digest.hexdigest()


def choose_precision(wanted: Precision) -> tuple[str, str]:
    """The precision, and the reason for it."""
    if wanted != "auto":
        return wanted, "as given"
    if not torch.cuda.is_available():
        return "fp32", "there is no GPU; --precision bf16 would need half of the memory"
    return ("bf16", "the GPU computes it") if computes_bf16() else ("fp16", "the GPU does not compute bf16")


class Writer:
    """A model and its processor, loaded.

    Attributes:
        batch_size: how many conversations it takes at once; 1 after a model turned out to take no more.
    """

    def __init__(self, folder: Path, precision: str, max_tokens: int, batch_size: int):
        """
        Raises:
            UserError: transformers cannot load the model, or it has no chat template.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        place: dict[str, Any] = {"device_map": "auto"} if torch.cuda.is_available() else {}
        own: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.processor: Any = AutoProcessor.from_pretrained(folder, **own)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=DTYPES[precision], use_safetensors=True, **place, **own
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"transformers cannot load {folder} as a model that answers about images ({first_line(error)})"
            ) from error
        self.model, self.dtype = model.eval(), DTYPES[precision]
        self.tokenizer: Any = getattr(self.processor, "tokenizer", None)
        if self.tokenizer is None or not getattr(self.processor, "chat_template", None):
            raise UserError(
                f"{folder} has no chat template: linnet needs a model that was tuned to follow instructions"
            )
        self.tokenizer.padding_side = "left"  # so that every text begins right behind its prompt
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.batch_size = batch_size
        self._plain(max_tokens)

    def _plain(self, max_tokens: int) -> None:
        """Greedy, without what the model's authors may have set for chatting. A penalty on repetition would also count
        the padding, and make a text depend on what else is in its batch."""
        config = self.model.generation_config
        ends = config.eos_token_id if config.eos_token_id is not None else self.tokenizer.eos_token_id
        self._ends = {end for end in (ends if isinstance(ends, list) else [ends]) if end is not None}
        config.update(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_tokens,
            max_length=None,
            min_length=None,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=None,
            no_repeat_ngram_size=None,
            eos_token_id=sorted(self._ends) or None,
            pad_token_id=self.tokenizer.pad_token_id,
        )

    def write(self, conversations: Sequence[Conversation]) -> list[Written]:
        """Answer each; a model that cannot take several at once gets one at a time.

        Raises:
            UserError: a conversation that the model cannot take, or too little memory.
        """
        try:
            return self._write(conversations)
        except torch.OutOfMemoryError as error:
            raise UserError("the GPU is out of memory: the same command with a smaller --batch-size goes on") from error
        except (ValueError, TypeError, RuntimeError, IndexError, KeyError) as error:
            if len(conversations) == 1:
                raise UserError(f"the model cannot answer ({first_line(error)})") from error
            written = [self.write([one])[0] for one in conversations]
            log.info("the model takes one image at a time (several: %s)", first_line(error))
            self.batch_size = 1
            return written

    @torch.inference_mode()
    def _write(self, conversations: Sequence[Conversation]) -> list[Written]:
        messages = [
            [{"role": "user", "content": [*({"type": "image"} for _ in images), {"type": "text", "text": question}]}]
            for images, question in conversations
        ]
        prompts = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        start = self.tokenizer.bos_token  # many templates write it; the tokenizer must not add a second one
        inputs = self.processor(
            text=prompts,
            images=[list(images) for images, _ in conversations] if conversations[0][0] else None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=not (start and prompts[0].startswith(start)),
        ).to(self.model.device, self.dtype)
        length = inputs["input_ids"].shape[1]
        generated = self.model.generate(**inputs)[:, length:].tolist()
        read = inputs["attention_mask"].sum(dim=1).tolist()
        return [self._decoded(tokens, count) for tokens, count in zip(generated, read, strict=True)]

    def _decoded(self, tokens: list[int], read: int) -> Written:
        end = next((i for i, token in enumerate(tokens) if token in self._ends), None)
        own = tokens if end is None else tokens[: end + 1]  # behind it there is padding
        text = self.tokenizer.decode(own, skip_special_tokens=True)
        return Written(" ".join(text.split()), read, len(own))
