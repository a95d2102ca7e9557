"""A teacher's heads side by side: ``python bench/heads.py aviary [--names]``, ``... heads.py FOLDER --teacher ID``.

Zero-shot, calibrated prompts and linear probe, on val (which chooses) and test, mean ± sd over seeds. Prompts that lose
to the class texts on val are not used: the row shows what is, "before" what they scored themselves. ``--names`` takes
the prompt names away: of an aviary only the invented names are left, which say nothing about a bird.
"""

import argparse
from dataclasses import replace

import torch

from linnet.commands.comparison.table import mean_sd
from linnet.data.load import load_manifest
from linnet.defaults import settings
from linnet.metrics import top_k_accuracy
from linnet.teachers import load_teacher
from linnet.teachers.answers import ask


def main(arguments: argparse.Namespace) -> None:
    options = dict(option.split("=", 1) for option in arguments.options)
    for head in ("zero-shot", "prompt", "probe"):
        scores: dict[str, list[float]] = {"before": [], "val": [], "test": []}
        for seed in arguments.seeds if head == "prompt" else [0]:
            config, _ = settings(
                arguments.data,
                teacher=arguments.teacher,
                seed=seed,
                options={"train.precision": "fp32", **options, "teacher.head": head},
            )
            manifest = load_manifest(config.data)
            if arguments.names:
                classes = tuple(info._replace(prompt_name=info.name) for info in manifest.classes)
                manifest = replace(manifest, classes=classes)
            splits = {part: manifest.take(manifest.rows(part)) for part in ("train", "val", "test")}
            answers = ask(config, load_teacher(config.teacher.id), splits, torch.device("cpu"))
            scores["before"].append(100 * answers.settled.val_top1[head])
            for part in ("val", "test"):
                scores[part].append(100 * top_k_accuracy(answers.logits[part], splits[part].labels))
        print(f"| {head} | {' | '.join(map(mean_sd, scores.values()))} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--teacher")
    parser.add_argument("--names", action="store_true", help="class names in place of prompt names")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--options", nargs="*", default=[], help="settings, as in prompts.lr=0.02")
    main(parser.parse_args())
