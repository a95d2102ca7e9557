"""``linnet describe``: texts about training images, or about classes, written by a vision-language model; or those that
the data have already, shown or put into one file."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from linnet.config import DataConfig
from linnet.config_files import merge, nest, read_yaml
from linnet.data.images import read_image
from linnet.data.load import load_manifest, training_rows
from linnet.data.manifest import Manifest
from linnet.data.problems import report
from linnet.data.sources import as_written
from linnet.data.splits import by_class, seeded_order
from linnet.environment import version
from linnet.errors import UserError
from linnet.fields import from_dict
from linnet.files import check_out, given_path, readable, write_atomically
from linnet.progress import Bar
from linnet.text.captions import SUFFIXES, Caption, read_captions, relative_path, write_captions
from linnet.text.journal import Asked, Journal, Written
from linnet.text.questions import Per, ask_about, read_questions

if TYPE_CHECKING:
    from linnet.teachers.writer import Precision, Writer

log = logging.getLogger("linnet")

CLASS_SUFFIXES = (".yaml", ".yml", ".json")
DECIDING = ("weights", "prompts", "max_tokens", "precision", "examples")  # texts of other ones do not go into one file
TEXT_SETTINGS = ("texts", "text_columns", "text_templates")


@dataclass(frozen=True)
class Job:
    """What is to be written: the file, the data, what makes the texts, and how the model is loaded."""

    file: Path
    manifest: Manifest
    settings: DataConfig
    provenance: dict[str, Any]
    load: "Callable[[], Writer]"
    batch_size: int
    overwrite: bool

    @property
    def prompts(self) -> dict[str, str]:
        return self.provenance["prompts"]


class Question(NamedTuple):
    """One text to be written: what it is filed under, the images to look at, and the words."""

    asked: Asked
    images: tuple[Path, ...]
    words: str


def describe(
    data: str | Path | None = None,
    *,
    vlm: str | None = None,
    out: str | Path | None = None,
    prompts: Sequence[str] = (),
    per: Per = "image",
    examples: int = 1,
    max_tokens: int = 77,
    batch_size: int = 8,
    precision: "Precision" = "auto",
    show: int = 0,
    config: Path | None = None,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path | None:
    """Let a vision-language model write texts about the training images. The same words as ``linnet describe``.

    Example:
        >>> linnet.describe("photos/", vlm="llava-hf/llava-v1.6-mistral-7b-hf", out="texts.parquet")
        >>> linnet.distill("photos/", method="vlm-kd", options={"data.texts": "texts.parquet"})

    Args:
        vlm: a model of the Hugging Face hub, or its folder; without one, the texts that the data have are taken.
        out: the file: a table (.parquet or .csv), or .yaml or .json for texts about classes.
        prompts: names of linnet's prompts, or text files; see :func:`linnet.text.questions.read_questions`.
        per: a text about each image, or about each class with ``examples`` of its training images to look at.
        max_tokens: the longest text. batch_size: how many images at once; in fp32 the texts do not depend on it.
        show: print this many texts.
        config: a YAML file of settings whose ``data`` group is read. options: settings of the data, as in
            ``{"data.limit_per_class": 50}``.
        overwrite: forget what is in ``out``.

    Returns:
        ``out``.

    Raises:
        UserError: anything the user can mend, in one sentence.
    """
    counts = {"--max-tokens": max_tokens, "--batch-size": batch_size, "--examples": examples, "--show": show}
    _check_counts(counts)
    settings = data_settings(data, config, options or {})
    file = None if out is None else given_path(out, "out")
    if vlm is None:
        return _without_model(settings, file, show, overwrite)
    from linnet.teachers.writer import check_model

    if any(f"data.{name}" in (options or {}) for name in TEXT_SETTINGS):
        raise UserError("--vlm writes new texts: leave --data.texts out, or leave --vlm out to convert the table")
    file = _writable(file, SUFFIXES if per == "image" else CLASS_SUFFIXES)
    questions = read_questions(prompts, per)
    if per == "class":
        _check_new(file, overwrite)
    check_model(vlm)
    manifest = _manifest(replace(settings, texts=None, text_columns=None, text_templates=None))
    about: dict[str, Any] = {"prompts": questions, "max_tokens": max_tokens}
    about |= {"examples": examples} if per == "class" else {}
    provenance, load = _model(vlm, precision, max_tokens, batch_size)
    job = Job(file, manifest, settings, provenance | about | _versions(settings), load, batch_size, overwrite)
    _show(_describe_images(job) if per == "image" else _describe_classes(job), show)
    return file


def _manifest(settings: DataConfig) -> Manifest:
    manifest = load_manifest(settings)
    report(manifest.problems)
    return manifest


def _model(
    vlm: str, precision: "Precision", max_tokens: int, batch_size: int
) -> "tuple[dict[str, Any], Callable[[], Writer]]":
    """What is noted about the model, and how it is loaded, which waits until there is something to ask."""
    from linnet.teachers.writer import Writer, choose_precision, find_model, hash_model

    folder = find_model(vlm)
    chosen, reason = choose_precision(precision)
    log.info("precision: %s (%s)", chosen, reason)
    about = {"vlm": vlm, "weights": hash_model(folder), "precision": chosen}
    return about, lambda: Writer(folder, chosen, max_tokens, batch_size)


def _check_counts(counts: Mapping[str, int]) -> None:
    for name, value in counts.items():
        least = 0 if name in ("--examples", "--show") else 1
        if value < least:
            raise UserError(f"{name} must be at least {least}, not {value}")


def data_settings(data: str | Path | None, config: Path | None, options: Mapping[str, Any]) -> DataConfig:
    """The data as a later ``linnet distill`` with the same settings sees them. Descriptions are left out: they may be
    what is to be written.

    Raises:
        UserError: a setting that is not one of the data.
    """
    typed = nest(options)
    if other := [group for group in typed if group != "data"]:
        raise UserError(f"'{other[0]}' is no setting of the data: describe takes --data.* only")
    layers = [
        {} if config is None else read_yaml(given_path(config, "config")).get("data") or {},
        typed.get("data", {}),
    ]
    layers += [{"source": as_written(data)}] if data is not None else []
    return replace(from_dict(DataConfig, merge(*layers), "data."), descriptions=None)


def _without_model(settings: DataConfig, file: Path | None, show: int, overwrite: bool) -> Path | None:
    """The texts that the data have: shown, or written as linnet's own file."""
    if file is None and not show:
        raise UserError(
            "give --vlm MODEL and --out texts.parquet to write texts, or --show 20 to see those of the data"
        )
    if file is not None:
        _check_new(_writable(file, SUFFIXES), overwrite)
    manifest = _manifest(settings)
    if manifest.texts is None:
        raise UserError(f"{settings.source} has no texts: give a table with --data.texts, or a model with --vlm")
    captions = [
        Caption(_name(manifest, row, settings), _digest(manifest, row), _class(manifest, row), f"t{i}", text)
        for row in training_rows(manifest)
        for i, text in enumerate(manifest.texts[row], 1)
    ]
    if file is not None:
        write_captions(file, captions, {"texts": str(settings.texts or settings.source), **_versions(settings)})
    _show([(caption.path, caption.text) for caption in captions], show)
    return file


