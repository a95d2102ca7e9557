"""Teachers from open_clip: any CLIP-like model by architecture and tag, from the Hugging Face hub or from a local
folder."""

import json
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from linnet.errors import UserError, did_you_mean, require
from linnet.files import read_text
from linnet.hub import reach_hub, reason
from linnet.students.network import Normalize
from linnet.teachers.base import Kind, VisionLanguageTeacher
from linnet.teachers.open_clip_texts import PART, TextTower

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


class OpenClipTeacher(VisionLanguageTeacher):
    """An open_clip model, CLIP or CustomTextCLIP.

    Args:
        id: as typed by the user. name: ``ARCH/TAG``, ``local-dir:PATH`` or ``hf-hub:ORG/NAME``.

    Raises:
        UserError: unknown architecture or tag (with a suggestion), or weights that cannot be loaded.
    """

    network: Any

    def __init__(self, id: str, name: str):
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        architecture, tag = _parse(name)
        if not name.startswith("local-dir:"):
            reach_hub(f"the teacher '{id}'")
        try:
            _check_extra(architecture)
            tokenizer = open_clip.get_tokenizer(architecture)
            model = open_clip.create_model(architecture, pretrained=tag, require_pretrained=True)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the teacher '{id}' could not be loaded ({reason(error)}): "
                "check the name and the network, or use open_clip:local-dir:PATH"
            ) from error
        settings = {**open_clip.get_model_preprocess_cfg(model)}
        plain = PreprocessCfg(**{**settings, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
        super().__init__(id, model, image_transform_v2(plain, is_train=False), repr(sorted(settings.items())))
        self.normalize = Normalize(tuple(settings["mean"]), tuple(settings["std"])).eval()
        self.tokenize: Callable[[list[str]], torch.Tensor] = tokenizer
        self.unknown_token = getattr(getattr(tokenizer, "tokenizer", None), "unk_token_id", None)
        self.logit_scale = float(model.logit_scale.exp())  # type: ignore[operator]
        self.text_tower = TextTower(model)
        self.token_width = self.text_tower.token_embedding.weight.shape[1]

    @torch.no_grad()
    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.network.encode_image(self.normalize(images)).float(), dim=1)

    def embed_texts(self, texts: list[str], context_PW: torch.Tensor | None = None) -> torch.Tensor:
        tokens = self.tokenize(texts).to(self.normalize.mean.device)
        if context_PW is None:
            with torch.no_grad():
                parts = [self.network.encode_text(part) for part in self._without_padding(tokens).split(PART)]
        else:
            tokens = self._without_padding(self._make_room(tokens, len(context_PW)))
            encode, before = self.text_tower.encode, self._start + len(context_PW)
            if len(tokens) > PART:  # the activations of thousands of prompts would fill the memory
                encode = partial(checkpoint, encode, use_reentrant=False)
            parts = [encode(part, context_PW, self._start) for part in self.text_tower.parts(tokens, before)]
        return F.normalize(torch.cat(parts).float(), dim=1)

    def tokens(self, texts: list[str]) -> list[tuple[int, ...]]:
        return [tuple(row) for row in self.tokenize(texts).tolist()]

    def room(self, texts: list[str]) -> int:
        tokens = self.tokenize(texts)
        return tokens.shape[1] - self._longest(tokens)

    @cached_property
    def _padding(self) -> int:
        return int(self.tokenize([""])[0, -1])

    @cached_property
    def _start(self) -> int:
        """1 if the tokenizer puts a start token before every text, else 0."""
        one, other = self.tokenize(["a", "the"])[:, 0]
        return int(one == other)

    def _make_room(self, tokens_NL: torch.Tensor, vectors: int) -> torch.Tensor:
        """Shift every text to the right. What stands in the room is replaced later; it must not look like padding."""
        before, text = tokens_NL[:, : self._start], tokens_NL[:, self._start :]
        longer = torch.cat([before, text[:, :1].expand(-1, vectors), text], dim=1)
        kept, cut = longer[:, : tokens_NL.shape[1]], longer[:, tokens_NL.shape[1] :]
        if (cut != self._padding).any():
            raise UserError(
                f"{vectors} context vectors do not fit before the texts: the end of one would be cut; shorten it"
            )
        return kept

    def _without_padding(self, tokens_NL: torch.Tensor) -> torch.Tensor:
        """As long as the longest text, where the tower masks what follows."""
        masked = self.text_tower.masked_token == self._padding
        return tokens_NL[:, : self._longest(tokens_NL)] if masked else tokens_NL

    def _longest(self, tokens_NL: torch.Tensor) -> int:
        """Tokens of the longest text, without the padding at its end (in CLIP, "!" has the same number)."""
        return int((tokens_NL != self._padding).any(dim=0).nonzero().max()) + 1


def _parse(name: str) -> tuple[str, str | None]:
    """open_clip's (architecture, tag) for the part of a teacher id behind ``open_clip:``."""
    import open_clip

    if name.startswith("local-dir:"):
        _check_folder(Path(name.removeprefix("local-dir:")))
        return name, None
    if name.startswith("hf-hub:"):
        return name, None
    architecture, _, tag = name.partition("/")
    if architecture not in open_clip.list_models():
        raise UserError(
            f"open_clip has no architecture '{architecture}'.{did_you_mean(architecture, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise UserError(
            f"open_clip:{architecture} needs a tag, as in open_clip:{architecture}/TAG: "
            f"{', '.join(tags) or 'it has none'}"
        )
    return architecture, tag


def _check_folder(folder: Path) -> None:
    file = folder / "open_clip_config.json"
    if not file.is_file():
        raise UserError(
            f"the teacher folder {folder} has no open_clip_config.json: expected it beside open_clip_model.safetensors"
        )
    try:
        is_whole = {"embed_dim", "vision_cfg", "text_cfg"} <= set(json.loads(read_text(file))["model_cfg"])
    except (ValueError, TypeError, KeyError):
        is_whole = False
    if not is_whole:
        raise UserError(f"{file} is damaged, or no configuration of an open_clip model: copy it again")
    if not any(other.suffix in WEIGHTS for other in folder.iterdir()):
        raise UserError(f"the teacher folder {folder} has no weights: expected open_clip_model.safetensors")


def _check_extra(architecture: str) -> None:
    import open_clip

    if (open_clip.get_model_config(architecture) or {}).get("text_cfg", {}).get("hf_tokenizer_name"):
        require("transformers", "hf")


def _check(id: str, name: str, reads_texts: bool) -> None:
    architecture, _ = _parse(name)
    if not name.startswith("hf-hub:"):
        _check_extra(architecture)


def _known() -> Iterator[str]:
    import open_clip

    yield from (f"open_clip:{architecture}/{tag}" for architecture, tag in open_clip.list_pretrained())


KIND = Kind(
    gives="vlm",
    load=OpenClipTeacher,
    check=_check,
    forms={
        "open_clip:ARCH/TAG": "open_clip architecture and weights, as in open_clip:ViT-B-16-SigLIP2/webli",
        "open_clip:local-dir:PATH": "a folder with open_clip_config.json and open_clip_model.safetensors",
        "open_clip:hf-hub:ORG/NAME": "an open_clip model on the Hugging Face hub",
    },
    known=_known,
)
