"""The picture in the README, from the runs of ``linnet compare bench/aviary.yaml``: ``python bench/picture.py``."""

import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from linnet.data.birds import BACKGROUNDS, draw_bird, make_species, seeded
from linnet.run import Run

RUNS, SEEDS, COLUMNS = Path("runs/compare-aviary"), range(5), 6
METHODS = {"ce": "labels only", "kd": "logits", "vl2lite": "embeddings", "pand": "embeddings,\nneighbours"}


def birds() -> np.ndarray:
    """One genus: a row for each of its six species, drawn here (not taken from the test images)."""
    rows = []
    for species in make_species(6):
        drawn = [seeded("picture", species.name, i) for i in range(COLUMNS)]
        rows.append(np.concatenate([draw_bird(species.plumage, str(r.choice(list(BACKGROUNDS))), r) for r in drawn], 1))
    return np.concatenate(rows)


def main(out: Path = Path("docs/demo.png")) -> None:
    summaries = {method: [Run(RUNS / f"{method}-s{seed}").summary() for seed in SEEDS] for method in METHODS}
    scores = {method: [100 * s["test.top1"] for s in rows] for method, rows in summaries.items()}
    teacher = 100 * summaries["kd"][0]["teacher.test.top1"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), width_ratios=(1, 1.15))
    left.imshow(birds())
    left.set_title("six species of one genus, a row each", fontsize=10)
    left.axis("off")
    names = [f"{method}\n{words}" for method, words in METHODS.items()]
    means = [statistics.mean(values) for values in scores.values()]
    spread = [statistics.stdev(values) for values in scores.values()]
    right.bar(names, means, yerr=spread, color=["#9aa5b1", *["#2f7d4f"] * 3], width=0.7, capsize=4)
    right.axhline(teacher, color="#444444", linestyle="--", linewidth=1)
    right.text(1.4, teacher + 2, f"teacher, zero-shot: {teacher:.1f} %", ha="right", fontsize=9)
    for x, (mean, sd) in enumerate(zip(means, spread, strict=True)):
        right.text(x, mean / 2, f"{mean:.1f}\n± {sd:.1f} %", ha="center", color="white", fontsize=10)
    classes, images = (summaries["kd"][0][key] for key in ("classes", "images.train"))
    right.set_title(f"test top-1, {classes} species, {images} training images, 5 seeds", fontsize=10)
    right.set_ylim(0, 100)
    right.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
