"""How fast linnet is, in ratios of times that were taken in turn: ``make bench``, or ``python bench/speed a c``.

Parts: a steps, b a whole distillation, c the teacher's cache, d more images, e more classes, f serving, g fixed costs.
The rows are kept in bench/results/speed-MACHINE.json; docs/guides/speed.md gets the table of this machine.
"""

import argparse
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import scale
import serving
import steps
import teachers
import torch
from measuring import Row, page, write

from linnet.environment import device_words

PARTS: Mapping[str, Callable[[], Iterator[Row]]] = {
    "a": steps.steps,
    "b": teachers.whole,
    "c": teachers.cache,
    "d": scale.scale,
    "e": steps.classes,
    "f": serving.serving,
    "g": serving.fixed_costs,
}
BENCH = Path(__file__).resolve().parents[1]
RESULTS, GUIDE = BENCH / "results", BENCH.parent / "docs" / "guides" / "speed.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="by default all")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: choose of {', '.join(PARTS)}")
    torch.set_num_threads(given.threads)
    logging.getLogger("linnet").setLevel(logging.ERROR)
    machine = device_words()
    file = RESULTS / f"speed-{re.sub('[^a-z0-9]+', '-', machine.lower()).strip('-')}.json"
    for part in given.parts or PARTS:
        rows = []
        for own in PARTS[part]():
            print(
                f"{own.part}  {own.what}: {own.ratio:.3f} ({own.low:.3f} to {own.high:.3f}) {own.verdict} {own.note}",
                flush=True,
            )
            rows.append(own)
        write(file, machine, rows)
    GUIDE.write_text(page(GUIDE, file))
    print(f"{file}\n{GUIDE}")


if __name__ == "__main__":
    main()
