"""Trains the mini-CLIP that ships with linnet: random birds and their captions, none of a combination that a species
may have.

    python scripts/train_mini_clip.py --out src/linnet/teachers/mini_clip

A batch holds families of four birds that differ in one or two attributes, so that the contrastive loss (CLIP,
Radford et
al. 2021, Fig. 3) has to look at beaks and wing bars, not only at colours. Written in open_clip's own layout, fp16;
the token embeddings that no caption ever touched are set to zero, so they compress away.
"""

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from linnet.data.birds import (
    BACKGROUNDS,
    IMAGE_SIZE,
    Plumage,
    caption,
    draw_bird,
    is_reserved,
    mutate,
    random_plumage,
    seeded,
)

FAMILY = 4
CONFIG = {
    "model_cfg": {
        "embed_dim": 192,
        "vision_cfg": {
            "timm_model_name": "resnet10t",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 64,
        },
        "text_cfg": {"context_length": 48, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
    },
    "preprocess_cfg": {
        "mean": [0.481, 0.458, 0.408],
        "std": [0.269, 0.261, 0.276],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


def family_plumages(rng: np.random.Generator) -> list[Plumage]:
    """Four look-alike birds, none of a reserved combination."""
    ancestor = random_plumage(rng, reserved=False)
    members = [ancestor]
    while len(members) < FAMILY:
        candidate = mutate(ancestor, rng, changes=int(rng.integers(1, 3)))
        if not is_reserved(candidate) and candidate not in members:
            members.append(candidate)
    return members


def draw_family(index: int) -> tuple[np.ndarray, list[list[str]]]:
    """A family: one image and three captions of each bird."""
    rng = seeded("mini-clip", index)
    images, captions = [], []
    for plumage in family_plumages(rng):
        background = str(rng.choice(list(BACKGROUNDS)))
        images.append(draw_bird(plumage, background, rng))
        captions.append([caption(plumage, background, rng) for _ in range(3)])
    return np.stack(images), captions


def augment(images: torch.Tensor, generator: torch.Generator, size: int) -> torch.Tensor:
    """Random square crop (70 to 100 % of the side) and flip per sample, bilinear."""
    count = len(images)
    scale = 0.7 + 0.3 * torch.rand(count, generator=generator)
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (1 - scale)[:, None]
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * flip, scale, shift
    grid = F.affine_grid(theta, [count, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()

    families = args.images // FAMILY
    pixels = np.zeros((families, FAMILY, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    captions: list[list[list[str]]] = []
    with ProcessPoolExecutor() as pool:
        for i, (images, texts) in enumerate(pool.map(draw_family, range(families), chunksize=64)):
            pixels[i] = images
            captions.append(texts)
    print(f"drew {families * FAMILY} birds", flush=True)

    torch.manual_seed(0)
    model = open_clip.model.CLIP(**CONFIG["model_cfg"])
    model.visual.to(memory_format=torch.channels_last)
    tokenizer = open_clip.SimpleTokenizer(context_length=CONFIG["model_cfg"]["text_cfg"]["context_length"])
    tokens = torch.stack(
        [torch.stack([tokenizer(texts) for texts in family]) for family in captions]
    )  # families, 4, 3, length
    print(f"longest caption: {int((tokens != 0).sum(-1).max())} tokens", flush=True)
    size = CONFIG["model_cfg"]["vision_cfg"]["image_size"]
    mean, std = (torch.tensor(CONFIG["preprocess_cfg"][key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.98),
    )
    per_batch = args.batch_size // FAMILY
    steps = int(args.epochs * (families // per_batch))
    generator = torch.Generator().manual_seed(0)
    start, order = time.time(), torch.empty(0, dtype=torch.long)
    model.train()
    for step in range(steps):
        if len(order) < per_batch:
            order = torch.randperm(families, generator=generator)
        index, order = order[:per_batch], order[per_batch:]
        lr = args.lr * min(1.0, (step + 1) / (0.05 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = lr
        images = torch.from_numpy(pixels[index.numpy()]).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        images = ((augment(images, generator, size) - mean) / std).contiguous(memory_format=torch.channels_last)
        text = tokens[index].flatten(0, 1)
        text = text[torch.arange(len(text)), torch.randint(0, 3, (len(text),), generator=generator)]
        image_BE = F.normalize(model.encode_image(images), dim=1)
        text_BE = F.normalize(model.encode_text(text), dim=1)
        logits = model.logit_scale.exp() * image_BE @ text_BE.T
        target = torch.arange(len(logits))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 50 == 0 or step == steps - 1:
            print(
                f"step {step}/{steps} loss {loss.item():.3f} {time.time() - start:.0f} s",
                flush=True,
            )
        if step % 400 == 399 or step == steps - 1:
            save(model, tokens, args.out)


def save(model: torch.nn.Module, tokens: torch.Tensor, out: Path) -> None:
    seen = torch.zeros(model.token_embedding.num_embeddings, dtype=torch.bool)
    seen[tokens.unique()] = True
    weights = {
        name: value.detach().half().contiguous() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    weights["token_embedding.weight"] = weights["token_embedding.weight"] * seen[:, None]
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "open_clip_model.safetensors")
    (out / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")


if __name__ == "__main__":
    main()
