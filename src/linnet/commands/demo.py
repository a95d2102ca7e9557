"""``linnet demo``: the shortest proof. Three students of equal budget, two of them taught by the mini-CLIP as well."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linnet.commands.compare import compare
from linnet.commands.comparison.results import Report
from linnet.commands.comparison.table import print_report
from linnet.files import readable

DATA = "aviary:species=40,images=10"
OPTIONS: dict[str, Any] = {"train.epochs": 20, "train.batch_size": 32}
METHODS = ("ce", "kd", "pand")


def demo(out: Path, seed: int = 0, data: str = DATA, options: Mapping[str, Any] = OPTIONS) -> Report:
    """Train ``ce``, ``kd`` and ``pand`` students on look-alike species and print the table of ``linnet compare``; what
    an earlier demo has finished in the folder is kept, unless its settings were others.

    Returns:
        What the table says.
    """
    shared = {"export": True, **options}
    report = compare(data, methods=METHODS, seeds=[seed], out=out, options=shared, overwrite=True)
    print_report(report)
    for cell in report.done:
        onnx = (
            cell.run.onnx
            if cell.run.onnx.exists()
            else f"(no model.onnx: pip install 'linnet[onnx]', then linnet export {cell.run.folder})"
        )
        print(readable(f"{cell.run.folder}  {onnx}"))
    return report
