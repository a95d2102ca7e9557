"""The picture in the README, from the table of ``linnet compare bench/aviary.yaml``: ``python bench/picture.py``."""

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from linnet.data.birds import BACKGROUNDS, draw_bird, make_species, seeded

TABLE, COLUMNS = Path("runs/compare-aviary/compare.json"), 6


def birds() -> np.ndarray:
    """One genus: a row for each of its six species, drawn here (not taken from the test images)."""
    rows = []
    for species in make_species(6):
        drawn = [seeded("picture", species.name, i) for i in range(COLUMNS)]
        rows.append(np.concatenate([draw_bird(species.plumage, str(r.choice(list(BACKGROUNDS))), r) for r in drawn], 1))
    return np.concatenate(rows)


def draw_gains(axes: plt.Axes, table: dict[str, Any]) -> None:
    """How far each method is above ce, with both intervals and the verdict."""
    base, *rows = table["rows"]
    for y, row in enumerate(reversed(rows)):
        value = 100 * row["over_images"]["value"]
        for over, width in (("over_seeds", 2), ("over_images", 7)):
            axes.plot([100 * row[over]["low"], 100 * row[over]["high"]], [y, y], color="#2f7d4f", linewidth=width)
        axes.plot(value, y, "o", color="white", markeredgecolor="#2f7d4f", markersize=7)
        verdict = row["better"].replace("yes", "better").partition(" (")[0]
        axes.text(value, y + 0.2, f"{value:+.1f}: {verdict}", ha="center", fontsize=9)
    axes.axvline(0, color="#444444", linewidth=1)
    axes.set_yticks(range(len(rows)), [row["row"] for row in reversed(rows)])
    axes.set_ylim(-0.5, len(rows) - 0.4)
    alone = 100 * statistics.mean(base["values"]["test.top1"])
    axes.set_xlabel("thick: 95 % for other test images, thin: 95 % for other seeds", fontsize=9)
    axes.set_title(f"points above the labels alone ({alone:.1f} %), {len(table['seeds'])} seeds", fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)


def main(table: Path = TABLE, out: Path = Path("docs/demo.png")) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), width_ratios=(1, 1.15))
    left.imshow(birds())
    left.set_title("six species of one genus, a row each", fontsize=10)
    left.axis("off")
    draw_gains(right, json.loads(table.read_text()))
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
