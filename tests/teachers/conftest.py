"""Real open_clip and timm models, tiny and with random weights, in their real folders."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic", "resize_mode": "shortest"}


@pytest.fixture
def open_clip_folder(tmp_path: Path) -> Callable[..., Path]:
    """``open_clip_folder(seed=0, custom_text=False)``: a CLIP of a few thousand weights in open_clip's local-dir layout."""

    def make(seed: int = 0, custom_text: bool = False, preprocess: dict | None = None) -> Path:
        import open_clip
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(seed)
        config = {
            "embed_dim": 16,
            "vision_cfg": {"timm_model_name": "test_resnet", "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear", "image_size": 32},
            "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        }  # fmt: skip
        model = (open_clip.model.CustomTextCLIP if custom_text else open_clip.model.CLIP)(**config)
        folder = tmp_path / f"clip-{seed}-{custom_text}"
        folder.mkdir(exist_ok=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
        shown = {**config, "custom_text": True} if custom_text else config
        (folder / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": shown, "preprocess_cfg": preprocess or PREPROCESS})
        )
        return folder

    return make
