"""What ``linnet list`` and ``linnet doctor`` print."""

import dataclasses
import fnmatch
import importlib.util
import os
import platform
from collections.abc import Iterator

from linnet.run import PACKAGES, version

EXTRAS = {"onnx": ("onnx", "onnxscript", "onnxruntime", "tokenizers", "ftfy"), "hf": ("transformers",)}
DATA = {
    "FOLDER": "train/ val/ test/ (or training/ validation/ testing/ ...), each with one folder of images per class",
    "FOLDER (flat)": "one folder of images per class; 20 % test and 10 % of the rest val are carved, stratified",
    "aviary[:KEY=VALUE,...]": "drawn look-alike birds; keys: species=60 images=20 genus=6 seed=0 imbalance=1 bare=0",
}


def lines(what: str, pattern: str) -> Iterator[str]:
    if what == "methods":
        yield from _methods()
    elif what == "students":
        from linnet.students import architectures

        yield from architectures(pattern)
    elif what == "teachers":
        from linnet.teachers import KINDS

        yield from (f"{kind:<28} {words}" for kind, words in KINDS.items())
        if pattern != "*":
            import open_clip

            tags = (f"open_clip:{architecture}/{tag}" for architecture, tag in open_clip.list_pretrained())
            yield from fnmatch.filter(tags, pattern if pattern.startswith("open_clip:") else f"open_clip:{pattern}")
    else:
        yield from (f"{kind:<24} {words}" for kind, words in DATA.items())


def _methods() -> Iterator[str]:
    from linnet.methods import METHODS

    for id, method in METHODS.items():
        yield f"{id:<9} {method.summary}"
        for option in dataclasses.fields(method.Options):
            default = "auto" if option.default is None else option.default
            yield f"          --{id}.{option.name.replace('_', '-')}  [default: {default}]"


def doctor_lines() -> Iterator[str]:
    import torch

    from linnet.files import cache_folder
    from linnet.settings import supports_bf16

    yield f"python       {platform.python_version()} on {platform.platform()}"
    for package in PACKAGES:
        yield f"{package:<12} {version(package) or 'not installed'}"
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"cpu, {os.cpu_count()} processors, {torch.get_num_threads()} threads"
    )
    yield f"device       {device}"
    half = "computed by the hardware: used by default" if supports_bf16() else "emulated at best: fp32 is used"
    yield f"bf16         {half}"
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        state = f"missing: pip install 'linnet[{extra}]'" if missing else "installed"
        yield f"extra {extra:<6} {state}"
    yield f"cache        {cache_folder()}"
