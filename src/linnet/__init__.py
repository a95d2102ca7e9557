"""linnet: large vision-language models into small, fast image classifiers, and how much was gained.

>>> import linnet
>>> run = linnet.distill("photos/", method="kd", out="runs/photos")
>>> linnet.load(run.folder).predict([Path("new.jpg")])

Names are imported when they are first used: ``import linnet`` costs nothing and does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linnet.config import Config as Config
    from linnet.errors import UserError as UserError
    from linnet.pipeline import distill as distill
    from linnet.predict import load as load

_HOME = {
    "distill": "linnet.pipeline",
    "load": "linnet.predict",
    "Config": "linnet.config",
    "UserError": "linnet.errors",
}
__all__ = ["Config", "UserError", "distill", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'linnet' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
