"""Every setting of a run, in one frozen tree: read from the command line, a YAML file or Python, resolved once,
written back.

Precedence: command line or Python argument, then file, then the method's own defaults, then the defaults below. A field
marked ``Auto`` may be left open (AUTO; null or auto in a file): :mod:`linnet.defaults` fills it in and says why, so a
resolved configuration has a value there, as the field's type says.

A group of settings is one dataclass here and one field of :class:`Config`: the command line derives the rest.
"""

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from linnet.fields import AUTO, Auto, Bounds, Count, NonNegative, Pattern

Still = Literal["center", "squash"]


@dataclass(frozen=True)
class DataConfig:
    source: str | None = None
    """DATA: a folder of images, or another source that 'linnet list data' shows."""
    eval: str | None = None
    """For dfkd only: data that score the finished student; they never influence training."""
    test: Literal["auto", "none"] = "auto"
    """auto: the source's own test split, or 20 % of a flat source; none: no test split is made or read."""
    on_error: Literal["stop", "skip"] = "stop"
    """What images that cannot be read do: stop names all of them; skip leaves them out and counts them."""
    test_fraction: Annotated[float, Bounds(0.01, 0.9)] = 0.2
    """Share of each class that becomes the test split when the source has none."""
    val_fraction: Annotated[float, Bounds(0.01, 0.9)] = 0.1
    """Share of the rest of each class that becomes the validation split when the source has none."""
    limit_per_class: Count | None = None
    """Use at most this many training images of each class that is trained on."""
    long_tail: Annotated[float, Bounds(1.0)] | None = None
    """Thin the training images out to a long tail in which the most frequent class has this many times as many as the
    rarest; val and test stay as they are."""
    group_bounds: tuple[Count, ...] | None = None
    """Two numbers of training images for the scores of few, medium and many: fewer than the first is few, more than the
    second many; auto: 20 and 100, or thirds of the classes where that leaves a group empty."""
    descriptions: Path | None = None
    """A YAML or JSON file that maps each class name to a sentence or a list of them, put after the class name."""
    texts: Path | None = None
    """A table (Parquet or CSV) with texts about training images, as 'linnet describe' writes it, or one of your own."""
    text_columns: tuple[str, ...] | None = None
    """Columns of data.texts that hold texts; by default text or caption, else all attributes in one sentence."""
    text_templates: tuple[str, ...] | None = None
    """Sentences made from columns of data.texts, as in "a bird with {wing color} wings"; one without a value is left
    out."""
    novel: Annotated[float, Bounds(0.01, 0.99)] | None = None
    """Share of the classes that are kept out of training, drawn from data.seed, to be recognised by name only."""
    novel_classes: tuple[str, ...] | None = None
    """The classes that are kept out of training, by name or number: a list, or a file with one per line."""
    novel_images: Literal["all", "test"] = "all"
    """Which images of novel classes are scored: all of them, or those of the test split."""
    seed: Annotated[int, Bounds(0)] = 0
    """Drives splits, limits, novel classes and views, so that rows of a comparison see the same data."""
    views: Annotated[
        Literal[
            "none",
            "light",
            "standard",
            "trivial",
            "paper:vl2lite",
            "paper:openvocab",
            "paper:cifar",
            "paper:tiny-imagenet",
            "paper:tiny-imagenet-crop",
        ],
        Auto,
    ] = AUTO
    """How training images are varied: light is crop and flip, standard adds rotation and colour, trivial one change of
    a random kind and strength (TrivialAugment), paper:vl2lite is that of VL2Lite and PAND, paper:openvocab that of Li
    et al., paper:cifar and paper:tiny-imagenet are those of the mdistiller benchmark, paper:tiny-imagenet-crop that of
    FiGKD's author."""
    mix: Literal["none", "mixup", "cutmix", "both"] = "none"
    """Mix each training image with another one, and its label: mixup adds both up, cutmix puts a rectangle of the other
    into it; a teacher has to see the same (teacher.views replay:K or online)."""
    mix_alpha: Annotated[float, Bounds(0.01, 100.0)] = 0.4
    """How evenly data.mix mixes: shares are drawn from Beta(alpha, alpha), 1 is uniform, less is nearer to one of the
    two."""
    store_limit_gb: NonNegative = 20.0
    """Decoded images are kept on disk up to this size for each split; a larger split is decoded again
    in every epoch."""
    workers: Annotated[int, Bounds(0), Auto] = AUTO
    """Processes that decode images when they are not stored."""


