"""What texts give away: class names in them, and texts without those.

A text that names its class is a label in disguise; a text that describes the image is what vlm-kd wants.
"""

import re
from collections.abc import Sequence
from typing import Literal

from linnet.text.classes import ClassInfo, dropped_index

Hide = Literal["none", "names", "words"]

# words that say nothing about a class, though they stand in names
COMMON = frozenset(("a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"))


def without_names(texts: Sequence[tuple[str, ...]], classes: Sequence[ClassInfo], hide: Hide) -> list[tuple[str, ...]]:
    """The texts without the names of any class, or without any word of those; a text of which nothing is left goes.

    Names are found whatever their case, in the singular and with a plural s. They are those of the source and those of
    the prompts.
    """
    if hide == "none":
        return list(texts)
    phrases = {phrase for info in classes for phrase in names_of(info)}
    if hide == "words":
        phrases = {word for phrase in phrases for word in re.findall(r"\w+", phrase) if word not in COMMON}
    pattern = _pattern(phrases)
    return [tuple(kept for text in own if (kept := _tidy(pattern.sub("", text)))) for own in texts]


def naming_share(texts: Sequence[tuple[str, ...]], classes: Sequence[ClassInfo | None]) -> float:
    """Share of the texts that contain the name of their class.

    Args:
        texts: of each image. classes: of each image, None where unlabelled.
    """
    patterns = {info: _pattern(names_of(info)) for info in classes if info is not None}
    found = [
        patterns[info].search(text) is not None
        for own, info in zip(texts, classes, strict=True)
        if info is not None
        for text in own
    ]
    return sum(found) / max(1, len(found))


def names_of(info: ClassInfo) -> set[str]:
    """A class's name and prompt name, in lower case, as they would stand in a sentence."""
    index = dropped_index(info)
    plain = info.name[index.end() if index else 0 :].replace("_", " ")
    return {" ".join(name.lower().split()) for name in (plain, info.prompt_name) if name.strip()}


def _pattern(phrases: set[str]) -> re.Pattern[str]:
    longest_first = sorted(phrases, key=lambda phrase: (-len(phrase), phrase))
    words = "|".join(r"[\s_-]+".join(map(re.escape, re.split(r"[\s_-]+", phrase))) for phrase in longest_first)
    return re.compile(rf"(?<!\w)(?:{words})(?:'s|e?s)?(?!\w)", re.IGNORECASE)


def _tidy(text: str) -> str:
    """One space between words, none before a mark, no mark after another; nothing if no word is left."""
    text = re.sub(r"\s+([,.;:!?])", r"\1", " ".join(text.split()))
    text = re.sub(r"([,;:])(?:\s*[,;:])+", r"\1", text)
    text = re.sub(r"[,;:]+\s*([.!?])", r"\1", text)
    return text.strip(" ,;:") if re.search(r"\w", text) else ""
