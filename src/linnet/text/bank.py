"""Text banks: class names as unit vectors of one teacher, in a file that says which teacher.

Nothing here needs torch: ``linnet predict model.onnx --bank bank.safetensors`` runs on this file and numpy.

Shapes: C names, E teacher embedding width, P context vectors, W token width.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from linnet.errors import UserError, first_line
from linnet.files import write_atomically
from linnet.tensor_files import read_checked, with_checksum
from linnet.text.classes import composed

BANK = "bank.safetensors"  # beside the weights of a student with an embedding head


@dataclass(frozen=True)
class TextBank:
    """What a student with an embedding head compares its embeddings with.

    Attributes:
        names: one for each row. rows_CE: unit vectors, float32.
        teacher: its id. teacher_hash: of its weights; a student understands the banks of its own teacher only.
        templates: sentences that the names were put into.
        context_PW: learned vectors before each sentence, or None.
    """

    names: tuple[str, ...]
    rows_CE: np.ndarray
    teacher: str
    teacher_hash: str
    templates: tuple[str, ...]
    context_PW: np.ndarray | None = None

    def check_teacher(self, teacher_hash: str, student: str) -> None:
        """
        Raises:
            UserError: ``student``'s teacher is another one.
        """
        if self.teacher_hash != teacher_hash:
            raise UserError(
                f"the text bank was made with the teacher '{self.teacher}' ({self.teacher_hash[:8]}), {student} "
                f"learned from another one ({teacher_hash[:8]}): make the bank again with the student's own teacher"
            )

    def columns(self, trained: Sequence[Sequence[str]]) -> np.ndarray:
        """(C,) int64: the place of each name among ``trained``, -1 for a new one.

        Args:
            trained: the words for each class of the training: its name and that in prompts (grey_heron, grey heron).
        """
        places = {composed(word): place for place, words in reversed(list(enumerate(trained))) for word in words}
        return np.array([places.get(composed(name), -1) for name in self.names], dtype=np.int64)

    def save(self, path: Path) -> None:
        from safetensors.numpy import save

        meta = {"names": self.names, "teacher": self.teacher, "hash": self.teacher_hash, "templates": self.templates}
        tensors = {"bank": np.ascontiguousarray(self.rows_CE, dtype=np.float32)}
        if self.context_PW is not None:
            tensors["context"] = np.ascontiguousarray(self.context_PW, dtype=np.float32)
        write_atomically(path, with_checksum(save(tensors, {"linnet": json.dumps(meta, ensure_ascii=False)})))

    @classmethod
    def load(cls, path: Path) -> "TextBank":
        """
        Raises:
            UserError: there is no text bank at ``path``.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        if not path.is_file():
            raise UserError(f"{path}: no such text bank; 'linnet embed' makes one")
        try:
            content, metadata = read_checked(path)
            meta, tensors = json.loads(metadata["linnet"]), load(content)
            rows, context = tensors["bank"], tensors.get("context")
            bank = cls(tuple(meta["names"]), rows, meta["teacher"], meta["hash"], tuple(meta["templates"]), context)
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise UserError(f"{path} is not a text bank written by linnet ({first_line(error)})") from error
        if rows.ndim != 2 or len(rows) != len(bank.names):
            raise UserError(f"{path} is damaged: {len(bank.names)} names for an array of {rows.shape}")
        return bank
