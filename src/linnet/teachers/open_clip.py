"""Teachers from open_clip: any CLIP-like model by architecture and tag, from the Hugging Face hub or from a local
folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from linnet.errors import UserError, did_you_mean, first_line, require
from linnet.teachers.base import Normalize, VisionLanguageTeacher


class OpenClipTeacher(VisionLanguageTeacher):
    """An open_clip model, CLIP or CustomTextCLIP.

    Args:
        id: as typed by the user. name: ``ARCH/TAG``, ``local-dir:PATH`` or ``hf-hub:ORG/NAME``.

    Raises:
        UserError: unknown architecture or tag (with a suggestion), or weights that cannot be had.
    """

    network: Any

    def __init__(self, id: str, name: str):
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        architecture, tag = _parse(name)
        try:
            if (open_clip.get_model_config(architecture) or {}).get("text_cfg", {}).get("hf_tokenizer_name"):
                require("transformers", "hf")
            tokenizer = open_clip.get_tokenizer(architecture)
            model = open_clip.create_model(architecture, pretrained=tag, require_pretrained=True)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the teacher '{id}' could not be loaded ({first_line(error)}): "
                "check the name and the network, or use open_clip:local-dir:PATH"
            ) from error
        settings = {**open_clip.get_model_preprocess_cfg(model)}
        plain = PreprocessCfg(**{**settings, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
        super().__init__(id, model, image_transform_v2(plain, is_train=False), repr(sorted(settings.items())))
        self.normalize = Normalize(tuple(settings["mean"]), tuple(settings["std"])).eval()
        self.tokenize: Callable[[list[str]], torch.Tensor] = tokenizer
        self.logit_scale = float(model.logit_scale.exp())  # type: ignore[operator]

    @torch.no_grad()
    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.network.encode_image(self.normalize(images)).float(), dim=1)

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        tokens = self.tokenize(texts).to(self.normalize.mean.device)
        return torch.cat([F.normalize(self.network.encode_text(part).float(), dim=1) for part in tokens.split(256)])


def _parse(name: str) -> tuple[str, str | None]:
    """open_clip's (architecture, tag) for the part of a teacher id behind ``open_clip:``."""
    import open_clip

    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        if not (folder / "open_clip_config.json").is_file():
            raise UserError(
                f"the teacher folder {folder} has no open_clip_config.json: "
                "expected it beside open_clip_model.safetensors"
            )
        return name, None
    if name.startswith("hf-hub:"):
        return name, None
    architecture, _, tag = name.partition("/")
    if architecture not in open_clip.list_models():
        raise UserError(
            f"open_clip knows no architecture '{architecture}'.{did_you_mean(architecture, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise UserError(
            f"open_clip:{architecture} needs one of its weights, as in open_clip:{architecture}/TAG: "
            f"{', '.join(tags) or 'it has none'}"
        )
    return architecture, tag
