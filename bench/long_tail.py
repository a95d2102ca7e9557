"""Long-tail tables over seeds: ``python bench/long_tail.py aviary --seeds 0 1 2``; see --help for sets and rows.

All rows share data, student, budget and selection on val; seeds differ in initialisation and order alone. Finished runs
are kept in --out and not trained again, so two terminals can share the work: give each its own seeds or rows (and one
thread, OMP_NUM_THREADS=1).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from linnet.commands.comparison import Comparison, mean_sd, percent
from linnet.data.sources import find_source
from linnet.text.captions import Caption, write_captions

OUT = Path("runs/bench")
SHUFFLED, SHUFFLED_WITHIN = OUT / "texts-shuffled.parquet", OUT / "texts-shuffled-within-classes.parquet"

BALANCED: dict[str, Any] = {"train.logit_adjustment": 1.0}
WRITTEN: dict[str, Any] = {"method": "vlm-kd", **BALANCED}

# set: settings that all of its rows share
SETS: dict[str, dict[str, Any]] = {
    "aviary": {
        "data.source": "aviary:species=60,images=300,captions=4",
        "data.long_tail": 50.0,
        "train.epochs": 20,
    },
    "small": {  # a quarter of the images
        "data.source": "aviary:species=60,images=60,captions=4",
        "data.long_tail": 20.0,
        "train.epochs": 40,
    },
    "photos": {  # needs --data FOLDER, --text-encoder ID, --options data.descriptions=FILE
        "data.long_tail": 10.0,
        "student.name": "mobilenetv3_small_100",
        "student.pretrained": False,
        "student.image_size": 96,
        "train.epochs": 60,
    },
}

# row: its method and what sets it apart
ROWS: dict[str, dict[str, Any]] = {
    "ce": {"method": "ce"},
    "balanced softmax": {"method": "ce", **BALANCED},
    "class-balanced sampling": {"method": "ce", "train.sampling": "class-balanced"},
    "square-root sampling": {"method": "ce", "train.sampling": "square-root"},
    "class weights": {"method": "ce", "train.class_weights": "inverse"},
    "kd": {"method": "kd"},
    "kd + balanced softmax": {"method": "kd", **BALANCED},
    "ltkd": {"method": "ltkd"},
    "vlm-kd": {"method": "vlm-kd", "vlm-kd.texts": 1},
    "vlm-kd + balanced softmax": {**WRITTEN, "vlm-kd.texts": 1},
    "vlm-kd + balanced softmax + vision teacher": {**WRITTEN, "vlm-kd.texts": 1, "vlm-kd.vision_weight": 1.0},
    "M = 2": {**WRITTEN, "vlm-kd.texts": 2},
    "M = 4": {**WRITTEN, "vlm-kd.texts": 4},
    "weight 0.1": {**WRITTEN, "vlm-kd.texts": 1, "vlm-kd.text_weight": 0.1},
    "weight 1": {**WRITTEN, "vlm-kd.texts": 1, "vlm-kd.text_weight": 1.0},
    "weight 2": {**WRITTEN, "vlm-kd.texts": 1, "vlm-kd.text_weight": 2.0},
    "temperature 0.02": {**WRITTEN, "vlm-kd.texts": 1, "vlm-kd.temperature": 0.02},
    "names hidden": {**WRITTEN, "vlm-kd.texts": 1, "vlm-kd.hide": "names"},
    "words hidden": {**WRITTEN, "vlm-kd.texts": 1, "vlm-kd.hide": "words"},
    "captions shuffled": {**WRITTEN, "vlm-kd.texts": 1, "data.texts": str(SHUFFLED)},
    "captions shuffled within classes": {**WRITTEN, "vlm-kd.texts": 1, "data.texts": str(SHUFFLED_WITHIN)},
    "class texts": {**WRITTEN, "vlm-kd.source": "class"},
    "ltkd, weights 2": {"method": "ltkd", "ltkd.between_weight": 2.0, "ltkd.within_weight": 2.0},
    "ltkd, weights 0.2": {"method": "ltkd", "ltkd.between_weight": 0.2, "ltkd.within_weight": 0.2},
}
KEYS = ("many", "medium", "few", "top1")


def write_shuffled(data: str, file: Path) -> None:
    """A table in which each training image has the captions of another one, of any class or of its own."""
    images, chance = find_source(data).read(data, True), np.random.default_rng(0)
    assert images.texts is not None
    trained = np.flatnonzero(images.splits == "train")
    donors = chance.permutation(trained)
    if file == SHUFFLED_WITHIN:
        for label in range(len(images.classes)):
            own = images.labels[trained] == label
            donors[own] = chance.permutation(trained[own])
    captions = [
        Caption(str(images.paths[image]), images.digests[image].tobytes().hex(), "", "", text)
        for image, donor in zip(trained, donors, strict=True)
        for text in images.texts[donor]
    ]
    write_captions(file, captions, {"shuffled": data})


def main(arguments: argparse.Namespace) -> None:
    shared = {"export": False, "train.precision": "fp32", **SETS[arguments.set]}
    shared |= dict(option.split("=", 1) for option in arguments.options)
    shared |= {"data.source": arguments.data} if arguments.data else {}
    rows = {row: dict(ROWS[row]) for row in arguments.rows}
    for own in rows.values():
        if arguments.text_encoder and own["method"] == "vlm-kd":
            own["teacher.text_encoder"] = arguments.text_encoder
    for file in (SHUFFLED, SHUFFLED_WITHIN):
        if any(own.get("data.texts") == str(file) for own in rows.values()):
            write_shuffled(shared["data.source"], file)
    comparison = Comparison(arguments.out or OUT / f"long-tail-{arguments.set}", shared, rows, arguments.seeds)
    table = comparison.table(
        lambda row, seed, summary: print(
            f"seed {seed} {row}: val {100 * summary['val.top1']:.2f}, of few {100 * summary['val.few']:.2f}", flush=True
        )
    )
    print(f"\nseeds {', '.join(map(str, arguments.seeds))}: mean ± sd, test unless it says val")
    print("| | val | val, few | many | medium | few | all |\n|---|---|---|---|---|---|---|")
    for row, summaries in table.items():
        numbers = [percent(summaries, key) for key in ("val.top1", "val.few", *(f"test.{key}" for key in KEYS))]
        print(f"| {row} | {' | '.join(map(mean_sd, numbers))} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS)[:11])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", help="instead of the set's own data")
    parser.add_argument("--out", type=Path, help="folder of the runs; default runs/bench/long-tail-SET")
    parser.add_argument("--text-encoder", help="for the rows of vlm-kd")
    parser.add_argument("--options", nargs="*", default=[], help="settings for all rows, as in train.lr=0.003")
    main(parser.parse_args())
