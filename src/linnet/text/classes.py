"""Classes and the words that stand for them: names as users write them, prompt names, sentences.

Nothing here needs torch.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from linnet.errors import UserError, did_you_mean
from linnet.files import load_yaml, read_text, readable

WORDNET_ID = r"n\d{8}"
# a number and what parts it from a name; "1.5 litre" and "1-2 persons" go on with a digit
INDEX = re.compile(r"(\d+)(?:(?<=0\d\d)\.|[\s_]+(?:[-–—][\s_]++(?!\d))?|[.)–—-][\s_]*+(?!\d))")


class ClassInfo(NamedTuple):
    """A class: its name as found in the source, the words that stand for it in a prompt, and sentences about it."""

    name: str
    prompt_name: str
    descriptions: tuple[str, ...] = ()


def composed(name: str) -> str:
    """A name in the one spelling that is compared everywhere (NFC): some systems write é as e and an accent."""
    return unicodedata.normalize("NFC", name)


def class_table(names: Sequence[str]) -> tuple[ClassInfo, ...]:
    """Classes by the names of their folders: ``_`` becomes a space in the prompt name, and an index in front goes."""
    names = [composed(readable(name)) for name in names]
    plain = _without_index(names)
    return tuple(
        ClassInfo(name, " ".join(words.replace("_", " ").split()) or name)
        for name, words in zip(names, plain, strict=True)
    )


def _without_index(names: Sequence[str]) -> list[str]:
    """The names without the number in front, if it only counts the classes: all of them have one, the numbers are
    distinct and go from 0 or 1 on without a gap, or look like ``001.``, and what is left has letters and is unique.
    A WordNet id in front of every name (``n02085620-Chihuahua``) goes, too.

    So ``1957 Chevrolet``, ``747-400`` and ``2-door`` keep their numbers.
    """
    words = [re.sub(rf"^{WORDNET_ID}[-_\s]+", "", name) for name in names]
    if all(len(left) < len(name) for left, name in zip(words, names, strict=True)) and len({*words}) == len(names):
        return words if all(any(map(str.isalpha, left)) for left in words) else list(names)
    fronts = [INDEX.match(name) for name in names]
    numbers = [front[1] for front in fronts if front]
    left = [name[front.end() :] for name, front in zip(names, fronts, strict=True) if front]
    distinct = set(map(int, numbers))
    counted = len(names) > 1 and distinct in (set(range(len(names))), set(range(1, len(names) + 1)))
    like_cub = all(re.match(r"\d{3}\.", name) for name in names)
    meant = {words.casefold().rstrip("s") for words in left}  # "1 cent" and "2 cents" are amounts
    is_index = len(distinct) == len(meant) == len(names) and (counted or like_cub)
    return left if is_index and all(any(map(str.isalpha, words)) for words in left) else list(names)


def dropped_index(info: ClassInfo) -> re.Match[str] | None:
    """The number in front of a class's name that its prompt name does without."""
    front = INDEX.match(info.name)
    return front if front and not info.prompt_name.startswith(front[1]) else None


def say_nothing(classes: Sequence[ClassInfo]) -> bool:
    """Whether the names only count the classes ("class 1", "class 2") or are WordNet ids: no text encoder can tell what
    they look like."""
    names = [info.prompt_name for info in classes]
    counted = [re.fullmatch(r"(.*?)(\d+)", name) for name in names]
    numbers = {int(name[2]) for name in counted if name}
    alike = all(counted) and len({name[1] for name in counted if name}) == 1
    in_order = numbers in (set(range(len(names))), set(range(1, len(names) + 1)))
    return (alike and in_order) or all(re.fullmatch(WORDNET_ID, name) for name in names)


def read_descriptions(path: Path) -> dict[str, tuple[str, ...]]:
    """A YAML or JSON file that maps class names to a sentence, or to a list of them.

    Raises:
        UserError: the file is missing or something else is in it.
    """
    try:
        loaded = load_yaml(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML or JSON: {error}") from error
    sentences: dict[str, tuple[str, ...]] = {}
    for name, value in loaded.items() if isinstance(loaded, Mapping) else [("", None)]:
        own = [value] if isinstance(value, str) else value
        if not isinstance(own, list) or not own or not all(isinstance(text, str) and text.strip() for text in own):
            raise UserError(
                f"{path} must map each class name to a sentence or a list of sentences, not {name!r}: {value!r}"
            )
        sentences[composed(str(name))] = tuple(" ".join(text.split()) for text in own)
    return sentences


def described(classes: Sequence[ClassInfo], path: Path) -> tuple[ClassInfo, ...]:
    """The same classes with their descriptions, which are found by class name or prompt name.

    Raises:
        UserError: a class without one, which would stand out among those with one.
    """
    texts = read_descriptions(path)
    missing = [info.name for info in classes if info.name not in texts and info.prompt_name not in texts]
    if missing:
        raise UserError(
            f"{path} describes {len(classes) - len(missing)} of {len(classes)} classes: '{missing[0]}' is missing"
            + did_you_mean(missing[0], texts)
        )
    return tuple(info._replace(descriptions=texts.get(info.name) or texts[info.prompt_name]) for info in classes)


def class_sentences(info: ClassInfo, templates: Sequence[str]) -> list[str]:
    """What stands for a class: its name in every template, followed by each of its descriptions if it has some.

    Raises:
        UserError: no template, or one without ``{}``.
    """
    bad = [template for template in templates if template.count("{}") != 1]
    if bad or not templates:
        raise UserError(f"templates must be sentences with one {{}} for the class name, not {list(bad) or 'empty'}")
    sentences = [template.replace("{}", info.prompt_name) for template in templates]
    if not info.descriptions:
        return sentences
    return [f"{sentence.rstrip(' .')}. {text}" for sentence in sentences for text in info.descriptions]


def first_sentences(classes: Sequence[ClassInfo], templates: Sequence[str]) -> list[str]:
    """One sentence for each class, for prompts that take no more: the first of :func:`class_sentences`."""
    return [class_sentences(info, templates)[0] for info in classes]


def find_class(wanted: str, classes: Sequence[ClassInfo]) -> int:
    """Id of the class of this name, prompt name or index in front of the name (``7`` finds ``007.Parakeet_Auklet``).

    Raises:
        UserError: there is none (with a suggestion).
    """
    wanted = composed(readable(wanted))
    for number, info in enumerate(classes):
        front = dropped_index(info)
        index = int(front[1]) if front else None
        names = (composed(info.name), composed(info.prompt_name))
        if wanted in names or (wanted.isdecimal() and int(wanted) == index):
            return number
    known = [info.name for info in classes]
    raise UserError(f"there is no class '{wanted}' in the data.{did_you_mean(wanted, known)}")
