"""What a vision-language model is asked when it writes texts about images or classes.

Nothing here needs torch.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from linnet.errors import UserError, did_you_mean
from linnet.files import read_text

P1 = (
    "Describe the main object in this image in one or two sentences: its shape, colours, texture and parts, and the "
    "setting. Write only what can be seen."
)
P2 = (
    'The main object in this image belongs to the class "{class}". In one or two sentences, name the visible features '
    "that identify it and tell it from similar classes. Write only what can be seen."
)
ABOUT_CLASS = (
    'Describe what members of the class "{class}" look like, in one or two sentences: the shape, colours, markings and '
    "parts that identify them and tell them from similar classes. Write only what can be seen in a photo."
)
KNOWN = {"p1": P1, "p2": P2, "class": ABOUT_CLASS}
Per = Literal["image", "class"]
DEFAULT: dict[Per, tuple[str, ...]] = {"image": ("p1", "p2"), "class": ("class",)}


def read_questions(prompts: Sequence[str], per: Per = "image") -> dict[str, str]:
    """Name -> prompt, in the order given; by default those of :data:`DEFAULT`.

    Args:
        prompts: names of linnet's own prompts, and text files. A blank line separates the prompts of a file; they are
            named after the file, with a number where it holds several.

    Raises:
        UserError: no such file, a name twice, a placeholder other than ``{class}``, or a prompt that is not about a
            class although ``per`` is.
    """
    questions: dict[str, str] = {}
    for given in prompts or DEFAULT[per]:
        if given in KNOWN and Path(given).exists():
            raise UserError(
                f"'{given}' is a prompt of linnet and also a file that is there: write ./{given} for the file"
            )
        own = {given: KNOWN[given]} if given in KNOWN else _in_file(Path(given))
        if twice := [name for name in own if name in questions]:
            raise UserError(f"two prompts are called '{twice[0]}': give each one once, and each file a name of its own")
        questions |= own
    for name, question in questions.items():
        other = [word for word in re.findall(r"\{(.*?)\}", question) if word != "class"]
        if other:
            raise UserError(f"the prompt '{name}' has the placeholder {{{other[0]}}}, and only {{class}} is known")
        if per == "class" and "{class}" not in question:
            raise UserError(f"the prompt '{name}' asks about no class: --per class needs {{class}} in each prompt")
    return questions


def _in_file(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise UserError(
            f"there is no prompt '{file}': expected {', '.join(KNOWN)} or a text file.{did_you_mean(str(file), KNOWN)}"
        )
    blocks = [" ".join(block.split()) for block in re.split(r"\n\s*\n", read_text(file)) if block.strip()]
    if not blocks:
        raise UserError(f"{file} holds no prompt")
    if len(blocks) == 1:
        return {file.stem: blocks[0]}
    return {f"{file.stem}-{i}": block for i, block in enumerate(blocks, 1)}


def ask_about(question: str, class_name: str) -> str:
    """The prompt with a class in it."""
    return question.replace("{class}", class_name)