@dataclass(frozen=True)
class TeacherConfig:
    id: Annotated[str | None, Auto] = AUTO
    """A teacher of 'linnet list teachers', as in open_clip:ViT-B-16-SigLIP2/webli, timm:NAME or run:PATH."""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    """Sentences around a class name; their text embeddings are averaged."""
    head: Annotated[Literal["zero-shot", "prompt", "probe", "val"], Auto] = AUTO
    """How embeddings become logits: the text bank as it is, calibrated prompts, a linear probe on train images, or the
    one of text bank and probe that val prefers; auto: val where a method uses the logits alone, else zero-shot."""
    text_encoder: Annotated[str | None, Auto] = AUTO
    """What reads the texts of vlm-kd: a vision-language teacher, or another text encoder of 'linnet list teachers';
    auto: the teacher."""
    views: Annotated[
        str,
        Pattern(r"center|squash|online|replay:[1-9][0-9]{0,3}", "center, squash, online or replay:K, as in replay:4"),
    ] = "center"
    """center: the teacher's own view of each image, cached; squash: the whole image, squashed to the teacher's size,
    cached; replay:K: K views, cached, that the student sees too, in turn; online: the student's own views, computed in
    every step."""
    cache: Path | None = None
    """Where teacher outputs are kept; by default linnet's cache folder."""

    @property
    def still(self) -> Still:
        """How it sees images whole: those of val and test, and of train, unless it is shown the student's views."""
        return "squash" if self.views == "squash" else "center"

    @property
    def replay(self) -> int | None:
        """K of ``replay:K``."""
        return int(self.views.removeprefix("replay:")) if self.views.startswith("replay:") else None


@dataclass(frozen=True)
class PromptsConfig:
    vectors: Annotated[int, Bounds(1, 64)] = 16
    """Learned context vectors before the text, shared by all classes; fewer if the text tower has no room."""
    text: Literal["template", "name"] = "template"
    """What follows the context vectors: the first template with the class name in it, or the bare name."""
    epochs: Count = 200
    """Passes over the cached training embeddings."""
    max_steps: Count | None = 400
    """Steps after which the calibration ends in any case; none: no such limit."""
    batch_size: Count = 128
    """Embeddings per step."""
    classes: Count = 1000
    """Classes whose texts are read at each step: those of its embeddings, and of more others drawn at random. With as
    many classes or fewer, all are; val is judged by all."""
    lr: Annotated[float, Bounds(1e-8, 100.0)] = 0.02
    """Peak learning rate of SGD with momentum 0.9; it falls to 0 as a cosine."""
    patience: Count = 50
    """Stop after this many epochs without a better val score (accuracy; ties go to the lower cross-entropy)."""


@dataclass(frozen=True)
class ShotsConfig:
    count: Count | None = None
    """Training images of each novel class that few-shot learning may use; they are removed from the test set."""
    use: Literal["retrieval", "finetune"] = "retrieval"
    """retrieval: as keys beside the class texts, without training; finetune: in half of each batch, from the weights of
    an earlier run (student.pretrained)."""
    views: Count = 10
    """Retrieval only: views of each image that the teacher looks at: one of it as it is, the others after
    RandAugment(2, 9)."""
    form: Literal["mean", "released"] = "mean"
    """Retrieval only: the mean over a class's keys, at the scale of the texts; released: the unscaled sum of the
    authors' code."""
    alpha: NonNegative | None = None
    """Retrieval only: weight of the keys; auto: chosen on val, among the base classes (form released: 1)."""
    beta: NonNegative = 5.5
    """Retrieval only: how fast a key's influence falls with its distance."""


