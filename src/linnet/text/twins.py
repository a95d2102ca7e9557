"""Classes that a text encoder cannot tell apart, found before anything is trained on their texts.

Nothing here needs torch.

Shapes: C classes, E embedding width.
"""

import logging
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from linnet.errors import UserError
from linnet.text.classes import ClassInfo, say_nothing

log = logging.getLogger("linnet")

Tokens = Callable[[list[str]], list[tuple[int, ...]]]  # texts -> what the encoder reads of each

ALIKE = 0.999  # cosine above which two classes are as good as one
SHOWN = 4
ADVICE = (
    "use other or shorter names and templates, describe the classes with --data.descriptions FILE, or choose another "
    "text encoder"
)


def check_read_apart(
    encoder: str,
    classes: Sequence[ClassInfo],
    texts: Sequence[Sequence[str]],
    tokens: Tokens,
    unknown: int | None = None,
    advice: str = ADVICE,
) -> None:
    """Warn of names that say nothing, or of which only unknown letters differ.

    Args:
        encoder: its id. texts: the sentences that stand for each class.
        unknown: the token that stands for whatever the tokenizer does not know, if it has one.

    Raises:
        UserError: two classes of which the encoder reads the same.
    """
    if say_nothing(classes):
        log.warning(
            "the class names (%s) do not say what the classes look like, so that '%s' can only guess: %s",
            *(_names(classes, range(len(classes))), encoder, ADVICE),
        )
    knows_nothing = len(set(tokens(["owl", "cat", "red"]))) == 1  # as where the files of a tokenizer are missing
    # some tokenizers end every text with this token
    if unknown is not None and not knows_nothing and unknown in tokens(["a"])[0]:
        unknown = None
    rows = tokens([text for own in texts for text in own])
    ends = np.cumsum([len(own) for own in texts]).tolist()
    read = [tuple(sorted(rows[end - len(own) : end])) for own, end in zip(texts, ends, strict=True)]
    if same := _equal(read):
        if knows_nothing:
            raise UserError(
                f"to '{encoder}' the classes {_names(classes, same)} read the same, as do all words: are files of its "
                "tokenizer missing?"
            )
        raise UserError(
            f"to '{encoder}' the classes {_names(classes, same)} read the same, because "
            f"{_reason(same, texts, read, unknown)}: {advice}"
        )
    known = [tuple(sorted(tuple(token for token in row if token != unknown) for row in own)) for own in read]
    if same := _equal(known):
        log.warning(
            "'%s' knows nothing that tells %s apart, because its tokenizer does not know their letters: %s",
            *(encoder, _names(classes, same), advice),
        )


def warn_of_twins(encoder: str, names: Sequence[str], bank_CE: np.ndarray) -> None:
    """Say which classes have, as good as, the same vector."""
    bank_CE = bank_CE / np.linalg.norm(bank_CE, axis=1, keepdims=True)
    pairs: list[tuple[str, str]] = []
    for start in range(0, len(bank_CE), 1024):  # bounds the memory
        alike = np.argwhere(bank_CE[start : start + 1024] @ bank_CE.T > ALIKE).tolist()
        pairs += [(names[start + a], names[b]) for a, b in alike if start + a < b]
    if pairs:
        shown = ", ".join(f"'{_short(a)}' and '{_short(b)}'" for a, b in pairs[:SHOWN])
        more = f" and {len(pairs) - SHOWN} more pairs" if len(pairs) > SHOWN else ""
        log.warning(
            "'%s' hardly tells some classes apart by their texts, whose cosine is above %g (%s%s): %s",
            *(encoder, ALIKE, shown, more, ADVICE),
        )


def _equal(read: Sequence[tuple[tuple[int, ...], ...]]) -> list[int]:
    """The first classes that have all their rows in common."""
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for number, own in enumerate(read):
        groups.setdefault(own, []).append(number)
    return next((group for group in groups.values() if len(group) > 1), [])


def _names(classes: Sequence[ClassInfo], group: Sequence[int]) -> str:
    more = f" and {len(group) - SHOWN} more classes" if len(group) > SHOWN else ""
    return " and ".join(f"'{_short(classes[number].name)}'" for number in group[:SHOWN]) + more


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:30]} ... {name[-25:]}"


def _reason(group: list[int], texts: Sequence[Sequence[str]], read: Sequence[tuple], unknown: int | None) -> str:
    own = [" ".join(sorted(texts[number], key=str.casefold)) for number in group]
    if len(set(own)) < len(own):
        return f"their text is the same ('{_short(own[0])}')"
    if any(unknown in row for row in read[group[0]]):
        return "its tokenizer does not know their letters"
    # apart from their marks, the letters without their accents
    letters = [re.sub(r"[\W_]+", "", unicodedata.normalize("NFKD", text.casefold())) for text in own]
    if len(set(letters)) < len(own):
        return "they differ only in capital letters, accents or marks"
    return "it reads only the beginning of a text, and theirs is the same"
