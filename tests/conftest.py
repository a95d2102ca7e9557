"""Shared fixtures: a cache of its own for every test process, small real image folders, a small real run."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes with two threads each stall one another
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bit for bit is promised for the CPU
os.environ["ACCELERATE_USE_CPU"] = "true"

import pytest
from pictures import write_image


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """linnet's cache in a folder of this test session."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["LINNET_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_bf16() -> Iterator[None]:
    """Nothing is timed and nothing trained in bf16 by luck of the machine: "auto" is fp32 here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("linnet.students.precision.computes_bf16", lambda: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def timed_once() -> Iterator[None]:
    """Hundreds of small runs end here, and nobody reads how fast their students are."""
    from linnet.timing import median_ms

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("linnet.deploy.latency.median_ms", lambda call: median_ms(call, repeats=1, warm_up=0))
        yield


COLOURS = {"red_bird": (200, 40, 40), "green_bird": (40, 180, 60), "blue_bird": (40, 60, 200)}


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make an image folder: ``make_folder(images=12)`` is flat, ``make_folder(splits=("train", "val"))`` is not."""

    def make(images: int = 12, splits: tuple[str, ...] = (), root: Path = tmp_path / "photos") -> Path:
        for s, split in enumerate(splits or ("",)):
            for c, (name, colour) in enumerate(COLOURS.items()):
                for i in range(images):
                    write_image(root / split / name / f"{i:03d}.jpg", colour, seed=1000 * s + 100 * c + i)
        return root

    return make


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """``with killed_after(2): distill(...)``: the run dies at the end of epoch 2, its checkpoint not yet written."""
    from linnet.run import Run

    @contextmanager
    def killed(epoch: int) -> Iterator[None]:
        real = Run.add_metrics

        def die(run: Run, row: dict) -> None:
            real(run, row)
            if row["epoch"] == epoch:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Run, "add_metrics", die)
            try:
                yield
            except KeyboardInterrupt:
                return
        pytest.fail(f"the run was not killed after epoch {epoch}")

    return killed


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """Run code in a fresh interpreter and return what it printed."""
    import subprocess
    import sys

    def run(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "timm", "open_clip", "torchvision", "accelerate", "transformers"):
            raise ImportError("not on this machine: " + name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture
def run_without_torch(run_python: Callable[[str], str]) -> Callable[[str], str]:
    """The same where neither torch nor anything that needs it is installed."""
    return lambda code: run_python(REFUSE + code)


@pytest.fixture
def without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where the extra is not installed."""
    import importlib

    real = importlib.import_module

    def refuse(name: str, *rest: str | None):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", refuse)


PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic", "resize_mode": "shortest"}


@pytest.fixture
def open_clip_folder(tmp_path: Path) -> Callable[..., Path]:
    """``open_clip_folder(seed=0, custom_text=False)``: a CLIP of a few thousand weights in open_clip's local-dir layout.

    ``text``: further settings of the text tower.
    """

    def make(
        seed: int = 0,
        custom_text: bool = False,
        preprocess: dict | None = None,
        image_size: int = 32,
        quick_gelu: bool = False,
        context_length: int = 20,
        text: dict | None = None,
    ) -> Path:
        import open_clip
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(seed)
        config = {
            "embed_dim": 16,
            "vision_cfg": {"timm_model_name": "test_resnet", "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear", "image_size": image_size},
            "quick_gelu": quick_gelu,
            "text_cfg": {"context_length": context_length, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1, **(text or {})},
        }  # fmt: skip
        model = (open_clip.model.CustomTextCLIP if custom_text else open_clip.model.CLIP)(**config)
        folder = tmp_path / f"clip-{seed}-{custom_text}"
        folder.mkdir(exist_ok=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
        shown = {**config, "custom_text": True} if custom_text else config
        (folder / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": shown, "preprocess_cfg": preprocess or PREPROCESS})
        )
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of random weights (run/model and run/model.onnx) and images."""
    import torch

    from linnet.data.digests import digest_files
    from linnet.data.store import Images
    from linnet.deploy.export import export_onnx
    from linnet.students.student import Student
    from linnet.text.classes import class_table

    root = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    student = Student("test_resnet", class_table(["amsel", "bläuling", "c,d"]), image_size=32)
    for module in student.modules():  # running statistics that are not 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    student.eval()
    paths = [
        write_image(root / "images" / f"{i}.jpg", (60 * i, 20, 200 - 40 * i), seed=i, size=(50, 44)) for i in range(4)
    ]
    student.save(root / "run" / "model")
    assert export_onnx(student, root / "run" / "model.onnx", Images(paths, digest_files(paths), 32, "eval")) < 1e-4
    return root
