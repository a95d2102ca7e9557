"""Base and novel classes over seeds: ``python bench/open_vocabulary.py aviary --seeds 0 1 2``; see --help.

All rows of a set share data, student, budget, learning rate and selection on val; seeds differ in initialisation and
order alone. Finished runs are kept in runs/bench and not trained again, so two terminals can share the work: give each
its own seeds (and one thread, OMP_NUM_THREADS=1). The teacher's row is of the same images.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from linnet.commands.comparison import Comparison, Summary, mean_sd, percent
from linnet.data.birds import make_species

# set: settings that all of its rows share
SETS: dict[str, dict[str, Any]] = {
    "aviary": {
        "data.source": "aviary:species=60,images=100",
        "data.novel": 0.5,
        "data.novel_images": "test",
        "shots.count": 5,
        "train.epochs": 8,
        "train.batch_size": 32,
    },
    "animals": {  # needs --data FOLDER --teacher ID
        "data.novel": 0.5,
        "data.novel_images": "test",
        "data.limit_per_class": 100,
        "student.name": "mobilenetv3_small_100",
        "student.pretrained": False,
        "shots.count": 5,
        "train.epochs": 30,
        "train.lr": 3e-3,
    },
}
WEIGHTS = ("cls", "mse", "contrast", "align")


def only(*names: str) -> dict[str, Any]:
    return {f"openvocab.{name}_weight": 0.0 for name in WEIGHTS if name not in names}


BARE = {"data.source": "aviary:species=60,images=100,bare=1"}
# row: its method and what sets it apart
ROWS: dict[str, dict[str, Any]] = {
    "ce": {"method": "ce", "shots.count": None},
    "full": {},
    "cls only": only("cls"),
    "mse only": only("mse"),
    "without cls": only("mse", "contrast", "align"),
    "without mse": only("cls", "contrast", "align"),
    "without contrast": only("cls", "mse", "align"),
    "without align": only("cls", "mse", "contrast"),
    "align unfiltered": {"openvocab.filter": False},
    "with captions": {"openvocab.caption_weight": 1.0},
    "learned prompts": {"openvocab.learn_prompts": True, "prompts.vectors": 8},
    "invented names": BARE,
    "invented names, descriptions": {**BARE, "data.descriptions": "runs/bench/descriptions.json"},
    "finetuned": {"shots.use": "finetune", "train.epochs": 4},
}
KEYS = ("id.mean_per_class", "ood.mean_per_class", "harmonic", "generalised.harmonic")


def write_descriptions(path: Path) -> None:
    """What the prompt names of the aviary say, as descriptions of species that are called by their invented names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({species.name: f"a {species.prompt_name}" for species in make_species(60)}, indent=1))


def main(arguments: argparse.Namespace) -> None:
    shared = {"method": "openvocab", "export": False, "train.precision": "fp32", **SETS[arguments.set]}
    shared |= dict(option.split("=", 1) for option in arguments.options)
    shared |= {"data.source": arguments.data} if arguments.data else {}
    shared |= {"teacher.id": arguments.teacher} if arguments.teacher else {}
    out = Path("runs/bench") / "-".join(["open-vocabulary", arguments.set, *arguments.options])
    write_descriptions(Path("runs/bench/descriptions.json"))
    comparison = Comparison(out, shared, {}, arguments.seeds)

    def finetuned(seed: int) -> dict[str, Any]:
        """It goes on from the zero-shot student of its seed."""
        return {**ROWS["finetuned"], "student.pretrained": str(comparison.run("full", seed).model)}

    def told(row: str, seed: int, summary: Summary) -> None:
        shown = " ".join(f"{100 * summary.get(key, float('nan')):.1f}" for key in ("val.top1", *KEYS))
        print(f"seed {seed} {row}: {shown}", flush=True)

    rows = {row: finetuned if row == "finetuned" else ROWS[row] for row in arguments.rows}
    table = replace(comparison, rows=rows).table(told)
    print("\n| | val | ID | OOD | harmonic | all names | OOD of each seed | share of teacher's OOD | last 5: ID, OOD |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row, summaries in table.items():
        print(f"| {row} | {' | '.join(_cells(summaries))} |")
    reference = next(s for summaries in table.values() for s in summaries if "teacher.harmonic" in s)
    teacher = " | ".join(f"{100 * reference['teacher.' + key]:.2f}" for key in KEYS)
    print(f"| *teacher* | | {teacher} | | | |")
    for row, summaries in table.items():
        if "few_shot.retrieval.mean_per_class" in summaries[0]:
            values = percent(summaries, "few_shot.retrieval.mean_per_class")
            print(f"{row}: retrieval {mean_sd(values)}, alpha {[s['few_shot.retrieval.alpha'] for s in summaries]}")
    for row, summaries in table.items():
        for key in sorted(
            key for key in summaries[0] if key.startswith(("ood.consistency", "ood.coherence", "ood.lang"))
        ):
            print(f"{row}: {key} {statistics.mean(summary[key] for summary in summaries):.3f}")


def _cells(summaries: list[Summary]) -> list[str]:
    first = [mean_sd(percent(summaries, key)) for key in ("val.top1", *KEYS)]
    if not percent(summaries, "harmonic"):  # a classifier knows base classes alone
        first[1] = mean_sd(percent(summaries, "test.mean_per_class"))
    each = " ".join(f"{value:.1f}" for value in percent(summaries, "ood.mean_per_class"))
    share, last = percent(summaries, "ood.share_of_teacher"), [percent(summaries, f"last5.{key}") for key in KEYS[:2]]
    return [
        *first,
        each,
        f"{statistics.mean(share):.1f} %" if share else "",
        ", ".join(map(mean_sd, filter(None, last))),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=["ce", "full", "cls only", "mse only"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", help="instead of the set's own data")
    parser.add_argument("--teacher")
    parser.add_argument("--options", nargs="*", default=[], help="settings for all rows, as in train.lr=0.003")
    main(parser.parse_args())