@dataclass(frozen=True)
class StudentConfig:
    name: Annotated[str, Auto] = AUTO
    """Any timm architecture, or a network of 'linnet list students'."""
    pretrained: Annotated[bool | Path, Auto] = AUTO
    """true: timm's weights; false: from scratch; a path: a file of weights, a run (runs/NAME), or a folder in the
    layout of timm or the Hugging Face hub."""
    image_size: Annotated[int, Bounds(16, 2048), Auto] = AUTO
    """Side of the square image that the student sees, in pixels."""
    stem: Literal["auto", "lowres"] = "auto"
    """lowres: stride 1 in the first convolution and no max-pool, for tiny images; auto: as timm made it."""
    crop_mode: Literal["center", "squash"] = "center"
    """What evaluation and prediction see of an image that is not square: its centre, or all of it, squashed."""
    crop_pct: Annotated[float, Bounds(0.1, 1.0)] = 1.0
    """Share of the resized image, from its middle, that evaluation and prediction see: with 0.875 and 224 pixels the
    image is resized to 256, as many papers do it."""
    jpeg: Literal["scaled", "full"] = "scaled"
    """scaled: large JPEG photos are decoded at half, a quarter or an eighth of their size, if at least twice the size
    remains that they are resized to, which is several times as fast; full: as they are."""
    mean: tuple[Annotated[float, Bounds(0.0, 1.0)], ...] | None = None
    """Mean of each colour that is subtracted from pixels in [0, 1], three numbers; auto: what the weights expect."""
    std: tuple[Annotated[float, Bounds(0.001, 10.0)], ...] | None = None
    """What pixels are divided by after that, three numbers; auto: what the weights expect."""


