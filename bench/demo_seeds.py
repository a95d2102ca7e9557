"""The demo's comparison over seeds: ``python bench/demo_seeds.py 0 1 2 3 4`` (about 2.5 minutes a seed on 2 cores).

Equal data, views, budget and selection for both rows; the seeds differ in initialisation and order alone. Finished
runs are kept in runs/demo-seeds and not trained again.
"""

import argparse
import statistics
from pathlib import Path

from linnet import distill
from linnet.config import Config, difference, from_dict, read_yaml
from linnet.demo import DATA, OPTIONS
from linnet.run import Run
from linnet.settings import settings

METHODS = ("ce", "kd")


def is_finished(run: Run, config: Config) -> bool:
    """Whether the folder holds a finished run of exactly these settings."""
    if not (run.folder / "summary.json").exists():
        return False
    return not difference(from_dict(Config, read_yaml(run.folder / "config.yaml")), config)


def main(seeds: list[int], lr: float | None) -> None:
    out = Path("runs/demo-seeds") if lr is None else Path(f"runs/demo-seeds-lr{lr:g}")
    options = {**OPTIONS, "export": False} if lr is None else {**OPTIONS, "export": False, "train.lr": lr}
    scores: dict[str, list[float]] = {f"{method} {split}": [] for method in METHODS for split in ("val", "test")}
    for seed in seeds:
        for method in METHODS:
            run, words = Run(out / f"{method}-{seed}"), {"method": method, "seed": seed, "options": options}
            if not is_finished(run, settings(DATA, **words)[0]):
                distill(DATA, out=run.folder, overwrite=True, **words)
            for split in ("val", "test"):
                scores[f"{method} {split}"].append(100 * run.summary()[f"{split}.top1"])
            print(f"seed {seed} {method}: test {scores[f'{method} test'][-1]:.2f} %", flush=True)
    gains = [kd - ce for ce, kd in zip(scores["ce test"], scores["kd test"], strict=True)]
    for name, values in {**scores, "kd - ce": gains}.items():
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"{name:<8} {statistics.mean(values):6.2f} ± {spread:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--lr", type=float, help="another learning rate than the demo's")
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.lr)
