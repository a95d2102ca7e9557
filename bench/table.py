"""Tables over seeds: ``python bench/table.py aviary --seeds 0 1 2 3 4``; see --help for sets and rows.

All rows of a set share data, student, budget, learning rate and selection on val; seeds differ in initialisation and
order alone. Finished runs are kept in runs/bench/SET and not trained again, so two terminals can share the work:
give each its own seeds (and one thread, OMP_NUM_THREADS=1).
"""

import argparse
from pathlib import Path
from typing import Any

from linnet.commands.comparison import Comparison, baseline, gains, mean_sd, percent
from linnet.commands.demo import DATA, OPTIONS

# set: settings that all of its rows share
SETS: dict[str, dict[str, Any]] = {
    "demo": {"data.source": DATA, **OPTIONS},
    "aviary": {"data.source": "aviary:species=60,images=20", "train.epochs": 10, "train.batch_size": 32},
    # needs --teacher run:FOLDER, a ce student of aviary:species=40,images=200
    "lookalikes": {"data.source": "aviary:species=40,images=20", "train.epochs": 10, "train.batch_size": 32},
    "animals": {  # needs --data FOLDER --teacher ID
        "student.name": "mobilenetv3_small_100",
        "student.pretrained": False,
        "data.limit_per_class": 100,
        "train.epochs": 30,
        "train.lr": 3e-3,
    },
}

# row: its method and what sets it apart
ROWS: dict[str, dict[str, Any]] = {
    "ce": {"method": "ce"},
    "ce replay:1": {"method": "ce", "teacher.views": "replay:1"},
    "ce replay:4": {"method": "ce", "teacher.views": "replay:4"},
    "kd": {"method": "kd"},
    "kd standardized": {"method": "kd", "kd.standardize": True},
    "kd prompt": {"method": "kd", "teacher.head": "prompt"},
    "kd replay:1": {"method": "kd", "teacher.views": "replay:1"},
    "kd replay:4": {"method": "kd", "teacher.views": "replay:4"},
    "kd online": {"method": "kd", "teacher.views": "online"},
    "dkd": {"method": "dkd"},
    "dist": {"method": "dist"},
    "figkd": {"method": "figkd"},
    "figkd, dataset order": {"method": "figkd", "figkd.class_order": "dataset"},
    "figkd, semantic order": {"method": "figkd", "figkd.class_order": "semantic"},
    "figkd, random order": {"method": "figkd", "figkd.class_order": "random"},
    "figkd, low band": {"method": "figkd", "figkd.band": "low"},
    "vl2lite": {"method": "vl2lite"},
    "vl2lite published": {"method": "vl2lite", "vl2lite.schedule": "published"},
    "pand": {"method": "pand"},
    "pand published": {"method": "pand", "pand.schedule": "published"},
    "pand, PSC only": {"method": "pand", "pand.nsd_weight": 0.0},
    "pand, NSD only": {"method": "pand", "teacher.head": "zero-shot"},
    "pand replay:1": {"method": "pand", "teacher.views": "replay:1"},
    "pand replay:4": {"method": "pand", "teacher.views": "replay:4"},
    "pand online": {"method": "pand", "teacher.views": "online"},
}


def main(arguments: argparse.Namespace) -> None:
    shared = {"export": False, "train.precision": "fp32", **SETS[arguments.set]}
    shared |= dict(option.split("=", 1) for option in arguments.options)
    shared |= {"data.source": arguments.data} if arguments.data else {}
    shared |= {"teacher.id": arguments.teacher} if arguments.teacher else {}
    given = [Path(arguments.data).name] if arguments.data else []
    out = Path("runs/bench") / "-".join([arguments.set, *given, *arguments.options])
    comparison = Comparison(out, shared, {row: ROWS[row] for row in arguments.rows}, arguments.seeds)
    table = comparison.table(
        lambda row, seed, summary: print(f"seed {seed} {row}: val {100 * summary['val.top1']:.2f}", flush=True)
    )
    print(f"\ntop-1, mean ± sd of seeds {', '.join(map(str, arguments.seeds))}")
    reference = baseline(table) or arguments.rows[0]  # a table without ce compares with its first row
    print(f"| | val | test | test - {reference} | test of each seed |\n|---|---|---|---|---|")
    for row, summaries in table.items():
        test = percent(summaries, "test.top1")
        cells = [percent(summaries, "val.top1"), test, gains(table, row, reference)]
        print(f"| {row} | {' | '.join(map(mean_sd, cells))} | {' '.join(f'{v:.1f}' for v in test)} |")
    taught = [summary for summaries in table.values() for summary in summaries if summary["teacher.id"]]
    teachers = {f"{value:.2f}" for value in percent(taught, "teacher.test.top1")}
    print(f"teacher, test: {', '.join(sorted(teachers))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=["ce", "kd", "kd standardized", "vl2lite", "pand"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--data", help="instead of the set's own data")
    parser.add_argument("--teacher")
    parser.add_argument("--options", nargs="*", default=[], help="settings for all rows, as in train.lr=0.003")
    main(parser.parse_args())
