"""(b) A whole distillation against teachers that are asked at every step, and (c) filling the cache against the
teacher alone. Teachers are open_clip's with random weights: how fast they are does not depend on them."""

import json
import shutil
import statistics
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from measuring import Row, in_a_process, in_turn, photos, row, taking_steps
from torch import nn

from linnet.data.batches import cut_views
from linnet.environment import freed_memory_kept
from linnet.files import cache_folder
from linnet.teachers import load_teacher
from linnet.teachers.base import Teacher
from linnet.teachers.cache import TeacherCache, live_rows, still_pixels

ARCHITECTURE = "ViT-B-32"
EPOCHS, BATCH, SIZE, STUDENT = 30, 64, 224, "mobilenetv3_small_100"
LABELS = torch.arange(BATCH) % 8

RUN = """
import json, sys, time
start = time.perf_counter()
import linnet
options = {"student.pretrained": False, "student.image_size": 224, "train.epochs": int(sys.argv[5])}
options |= {"export": False, "train.batch_size": 64, "train.precision": "fp32", "data.test": "none"}
words = {"teacher": sys.argv[2], "student": sys.argv[3], "method": "kd", "out": sys.argv[4], "overwrite": True}
run = linnet.distill(sys.argv[1], options=options, **words)
print(json.dumps({**run.summary(), "seconds": time.perf_counter() - start}))
"""


def teacher_folder(architecture: str = ARCHITECTURE) -> Path:
    """The teacher as open_clip keeps one in a folder; made once."""
    folder = cache_folder() / "bench" / architecture
    if not (folder / "open_clip_config.json").exists():
        import open_clip
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        save_file(open_clip.create_model(architecture).state_dict(), folder / "open_clip_model.safetensors")
        own = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": {}}
        (folder / "open_clip_config.json").write_text(json.dumps(own))
    return folder


def cache(images: int = 256, rounds: int = 3, architectures: tuple[str, ...] = (ARCHITECTURE, "RN50")) -> Iterator[Row]:
    """(c) The share of the cache's time that the teacher itself takes, on images in memory, as many at once as suit it
    best."""
    paths = sorted(photos(8, 48).glob("*/*.jpg"))[:images]
    for architecture in architectures:
        teacher = load_teacher(f"open_clip:local-dir:{teacher_folder(architecture)}")
        ratios, width = _filling(teacher, paths, rounds)
        what = f"{architecture} alone / filling its cache from JPEG files"
        yield row("c", what, ratios, at_least=0.9, note=f"{width:.0f} bytes a row")


def _filling(teacher: Teacher, paths: list[Path], rounds: int) -> tuple[list[float], float]:
    """Time of the teacher alone by that of filling its cache, and how many bytes a row takes."""
    folder = cache_folder() / "bench" / "rows" / teacher.fingerprint()[:8]
    shutil.rmtree(folder, ignore_errors=True)
    digests = np.random.default_rng(0).integers(0, 256, (rounds + 1, len(paths), 16), dtype=np.uint8)
    pixels, fresh = still_pixels(teacher, paths, "center"), iter(digests)
    memory = pixels(range(min(32, len(paths))))

    @freed_memory_kept()
    def alone(at_once: int) -> None:
        for start in range(0, len(paths), at_once):
            live_rows(teacher, memory[: min(at_once, len(paths) - start)])

    def fill() -> None:
        TeacherCache(teacher, "center", folder).fill(next(fresh), pixels)

    with torch.inference_mode():
        times = in_turn({"8": lambda: alone(8), "32": lambda: alone(32), "fill": fill}, rounds)
    least = [min(pair) for pair in zip(times["8"], times["32"], strict=True)]
    written = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    width = written / ((rounds + 1) * len(paths))
    return [bound / whole for bound, whole in zip(least, times["fill"], strict=True)], width


