"""What a run needs beside data and network, checked before either is touched."""

import os
from dataclasses import replace
from pathlib import Path

from linnet import methods
from linnet.config import Config
from linnet.config_files import PLACES
from linnet.data.sources import find_source
from linnet.errors import UserError
from linnet.report.loggers import check_logger
from linnet.students.network import has_weights
from linnet.students.student import student_of
from linnet.students.weights import find_weights
from linnet.teachers import check_teacher
from linnet.text.classes import class_sentences, class_table, read_descriptions

TWO = class_table(["a", "b"])


def check_run(config: Config, processes: int = 1, resume: bool = False) -> None:
    """
    Args:
        resume: an earlier run goes on, whose data may have moved.

    Raises:
        UserError: data, files, a student or a teacher that are not there, or settings that the method has no use for.
    """
    check_logger(config)
    data, teacher = config.data, config.teacher
    if processes > 1 and not methods.needs_data(config.method):
        raise UserError(f"'{config.method}' works in one process: start it without torchrun or accelerate")
    methods.build(config.method, config.options).check_settings(config)
    for source, training in ((data.source, True), (data.eval, False)):
        if source and not find_source(source).is_there(source):
            try:
                find_source(source).read(source, training, data)
            except UserError as error:
                moved = "; if the data have moved, give DATA, too" if resume and training else ""
                raise UserError(f"{error}{moved}") from error
    if data.texts is not None and not data.texts.is_file():
        raise UserError(f"data.texts: there is no file {data.texts}")
    if data.descriptions is not None:
        read_descriptions(data.descriptions)
    class_sentences(TWO[0], teacher.templates)
    if methods.needs_teacher(config.method, config.options):
        check_teacher(str(teacher.id))
    if teacher.text_encoder not in (None, teacher.id):
        check_teacher(str(teacher.text_encoder), reads_texts=True)
    check_student(config)


def check_kept(config: Config, folder: Path) -> None:
    """
    Raises:
        UserError: a run that replaces what is in a folder is made from something there, its teacher for example.
    """
    for group, names in PLACES.items():
        for name in names:
            for part in str(getattr(getattr(config, group), name)).split(":"):
                if part and os.path.exists(part) and Path(part).resolve().is_relative_to(folder.resolve()):
                    raise UserError(
                        f"--overwrite would delete {part}, which the run needs ({group}.{name}): choose another --out"
                    )


def check_student(config: Config) -> None:
    """
    Raises:
        UserError: a student that timm does not know, that cannot work at this size, or whose weights are nowhere.
    """
    student = config.student
    if isinstance(student.pretrained, Path):
        find_weights(student.pretrained)
    student_of(replace(config, student=replace(student, pretrained=False)), TWO)
    if student.pretrained is True and not has_weights(student.name):
        raise UserError(
            f"timm has no weights for the student '{student.name}': give --student.pretrained false (from scratch) or "
            "a path"
        )
