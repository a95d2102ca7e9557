"""linnet: large vision-language models into small, fast image classifiers, and how much was gained.

>>> import linnet
>>> run = linnet.distill("photos/", method="kd", out="runs/photos")
>>> linnet.load(run.folder).predict("new.jpg")[0].classes[0]

Names are imported when they are first used: ``import linnet`` costs nothing and does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linnet.commands.compare import compare as compare
    from linnet.commands.describe import describe as describe
    from linnet.commands.distill import distill as distill
    from linnet.commands.embed import embed as embed
    from linnet.commands.evaluate import evaluate as evaluate
    from linnet.commands.export import export as export
    from linnet.config import Config as Config
    from linnet.deploy.predictor import load as load
    from linnet.errors import UserError as UserError

_HOME = {
    "compare": "linnet.commands.compare",
    "describe": "linnet.commands.describe",
    "distill": "linnet.commands.distill",
    "embed": "linnet.commands.embed",
    "evaluate": "linnet.commands.evaluate",
    "export": "linnet.commands.export",
    "load": "linnet.deploy.predictor",
    "Config": "linnet.config",
    "UserError": "linnet.errors",
}
__all__ = ["Config", "UserError", "compare", "describe", "distill", "embed", "evaluate", "export", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'linnet' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