def _describe_images(job: Job) -> list[tuple[str, str]]:
    """Path and text of all that is in the file at the end."""
    manifest, prompts = job.manifest, job.prompts
    old, made_by = read_captions(job.file) if job.file.exists() and not job.overwrite else ([], None)
    if made_by is not None:
        _check_same(job.file, made_by, job.provenance)

    def asked(digest: str, class_name: str, prompt: str) -> Asked:  # what a class-free prompt is told holds for twins
        return Asked(digest, class_name if "{class}" in prompts[prompt] else "", prompt)

    known = {asked(caption.digest, caption.class_name, caption.prompt): caption.text for caption in old}
    rows: dict[tuple[str, str], int] = {}
    for row in training_rows(manifest):
        rows.setdefault((_digest(manifest, row), _class(manifest, row)), row)
    questions = {
        key: Question(key, (manifest.paths[row],), ask_about(words, manifest.classes[manifest.labels[row]].prompt_name))
        for prompt, words in prompts.items()
        for (digest, name), row in rows.items()
        if (key := asked(digest, name, prompt)) not in known
    }
    journal = _answered(job, list(questions.values()))
    new = {key: written.text for key, written in journal.written.items()}
    captions = [
        Caption(_name(manifest, row, job.settings), digest, name, prompt, text)
        for (digest, name), row in rows.items()
        for prompt in prompts
        if (text := (known | new).get(asked(digest, name, prompt))) is not None
    ]
    here = {(caption.digest, caption.class_name) for caption in captions}
    gone = [caption for caption in old if (caption.digest, caption.class_name) not in here]
    if gone:
        log.info("%d texts about images that are no training images of %s stay", len(gone), job.settings.source)
    order = list(prompts)
    captions = sorted([*captions, *gone], key=lambda own: (own.path, own.class_name, order.index(own.prompt)))
    write_captions(job.file, captions, job.provenance | _tokens(journal.written.values(), made_by or {}))
    journal.remove()
    return [(caption.path, caption.text) for caption in captions]


