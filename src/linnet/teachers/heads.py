"""The head between a teacher's rows and logits over the data's classes: a classifier's own, class texts, calibrated
prompts or a linear probe; val says how good each one is, and which one is used where that is left open."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from linnet.config import Config
from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.metrics import right
from linnet.metrics.intervals import over_images
from linnet.progress import Bar
from linnet.teachers.base import ClassHead, ClassifierTeacher, Teacher, VisionLanguageTeacher
from linnet.teachers.cache import CENTER_VIEW, TeacherCache
from linnet.teachers.looks import Eyes
from linnet.teachers.probe import enough, linear_probe, quick_probe
from linnet.teachers.prompts import Embedded, calibrated_bank, prompt_templates, step_count
from linnet.teachers.texts import text_vectors
from linnet.text.classes import ClassInfo, first_sentences
from linnet.text.twins import warn_of_twins

log = logging.getLogger("linnet")


@dataclass(frozen=True)
class Settled:
    """The head that a run uses.

    Attributes:
        head: from the teacher's rows to logits; ``name`` says which.
        val_top1: accuracy of every head that was tried, by name.
        prompts: the calibrated context and text bank; empty if they are not used.
        probed_N: whether a quick probe on the embeddings names each val image right; None with a full probe, of a
            classifier, and where no embeddings of the training images are kept.
    """

    head: ClassHead
    name: str
    val_top1: dict[str, float]
    prompts: dict[str, torch.Tensor]
    probed_N: np.ndarray | None = None


def class_head(teacher: Teacher, classes: Sequence[ClassInfo], templates: tuple[str, ...]) -> ClassHead:
    """How this teacher's rows become logits over the data's classes.

    Raises:
        UserError: a classifier whose class table is not the data's.
    """
    if isinstance(teacher, VisionLanguageTeacher):
        return ClassHead(bank_CE=text_vectors(teacher, classes, templates).cpu(), scale=teacher.logit_scale)
    assert isinstance(teacher, ClassifierTeacher)
    own, names = teacher.class_names, [info.name for info in classes]
    if own is None or not teacher.knows(names):
        shown = "classes without names" if own is None else f"{len(own)} classes ({', '.join(own[:3])} ...)"
        raise UserError(
            f"the teacher '{teacher.id}' knows {shown}, the data has {len(names)} ({', '.join(names[:3])} ...): "
            f"train it on this data first, as in '{teacher.how_to_tune()}', then '--teacher run:runs/teacher'"
        )
    places, weights = {name: place for place, name in enumerate(own)}, teacher.class_weights
    order_C = torch.tensor([places[name] for name in names])
    return ClassHead(order_C=order_C, weights_CD=None if weights is None else weights[order_C])


def settle(config: Config, teacher: Teacher, head: ClassHead, eyes: Eyes, splits: Mapping[str, Manifest]) -> Settled:
    """The head that ``config.teacher.head`` asks for, once the teacher has seen all images.

    Args:
        head: a classifier's own, or the class texts; what the others are compared with.
    """
    chosen, right_N = config.teacher.head, right_ones(head, eyes.still, splits["val"])
    name = "classifier" if teacher.kind == "classifier" else "zero-shot"
    given = Settled(head, name, {name: float(right_N.mean())}, {})
    if not isinstance(teacher, VisionLanguageTeacher):
        return given
    if chosen != "probe":
        given = replace(given, probed_N=_quickly_probed(eyes, splits))
    if chosen == "val" and given.probed_N is not None and (above := over_images(given.probed_N, right_N)).low > 0:
        points = 100 * above.value
        log.info("a quick probe is %.1f points better on val than the class texts: a probe takes their place", points)
        chosen = "probe"
    if chosen == "probe":
        probed = _probed(given, eyes.still, splits)
        is_worse = probed.val_top1["probe"] < probed.val_top1["zero-shot"]
        if is_worse and config.teacher.head == "probe":
            log.warning("the probe is worse than the class texts on val: consider --teacher.head zero-shot")
        if not is_worse or config.teacher.head == "probe":
            return probed
        log.warning("fitted with care, the probe is worse than the class texts on val: the class texts are used")
        given = replace(given, val_top1=probed.val_top1)
    if chosen == "prompt":
        given = _prompted(given, config, teacher, eyes.still, splits)
    if chosen != "zero-shot":  # or it was said before the teacher looked
        warn_of_twin_classes(teacher, given.head, splits["train"].classes)
    return given


def warn_of_twin_classes(teacher: Teacher, head: ClassHead, classes: Sequence[ClassInfo]) -> None:
    if head.bank_CE is not None:
        warn_of_twins(teacher.id, [info.name for info in classes], head.bank_CE.numpy())


def right_ones(head: ClassHead, cache: TeacherCache, images: Manifest) -> np.ndarray:
    """(N,) bool, the images that a head names right."""
    return right(head(cache.rows(images.digests)).logits_BC.numpy(), images.labels)


def embedded(cache: TeacherCache, images: Manifest, view: int = CENTER_VIEW) -> Embedded:
    """Unit embeddings and labels of images that were seen."""
    unit_NE = torch.nn.functional.normalize(cache.rows(images.digests, view).float(), dim=1)
    return Embedded(unit_NE, torch.from_numpy(images.labels))


def _quickly_probed(eyes: Eyes, splits: Mapping[str, Manifest]) -> np.ndarray | None:
    train, val = splits["train"], splits["val"]
    some = enough(train.labels)
    if eyes.kept is None or not len(some):
        return None
    cache, view = eyes.kept
    return quick_probe(embedded(cache, train.take(some), view), embedded(eyes.still, val).rows_NE) == val.labels


def _probed(given: Settled, cache: TeacherCache, splits: Mapping[str, Manifest]) -> Settled:
    train, val = splits["train"], splits["val"]
    probe = linear_probe(embedded(cache, train), embedded(cache, val), len(train.classes))
    head = given.head._replace(probe=probe, scale=1.0)
    return Settled(head, "probe", given.val_top1 | {"probe": float(right_ones(head, cache, val).mean())}, {})


def _prompted(
    given: Settled,
    config: Config,
    teacher: VisionLanguageTeacher,
    cache: TeacherCache,
    splits: Mapping[str, Manifest],
) -> Settled:
    """Calibrated prompts, unless they are worse than the class texts on val."""
    texts = first_sentences(splits["train"].classes, prompt_templates(config))  # a description at most
    train, val = (embedded(cache, splits[part]) for part in ("train", "val"))
    with Bar(f"prompts of {teacher.id}", step_count(config.prompts, len(train.rows_NE))) as bar:
        space = cache.folder.name
        prompts = calibrated_bank(teacher, texts, train, val, config.prompts, config.seed, space, bar.update)
    head = given.head._replace(bank_CE=prompts["bank_CE"])
    val_top1 = given.val_top1 | {"prompt": float(right_ones(head, cache, splits["val"]).mean())}
    if val_top1["prompt"] < val_top1["zero-shot"]:
        log.warning("the calibrated prompts are worse than the class texts on val: the class texts are used")
        return replace(given, val_top1=val_top1)
    log.info("prompts: %d context vectors before the class texts", len(prompts["context_PW"]))
    return replace(given, head=head, name="prompt", val_top1=val_top1, prompts=prompts)
