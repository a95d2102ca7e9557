"""``linnet embed``: class names to a text bank, with whatever can read them: a teacher, the teacher of a run, or a text
tower in ONNX."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from linnet.config import TeacherConfig
from linnet.deploy.predictor import OnnxNetwork
from linnet.deploy.text_tower import OnnxTextTower
from linnet.errors import UserError
from linnet.files import given_path
from linnet.run import Run, model_folder
from linnet.text.bank import BANK, TextBank
from linnet.text.class_lists import read_names
from linnet.text.classes import ClassInfo, class_sentences, class_table, described
from linnet.text.twins import warn_of_twins


def embed(
    classes: str | Path | Sequence[str],
    *,
    teacher: str | None = None,
    run: str | Path | None = None,
    templates: tuple[str, ...] | None = None,
    descriptions: Path | None = None,
) -> TextBank:
    """Name classes for a student with an embedding head. The same words as ``linnet embed``.

    Example:
        >>> bank = linnet.embed("heron,kingfisher", run="runs/birds")
        >>> linnet.load("runs/birds/model.onnx", bank).predict("new.jpg")

    Args:
        classes: names, "a,b,c", or a file (:func:`linnet.text.class_lists.read_names`); in a prompt they read as
            folder names do.
        teacher: its id, or a text tower (``text_tower.onnx``; torch is not needed then).
        run: instead of a teacher: a run, whose teacher, templates and learned prompts are used.
        templates: sentences with ``{}`` for the name; by default those of the run, the text tower or linnet.
        descriptions: a YAML or JSON file, class name -> sentence or list of sentences.

    Raises:
        UserError: neither or both of teacher and run, a teacher without texts, or bad names.
    """
    if (teacher is None) == (run is None):
        raise UserError("give --teacher or --run, one of the two")
    infos = class_table(read_names(classes))
    if descriptions is not None:
        infos = described(infos, given_path(descriptions, "descriptions"))
    if templates is not None:
        class_sentences(infos[0], templates)  # before anything is loaded
    if run is not None:
        bank = _like_run(given_path(run, "the run"), infos, templates)
    else:
        bank = _by_teacher(str(teacher), infos, templates)
    warn_of_twins(bank.teacher, bank.names, bank.rows_CE)
    return bank


def _by_teacher(teacher: str, infos: Sequence[ClassInfo], templates: tuple[str, ...] | None) -> TextBank:
    if teacher.lower().endswith(".onnx"):
        return OnnxTextTower(Path(teacher)).bank(infos, templates)
    from linnet.teachers import check_teacher, find_kind, load_teacher
    from linnet.teachers.base import VisionLanguageTeacher
    from linnet.teachers.texts import check_class_texts, text_bank

    if find_kind(teacher).gives != "vlm":
        raise UserError(f"the teacher '{teacher}' is a classifier: it cannot embed class names")
    check_teacher(teacher)
    loaded = load_teacher(teacher)
    assert isinstance(loaded, VisionLanguageTeacher)
    check_class_texts(loaded, infos, templates or TeacherConfig.templates)
    return text_bank(loaded, infos, templates or TeacherConfig.templates)


def bank_for(model: Path, classes: str | Sequence[str]) -> TextBank:
    """Names for the student at ``model``, a run folder or an ONNX file: with the text tower that lies beside it or, for
    a run, with its teacher.

    Raises:
        UserError: there is no text tower for an ONNX file, or the run's student takes no names.
    """
    if model.suffix.lower() != ".onnx":
        return embed(classes, run=model)
    OnnxNetwork(model).check_takes_names()
    tower = Run(model.parent).text_tower
    if not tower.is_file():
        raise UserError(
            f"other class names need the teacher's text tower, and there is no {tower}: write it with 'linnet export "
            "RUN --text-tower', or make a bank with 'linnet embed' and give it with --bank"
        )
    return embed(classes, teacher=str(tower))


def _like_run(run: Path, infos: Sequence[ClassInfo], templates: tuple[str, ...] | None) -> TextBank:
    folder = model_folder(run)
    if not (folder / BANK).is_file():
        raise UserError(
            f"{run} holds no student that takes class names as text: train one with --method openvocab or dual"
        )
    bank, tower = TextBank.load(folder / BANK), Run(run).text_tower
    if templates is not None and bank.context_PW is not None:
        raise UserError(f"the prompts of {run} were learned with its own templates: leave --templates out")
    if tower.is_file() and bank.context_PW is None:
        made = OnnxTextTower(tower).bank(infos, templates or bank.templates)
        made.check_teacher(bank.teacher_hash, str(run))
        return made
    from linnet.teachers import load_teacher
    from linnet.teachers.base import VisionLanguageTeacher
    from linnet.teachers.texts import bank_like, check_class_texts

    teacher = load_teacher(bank.teacher)
    assert isinstance(teacher, VisionLanguageTeacher)
    check_class_texts(teacher, infos, templates or bank.templates)
    return bank_like(teacher, replace(bank, templates=templates or bank.templates), infos)