def _describe_classes(job: Job) -> list[tuple[str, str]]:
    """Sentences for ``data.descriptions``. Classes that are kept from training are described by name alone.

    Returns:
        The class and the text of each sentence.
    """
    file, manifest = job.file, job.manifest
    rows = by_class(manifest.labels, training_rows(manifest))
    questions = []
    for prompt, words in job.prompts.items():
        for label, info in enumerate(manifest.classes):
            own = {manifest.digests[row].tobytes(): manifest.paths[row] for row in rows.get(label, ())}
            shown = seeded_order(own, job.settings.seed, "examples")[: job.provenance["examples"]]
            key = Asked("+".join(digest.hex() for digest in shown), info.name, prompt)
            paths = tuple(own[digest] for digest in shown)
            questions.append(Question(key, paths, ask_about(words, info.prompt_name)))
    journal = _answered(job, questions)
    sentences: dict[str, list[str]] = {info.name: [] for info in manifest.classes}
    for question in questions:
        if text := journal.written[question.asked].text:
            sentences[question.asked.class_name].append(text)
    if silent := [name for name, texts in sentences.items() if not texts]:
        raise UserError(f"the model wrote nothing about '{silent[0]}': try another --prompt, with --overwrite")
    provenance = job.provenance | _tokens(journal.written.values(), {})
    write_atomically(file, _descriptions_file(file, sentences, provenance))
    journal.remove()
    return [(name, text) for name, texts in sentences.items() for text in texts]


def _descriptions_file(file: Path, sentences: dict[str, list[str]], provenance: dict[str, Any]) -> str:
    if file.suffix.lower() == ".json":
        return json.dumps(sentences, indent=1, ensure_ascii=False) + "\n"
    import yaml

    listed = yaml.safe_dump(sentences, sort_keys=False, allow_unicode=True, width=120)
    return f"# linnet describe: {json.dumps(provenance)}\n{listed}"


def _answered(job: Job, questions: list[Question]) -> Journal:
    """The journal with an answer to every question: those that it lacks are asked."""
    journal = Journal(job.file, fresh=job.overwrite)
    if journal.provenance is not None:
        _check_same(journal.file, journal.provenance, job.provenance)
    # several batches of one kind: what a batch holds depends on the questions alone, not on where a run was stopped
    batches = [list(batch) for batch in _batches(questions, job.batch_size)]
    open_batches = [[one for one in batch if one.asked not in journal.written] for batch in batches]
    total = sum(map(len, open_batches))
    if total < len(questions):
        log.info("%d of %d texts are in %s already", len(questions) - total, len(questions), journal.file)
    if job.overwrite:  # at once: a process that is killed goes on without the word
        job.file.unlink(missing_ok=True)
        journal.remove()
    journal.open(job.provenance)
    if total:
        try:
            _ask(job.load(), open_batches, total, journal)
        except KeyboardInterrupt:
            left = f"{sum(one.asked in journal.written for one in questions)} of {len(questions)} texts are written"
            raise KeyboardInterrupt(f"{left}: the same command goes on behind them") from None
        finally:
            journal.close()
    return journal


