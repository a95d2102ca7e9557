"""The demo's comparison over seeds: ``python bench/demo_seeds.py 0 1 2 3 4`` (about 2.5 minutes a seed on 2 cores).

Equal data, views, budget and selection for both rows; the seeds differ in initialisation and order alone. Finished
runs are kept in runs/demo-seeds and not trained again.
"""

import statistics
import sys
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


def main(seeds: list[int], out: Path = Path("runs/demo-seeds")) -> None:
    scores: dict[str, list[float]] = {method: [] for method in METHODS}
    for seed in seeds:
        for method in METHODS:
            run = Run(out / f"{method}-{seed}")
            words = {"method": method, "seed": seed, "options": {**OPTIONS, "export": False}}
            if not is_finished(run, settings(DATA, **words)[0]):
                distill(DATA, out=run.folder, overwrite=True, **words)
            scores[method].append(100 * run.summary()["test.top1"])
            print(f"seed {seed} {method}: test {scores[method][-1]:.2f} %", flush=True)
    gains = [kd - ce for ce, kd in zip(scores["ce"], scores["kd"], strict=True)]
    for name, values in {**scores, "kd - ce": gains}.items():
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"{name:<8} {statistics.mean(values):6.2f} ± {spread:.2f}")


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [0, 1, 2, 3, 4])