@dataclass(frozen=True)
class TrainConfig:
    epochs: Annotated[int, Bounds(1), Auto] = AUTO
    """Passes over the training images; auto: 30 for drawn birds, 60 for photos, 20 for few-shot finetuning, 200 for
    dfkd (an epoch there is a number of alternations)."""
    select: Annotated[Literal["val", "last"], Auto] = AUTO
    """The epoch that is kept: the best on val, or the last; auto: val; last for few-shot finetuning and
    dfkd."""
    batch_size: Annotated[int, Bounds(2)] = 64
    """Images per step over all processes; at most the number of training images."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum 0.9."""
    nesterov: bool = True
    """SGD only: Nesterov's momentum."""
    lr: Annotated[float, Bounds(1e-8, 100.0), Auto] = AUTO
    """Peak learning rate; auto: AdamW 0.006 from scratch, 0.002 from pretrained weights (0.0003 for a network without
    BatchNorm); SGD 0.05 and 0.01; few-shot finetuning 0.0002 and 0.001."""
    weight_decay: Annotated[float, Bounds(0.0), Auto] = AUTO
    """Applied to weight matrices and kernels only, not to norms and biases; auto: 0.05 for AdamW, 0.0005 for SGD."""
    schedule: Literal["cosine", "step", "one-cycle", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: Annotated[float, Bounds(0.0, 0.9)] = 0.1
    """Share of all steps in which the learning rate rises (for one-cycle: up to the peak)."""
    head_warmup: Annotated[float, Bounds(0.0, 0.9)] = 0.0
    """Share of all steps at the start in which only the last layer, and what the method adds, learn; the rest of the
    network, its BatchNorm statistics included, waits and has a warm-up of its own after it."""
    milestones: tuple[Annotated[float, Bounds(0.0, 1.0)], ...] = (0.6, 0.8)
    """Shares of the training at which schedule step multiplies the learning rate by train.decay."""
    decay: Annotated[float, Bounds(0.0, 1.0)] = 0.1
    """Factor of the learning rate at each milestone of schedule step."""
    lr_min: NonNegative = 0.0
    """Learning rate at which schedule cosine ends."""
    half_cycles: Count = 1
    """Half-waves of schedule cosine: 1 goes down once, 3 goes down, up and down again."""
    clip_norm: Annotated[float, Bounds(1e-6)] | None = 5.0
    """Gradient norm above which gradients are scaled down; none: they never are."""
    ema: Annotated[float, Bounds(0.0, 0.99999)] | None = None
    """Keep the exponential moving average of the student's weights, with this factor at each step, as in 0.99 (less in
    the first steps): it is what is validated and saved."""
    label_smoothing: Annotated[float, Bounds(0.0, 0.99)] = 0.0
    """Label smoothing of the cross-entropy term."""
    logit_adjustment: NonNegative = 0.0
    """Balanced softmax for long tails: the cross-entropy sees each logit raised by this many times the log of its
    class's training images; 1 is usual."""
    sampling: Literal["natural", "square-root", "class-balanced"] = "natural"
    """How often a class is drawn in an epoch: as often as it has images, as the root of that, or as often as any
    other."""
    class_weights: Literal["none", "square-root", "inverse"] = "none"
    """Weights of the cross-entropy of each class: none, one over the root of its training images, or one over their
    number."""
    precision: Annotated[Literal["fp32", "bf16"], Auto] = AUTO
    """fp32 or bf16; auto: on a CPU bf16 if a timed step is at least a fifth faster in it, on a GPU bf16 where the
    hardware has it."""
    channels_last: Annotated[bool, Auto] = AUTO
    """Keep channels last in memory, which makes convolutions faster."""
    sync_batch_norm: bool = False
    """BatchNorm layers of the student see the batch of all processes (SyncBatchNorm), not each their own part; GPUs
    only."""
    checkpoint: Literal["keep", "drop"] = "keep"
    """What becomes of checkpoints/last.pt, which is about three times as large as the student, when the run is
    finished."""


def _group(kind: type, words: str, main: str = "") -> Any:
    """A group of settings: what it is about, and its main field, which the command line calls like the group."""
    return field(default_factory=kind, metadata={"words": words, "main": main})


@dataclass(frozen=True)
class Config:
    data: DataConfig = _group(DataConfig, "Which images are trained on, and how they are split and varied.", "source")
    student: StudentConfig = _group(StudentConfig, "The network that is trained.", "name")
    teacher: TeacherConfig = _group(TeacherConfig, "The network that it learns from.", "id")
    train: TrainConfig = _group(TrainConfig, "Length, batch size, optimiser and precision.")
    prompts: PromptsConfig = _group(PromptsConfig, "Calibrated prompts: --teacher.head prompt, and pand.")
    shots: ShotsConfig = _group(ShotsConfig, "Few-shot learning of novel classes, with openvocab or dual.", "count")
    method: str = "kd"
    """How the student is taught: a method id, or a sum such as kd+other:0.5."""
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options of each method by its id; on the command line --ID.OPTION."""
    seed: Annotated[int, Bounds(0)] = 0
    """Drives initialisation, order and dropout."""
    export: bool = True
    """Write model.onnx at the end."""
    opset: Annotated[int, Bounds(1)] | None = None
    """Version of the ONNX operators in model.onnx; by default torch's choice."""
    logger: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """Where the numbers of each epoch go beside metrics.jsonl."""


GROUPS: dict[str, type] = {
    spec.name: spec.default_factory  # type: ignore[misc]
    for spec in dataclasses.fields(Config)
    if "words" in spec.metadata
}


AUTOMATIC = {  # the settings that may be left open, by dotted name
    f"{group}.{name}"
    for group, kind in GROUPS.items()
    for name, hint in typing.get_type_hints(kind, include_extras=True).items()
    if Auto in typing.get_args(hint)
}


EARLIER = {"student": {"jpeg": "full"}}  # what runs did whose settings do not say it yet