def whole(images: int = 1024, rounds: int = 5) -> Iterator[Row]:
    """(b) ``linnet distill`` with kd, 30 epochs from empty caches, against loops that ask the teacher at every step.
    Of those a step is measured, views included, and counted as often as it would be taken. All students keep their
    channels last."""
    source, teacher = photos(8, images // 8), load_teacher(f"open_clip:local-dir:{teacher_folder()}")
    view = torch.rand(BATCH, 3, SIZE, SIZE)
    pixels = [np.random.default_rng(i).integers(0, 256, (258, 343, 3), dtype=np.uint8) for i in range(BATCH)]
    digests = np.random.default_rng(0).integers(0, 256, (BATCH, 16), dtype=np.uint8)

    def views() -> torch.Tensor:
        return cut_views(pixels, digests, "light", 0, 0, SIZE, torch.device("cpu"))

    loops: dict[str, Callable[[], object]] = {
        "plain torch loop": _online(lambda images: teacher.embed_images(images) @ torch.eye(512, 8), views),
        "timm.task": _timm_task(views),
    }
    if find_spec("torchdistill"):
        loops["torchdistill"] = _torchdistill(views)
    bare = _student()
    alone = taking_steps(bare, lambda: F.cross_entropy(bare(view), LABELS))
    with freed_memory_kept():
        calls = {**loops, "alone": alone, "teacher": lambda: teacher.embed_images(view)}
        times = {name: statistics.median(own) for name, own in in_turn(calls, rounds).items()}
    empty, out = cache_folder() / "bench" / "empty", cache_folder() / "bench" / "run"
    shutil.rmtree(empty, ignore_errors=True)
    done = in_a_process(RUN, source, teacher.id, STUDENT, out, EPOCHS, LINNET_CACHE=str(empty))
    steps = EPOCHS * (done["images.train"] // BATCH)
    for name in loops:
        yield row("b", f"{name} / linnet: kd, {EPOCHS} epochs, all of it", [steps * times[name] / done["seconds"]])
    looked_at = (done["images.train"] + done["images.val"]) / BATCH * times["teacher"]
    words = "teacher once and student alone / linnet, all of it"
    yield row("b", words, [(looked_at + steps * times["alone"]) / done["seconds"]], at_least=0.9)


def _student() -> nn.Module:
    student: nn.Module = timm.create_model(STUDENT, num_classes=8).train()
    return student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _online(teacher: Callable[[torch.Tensor], torch.Tensor], views: Callable[[], torch.Tensor]) -> Callable[[], None]:
    student = _student()

    def loss() -> torch.Tensor:
        images = views()
        student_BC, teacher_BC = student(images), teacher(images)
        told = F.kl_div(
            F.log_softmax(student_BC, 1), F.log_softmax(teacher_BC, 1), log_target=True, reduction="batchmean"
        )
        return F.cross_entropy(student_BC, LABELS) + told

    return taking_steps(student, loss)


def _timm_teacher() -> nn.Module:
    """The image tower of the same size, for libraries that want a classifier."""
    return timm.create_model("vit_base_patch32_224", num_classes=8).eval()


def _timm_task(views: Callable[[], torch.Tensor]) -> Callable[[], None]:
    from timm.task import LogitDistillationTask

    student = _student()
    task = LogitDistillationTask(student, _timm_teacher(), nn.CrossEntropyLoss(), verbose=False).train()
    return taking_steps(student, lambda: task(views(), LABELS)["loss"])


def _torchdistill(views: Callable[[], torch.Tensor]) -> Callable[[], None]:
    from torchdistill.core.distillation import DistillationBox

    places = {"student_module_path": ".", "student_module_io": "output"}
    places |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    kd = {"key": "KDLoss", "kwargs": {**places, "temperature": 1.0, "alpha": 0.5}}
    settings = {
        "num_epochs": 1,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}}},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-3, "fused": True}},
    }
    box = DistillationBox(_timm_teacher(), _student(), {}, settings, torch.device("cpu"), None, False, 1)
    return lambda: box.post_forward_process(box.forward_process(views(), LABELS))
