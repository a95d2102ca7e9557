"""Long-tail tables over seeds: ``python bench/long_tail.py aviary --seeds 0 1 2``; see --help for sets and rows.

All rows share data, student, budget and selection on val; seeds differ in initialisation and order alone. Finished runs
are kept in runs/bench/long-tail-SET and not trained again, so two terminals can share the work: give each its own seeds
or rows (and one thread, OMP_NUM_THREADS=1).
"""

import argparse
from pathlib import Path
from typing import Any

from linnet.commands.comparison import Comparison, mean_sd, percent

BALANCED: dict[str, Any] = {"train.logit_adjustment": 1.0}
WRITTEN: dict[str, Any] = {"method": "vlm-kd", **BALANCED}

# set: settings that all of its rows share
SETS: dict[str, dict[str, Any]] = {
    "aviary": {
        "data.source": "aviary:species=60,images=300,captions=4",
        "data.long_tail": 50.0,
        "train.epochs": 20,
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
    "class texts": {**WRITTEN, "vlm-kd.source": "class"},
    "ltkd, weights 2": {"method": "ltkd", "ltkd.between_weight": 2.0, "ltkd.within_weight": 2.0},
    "ltkd, weights 0.2": {"method": "ltkd", "ltkd.between_weight": 0.2, "ltkd.within_weight": 0.2},
}
KEYS = ("many", "medium", "few", "top1")


def main(arguments: argparse.Namespace) -> None:
    shared = {"export": False, "train.precision": "fp32", **SETS[arguments.set]}
    shared |= dict(option.split("=", 1) for option in arguments.options)
    shared |= {"data.source": arguments.data} if arguments.data else {}
    rows = {row: dict(ROWS[row]) for row in arguments.rows}
    for own in rows.values():
        if arguments.text_encoder and own["method"] == "vlm-kd":
            own["teacher.text_encoder"] = arguments.text_encoder
    out = Path("runs/bench") / f"long-tail-{arguments.set}"
    comparison = Comparison(out, shared, rows, arguments.seeds)
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
    parser.add_argument("--text-encoder", help="for the rows of vlm-kd")
    parser.add_argument("--options", nargs="*", default=[], help="settings for all rows, as in train.lr=0.003")
    main(parser.parse_args())
