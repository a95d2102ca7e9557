"""What a vision-language model wrote so far, beside the file that it is for: a process that is killed loses a batch.

The first line says what made the texts, each further line is one batch. Half a last line, which a kill can leave, is
a batch that has to be asked again.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from linnet.errors import UserError
from linnet.files import cannot_write


class Asked(NamedTuple):
    """What a text answers: the image or images (hex digests), the class, and the name of the prompt."""

    digest: str
    class_name: str
    prompt: str


class Written(NamedTuple):
    """An answer, with the tokens that went in and came out."""

    text: str
    input_tokens: int
    output_tokens: int


class Journal:
    """What was asked for ``out`` so far; to be opened before something is added.

    Attributes:
        written: everything that was asked so far. provenance: what made it, as the first line says.
    """

    def __init__(self, out: Path, fresh: bool = False):
        """
        Args:
            fresh: whatever the file holds is not read.

        Raises:
            UserError: the file is not a journal.
        """
        self.file = out.with_name(f"{out.name}.journal")
        self.written: dict[Asked, Written] = {}
        self.provenance: dict[str, Any] | None = None
        self._lines: IO[str] | None = None
        content = self.file.read_bytes() if self.file.is_file() and not fresh else b""
        self._size = content.rfind(b"\n") + 1
        try:
            header, *batches = [json.loads(line) for line in content[: self._size].splitlines()] or [None]
            self.provenance = header and header["linnet"]
            for batch in batches:
                self.written |= {Asked(*asked): Written(*written) for asked, written in batch}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{self.file} is not a journal of linnet: remove it, or use --overwrite") from error

    def open(self, provenance: Mapping[str, Any]) -> None:
        """Go on behind the last whole line.

        Raises:
            UserError: the folder cannot be written, or another process is at it.
        """
        import fcntl  # not on every system

        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._lines = self.file.open("a", encoding="ascii")
            fcntl.flock(self._lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lines.truncate(self._size)
        except BlockingIOError as error:
            raise UserError(f"{self.file} is in use by another linnet process") from error
        except OSError as error:
            raise UserError(f"cannot write {self.file}: {error.strerror}") from error
        if self.provenance is None:
            self._add({"linnet": provenance})

    def add(self, asked: Sequence[Asked], written: Iterable[Written]) -> None:
        """Keep the answers of a batch, at once."""
        batch = list(zip(asked, written, strict=True))
        self._add(batch)
        self.written |= dict(batch)

    def _add(self, line: Any) -> None:
        assert self._lines is not None
        try:
            self._lines.write(json.dumps(line) + "\n")
            self._lines.flush()
        except OSError as error:
            raise cannot_write(self.file, error) from error

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()

    def remove(self) -> None:
        """When everything is in the file, or is to be asked anew."""
        self.close()
        self.file.unlink(missing_ok=True)
