"""A run of a method without data: classes are the teacher's, images the method's own."""

import logging
from typing import Any, NamedTuple

from linnet import methods
from linnet.commands.finish import End, check_end
from linnet.config import Config
from linnet.data.batches import decode
from linnet.data.load import scored_part
from linnet.data.manifest import Manifest
from linnet.data.problems import as_csv, counts, report
from linnet.evaluation.score import Evaluation
from linnet.evaluation.verdict import judge_accuracy, said
from linnet.methods.base import Context, Method
from linnet.metrics import top_k_accuracy
from linnet.processes import seed_everything
from linnet.run import Run
from linnet.students.student import Student, student_of
from linnet.teachers import load_teacher
from linnet.teachers.answers import classifier_logits
from linnet.teachers.base import ClassifierTeacher

log = logging.getLogger("linnet")


class Copy(NamedTuple):
    """What a method without data works with: all of it is checked before the run folder is touched."""

    teacher: ClassifierTeacher
    student: Student
    method: Method
    scored: dict[str, Manifest]


def prepare_copy(config: Config, accelerator: Any) -> Copy:
    """Classes are the teacher's, images the method's own; data only score."""
    teacher = load_teacher(config.teacher.id)
    assert isinstance(teacher, ClassifierTeacher)
    student = student_of(config, teacher.classes)
    scored = scored_part(config, student.classes) if config.data.eval else {}
    teacher.to(accelerator.device)
    seed_everything(config.seed)
    method, shapes = methods.build(config.method, config.options), student.map_shapes()
    method.prepare(Context(config, student.classes, student.width, teacher, None, student_maps=shapes))
    return Copy(teacher, student, method, scored)


def distill_without_data(copy: Copy, config: Config, run: Run, accelerator: Any, end: End) -> None:
    teacher, student, method, scored = copy
    run.pin(teacher=teacher.fingerprint())
    check_end(config, run, student, sum(map(len, scored.values())))
    log.info("data: none; %s knows %d classes", teacher.id, len(student.classes))
    about: dict[str, Any] = {"teacher.id": teacher.id, "teacher.views": "center", "teacher.head": "classifier"}
    problems = next(iter(scored.values())).problems if scored else ()
    report(problems, run.problems)
    run.write_problems(as_csv(problems) if problems else None)
    about |= counts(problems)
    images, logits = decode(config, scored) if scored else {}, {}
    for part, rows in scored.items():
        logits[part] = classifier_logits(teacher, rows, part, config.teacher.cache, accelerator.device)
        top1 = top_k_accuracy(logits[part], rows.labels)
        log.info("scored on: %d %s images of %s (teacher %.1f %%)", len(rows), part, config.data.eval, 100 * top1)
        about |= {"data.eval": config.data.eval} | ({"teacher.classifier.val.top1": top1} if part == "val" else {})
    if "val" in scored:
        about |= said(*judge_accuracy(teacher.id, logits["val"], scored["val"].labels))
    end(config, run, accelerator, student, method, None, Evaluation(scored, images, logits, about), None)