def _batches(questions: list[Question], size: int) -> Iterator[list[Question]]:
    for _, group in groupby(questions, key=lambda one: (one.asked.prompt, len(one.images))):
        same = list(group)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _ask(writer: "Writer", batches: list[list[Question]], total: int, journal: Journal) -> None:
    done = 0
    with Bar("texts", total) as bar:
        for batch in filter(None, batches):
            while batch:
                now, batch = batch[: writer.batch_size], batch[writer.batch_size :]
                conversations = [([read_image(path) for path in one.images], one.words) for one in now]
                journal.add([one.asked for one in now], writer.write(conversations))
                done += len(now)
                bar.update(done)


def _check_same(file: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: the texts in the file were made in another way.
    """
    keys = [key for key in DECIDING if old.get(key) != new.get(key)]
    if not keys:
        return
    words = {key: f"{key.replace('_', '-')}: {old.get(key)} -> {new.get(key)}" for key in keys}
    if "weights" in words:
        same = old.get("vlm") == new.get("vlm")
        words["weights"] = (
            f"other weights in {new.get('vlm')}" if same else f"vlm: {old.get('vlm')} -> {new.get('vlm')}"
        )
    if "prompts" in words:
        before, after = old.get("prompts") or {}, new["prompts"]
        changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        words["prompts"] = f"the prompt {', '.join(changed)}"
    raise UserError(
        f"{file} was made with other settings ({'; '.join(words.values())}): use its own, choose another --out, or "
        "start again with --overwrite"
    )


def _writable(file: Path | None, suffixes: Sequence[str]) -> Path:
    if file is None:
        raise UserError(f"where shall the texts go? Give --out texts{suffixes[0]}")
    if file.suffix.lower() not in suffixes:
        raise UserError(f"--out must end in {' or '.join(suffixes)}, not be '{file}'")
    check_out(file)
    return file


def _check_new(file: Path, overwrite: bool) -> None:
    if file.exists() and not overwrite:
        raise UserError(f"{file} exists: choose another --out, or replace it with --overwrite")


def _tokens(written: Iterable[Written], before: Mapping[str, Any]) -> dict[str, Any]:
    """How many tokens a text took, on average, those that an earlier run asked for included."""
    own = list(written)
    count = before.get("texts", 0) + len(own)
    if not count:
        return {}
    means = {}
    for key in ("input_tokens", "output_tokens"):
        total = before.get(key, 0.0) * before.get("texts", 0) + sum(getattr(one, key) for one in own)
        means[key] = round(total / count, 1)
    log.info("tokens for each text: %.0f in, %.0f out (mean of %d)", *means.values(), count)
    return {"texts": count, **means}


def _versions(settings: DataConfig) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    packages = {name: version(name) for name in ("linnet", "transformers")}
    return {"data": settings.source, "created": now, **packages}


def _show(pairs: list[tuple[str, str]], count: int) -> None:
    """Some of the texts, spread over all."""
    for name, text in pairs[:: max(1, len(pairs) // max(count, 1))][:count]:
        print(readable(f"{name}   {text}"))


def _digest(manifest: Manifest, row: int) -> str:
    return manifest.digests[row].tobytes().hex()


def _class(manifest: Manifest, row: int) -> str:
    return manifest.class_names[manifest.labels[row]]


def _name(manifest: Manifest, row: int, settings: DataConfig) -> str:
    return relative_path(manifest.paths[row], Path(str(settings.source)))
