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
    from linnet.onnx_export import export as export
    from linnet.pipeline import distill as distill
    from linnet.predict import load as load
    from linnet.vocabulary import embed as embed

_HOME = {
    "distill": "linnet.pipeline",
    "embed": "linnet.vocabulary",
    "export": "linnet.onnx_export",
    "load": "linnet.predict",
    "Config": "linnet.config",
    "UserError": "linnet.errors",
}
__all__ = ["Config", "UserError", "distill", "embed", "export", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'linnet' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
