"""A classifier copied without its data, over seeds: ``python bench/data_free.py easy --seeds 0 1``; see --help.

All rows of a set share teacher, student, and the numbers of generator and student steps; ``ce`` takes as many student
steps on the teacher's own training images, and its last state is kept like theirs: test images choose nothing. Finished
runs are kept in runs/bench and not trained again, so two terminals can share the work: give each its own seeds (and one
thread, OMP_NUM_THREADS=1). The first one has to train the teacher before the second one starts (``--rows teacher``).
"""

import argparse
from pathlib import Path
from typing import Any

from linnet.commands.comparison import Comparison, Summary, finished, mean_sd, percent
from linnet.run import Run

# set: the teacher's data and training, and the length of its students'
TEACHER = {"student.name": "resnet18", "student.image_size": 32, "train.epochs": 12, "train.lr": 3e-3}
SETS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # species that differ in most attributes
    "easy": ("aviary:species=8,genus=1,images=200", TEACHER, {"train.epochs": 10, "dfkd.alternations": 5}),
    # species that differ in one or two
    "lookalikes": ("aviary:species=8,images=1000", TEACHER, {"train.epochs": 10, "dfkd.alternations": 5}),
    "larger": (
        "aviary:species=20,genus=1,images=100",
        {**TEACHER, "student.image_size": 64, "train.epochs": 10},
        {"train.epochs": 10, "dfkd.alternations": 3},
    ),
}
SHARED = {
    "student.name": "resnet10t",
    "student.pretrained": False,
    "train.optimizer": "sgd",
    "train.nesterov": False,
    "train.weight_decay": 5e-4,
    "train.lr": 0.05,
    "train.warmup": 0.0,
    "train.select": "last",
    "dfkd.generator_steps": 10,
    "dfkd.student_steps": 10,
    "dfkd.upsampling": "nearest",  # not the default: see docs/LOG.md
}
KL_ONLY = {"dfkd.attention_weight": 0.0, "dfkd.contrast_weight": 0.0}
# row: what sets it apart
ROWS: dict[str, dict[str, Any]] = {
    "ce": {"method": "ce"},
    "generator + KL": KL_ONLY,
    "+ contrast": {"dfkd.attention_weight": 0.0},
    "+ attention": {"dfkd.contrast_weight": 0.0},
    "full": {},
    "random generator": {"dfkd.generator_steps": 0},
    "random generator, transposed, KL": {"dfkd.generator_steps": 0, "dfkd.upsampling": "transposed", **KL_ONLY},
    "random generator, KL": {"dfkd.generator_steps": 0, **KL_ONLY},
    "full, transposed": {"dfkd.upsampling": "transposed"},
    "full, DCGAN": {"dfkd.upsampling": "transposed", "dfkd.spatial_attention": 0.0},
    "full, no spatial attention": {"dfkd.spatial_attention": 0.0},
    "DAFL": {
        **KL_ONLY,
        "dfkd.adversarial_weight": 0.0,
        "dfkd.bn_weight": 0.0,
        "dfkd.one_hot_weight": 1.0,
        "dfkd.balance_weight": 5.0,
    },
}


def ce_row(set: str, teacher: Summary) -> dict[str, Any]:
    """The same student on the teacher's own images, for as many steps."""
    data, training, length = SETS[set]
    shared = {**SHARED, **length}
    steps = shared["train.epochs"] * shared["dfkd.alternations"] * shared["dfkd.student_steps"]
    return {
        **{key: value for key, value in shared.items() if not key.startswith("dfkd.")},
        "method": "ce",
        "data.source": data,
        "train.epochs": round(steps / (teacher["images.train"] // 64)),
        "student.image_size": training["student.image_size"],
    }


def main(arguments: argparse.Namespace) -> None:
    data, training, length = SETS[arguments.set]
    out = Path("runs/bench") / f"data-free-{arguments.set}"
    teacher = Run(out / "teacher")
    summary = finished(
        teacher, {"data.source": data, "method": "ce", **training, "export": False, "train.precision": "fp32"}
    )
    print(f"teacher: {100 * summary['test.top1']:.1f}", flush=True)
    free = {**SHARED, **length, "method": "dfkd", "teacher.id": f"run:{teacher.folder}", "data.eval": data}
    rows = {row: {**free, **ROWS[row]} for row in arguments.rows if row not in ("teacher", "ce")}
    if "ce" in arguments.rows:
        rows = {"ce": ce_row(arguments.set, summary), **rows}
    comparison = Comparison(out, {"export": False, "train.precision": "fp32"}, rows, arguments.seeds)

    def told(row: str, seed: int, summary: Summary) -> None:
        print(f"seed {seed} {row}: {100 * summary['test.top1']:.1f} in {summary['train.seconds']:.0f} s", flush=True)

    table = comparison.table(told)
    print("\n| | test | each seed | agrees with the teacher | seconds |\n|---|---|---|---|---|")
    for row, summaries in table.items():
        test, agrees = percent(summaries, "test.top1"), percent(summaries, "test.teacher_agreement")
        seconds = ", ".join(f"{s['train.seconds']:.0f}" for s in summaries)
        print(f"| {row} | {mean_sd(test)} | {' '.join(f'{v:.1f}' for v in test)} | {mean_sd(agrees)} | {seconds} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    rows = [row for row in ROWS if row not in ("full, DCGAN", "full, no spatial attention", "DAFL")]
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, "teacher"], default=rows)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    main(parser.parse_args())
