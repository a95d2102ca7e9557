"""``linnet export``: a run's student, or its teacher's text tower, as ONNX."""

from pathlib import Path

from linnet.deploy.export import check_opset, export_onnx, export_text_tower
from linnet.errors import UserError
from linnet.files import check_out, given_path
from linnet.run import Run
from linnet.students.student import Student
from linnet.teachers import load_teacher
from linnet.teachers.base import VisionLanguageTeacher


def export(
    run: str | Path,
    *,
    text_tower: bool = False,
    out: str | Path | None = None,
    opset: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a run's student, or its teacher's text tower, as ONNX. The same words as ``linnet export``.

    Args:
        opset: version of the ONNX operators, for a runtime that is older than torch's choice.
        overwrite: replace ``out``, if it exists. The run's own file is always replaced.

    Returns:
        The file: ``out``, by default ``model.onnx`` or ``text_tower.onnx`` in the run's folder.

    Raises:
        UserError: no finished run, a student without an embedding head, or the export fails.
    """
    check_opset(opset)
    own = Run(given_path(run, "the run"))
    usual = own.text_tower if text_tower else own.onnx
    path = usual if out is None else given_path(out, "out")
    check_out(path, overwrite or out is None)
    student = Student.load(own.model)
    if not text_tower:
        export_onnx(student, path, opset=opset, saved=own.model)
        return path
    if student.bank is None:
        raise UserError(
            f"the student of {run} has a classifier, which needs no text tower: see --method openvocab or dual"
        )
    teacher = load_teacher(student.bank.teacher)
    assert isinstance(teacher, VisionLanguageTeacher)
    export_text_tower(teacher, student.bank, path, opset)
    return path
