"""Students: a timm network that gives logits or an embedding, saved in timm's own layout so that timm loads it too.

Shapes: B batch, C classes, D width of the pooled features, E teacher embedding width.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from linnet.config import Config
from linnet.data.images import CropMode, Jpeg
from linnet.errors import UserError, first_line
from linnet.files import write_atomically
from linnet.processes import seed_everything
from linnet.run import model_folder
from linnet.step import StudentOutput
from linnet.students.network import create_network, find_last_part, make_lowres, normalize_for, watch
from linnet.students.two_heads import mixed_logits
from linnet.students.weights import classifiers, normalisation
from linnet.tensor_files import read_checked, with_checksum
from linnet.text.bank import BANK, TextBank
from linnet.text.classes import ClassInfo

Stem = Literal["auto", "lowres"]


class Student(nn.Module):
    """A timm classifier that takes images in [0, 1] and normalises them itself.

    With a text ``bank`` its last layer gives an embedding in the teacher's space instead of logits; logits are the
    cosines with the rows of the bank, divided by ``temperature``. The bank can be swapped: see :meth:`set_bank`. A
    ``dual`` one gives both: in training its logits are the classifier's, afterwards those of both heads, mixed with the
    weight ``mix`` of the classifier (:func:`linnet.students.two_heads.mixed_logits`).

    Args:
        name: timm architecture. classes: the class table. image_size: side in pixels.
        pretrained: True for timm's weights, False for a random start, a path for those of a file, a run or another
            folder (:func:`linnet.students.weights.find_weights`).
        stem: ``lowres`` sets stride 1 in the first convolution and drops the max-pool.
        crop_mode, crop_pct, jpeg: how whoever evaluates this student makes its input of an image.
        mean, std: of the pixels, where they are not those that the weights expect.
        like: a folder whose weights will be loaded into it.

    Raises:
        UserError: unknown architecture (with a suggestion), weights that cannot be loaded, a stem that cannot be
            changed.
    """

    bank_CE: torch.Tensor
    columns_C: torch.Tensor

    def __init__(
        self,
        name: str,
        classes: tuple[ClassInfo, ...],
        image_size: int,
        pretrained: bool | Path = False,
        stem: Stem = "auto",
        crop_mode: CropMode = "center",
        bank: TextBank | None = None,
        temperature: float = 0.07,
        crop_pct: float = 1.0,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        like: Path | None = None,
        jpeg: Jpeg = "full",
        dual: bool = False,
        mix: float = 0.5,
    ):
        super().__init__()
        self.name, self.classes, self.image_size, self.stem = name, tuple(classes), image_size, stem
        self.crop_mode: CropMode = crop_mode
        self.crop_pct, self.jpeg = crop_pct, jpeg
        self.bank, self.temperature, self.dual, self.mix = bank, temperature, dual, mix
        outputs = (len(classes) if bank is None or dual else 0) + (0 if bank is None else bank.rows_CE.shape[1])
        names = [info.name for info in classes] if bank is None or dual else ()
        self.backbone: Any = create_network(name, outputs, image_size, pretrained, names, like)
        if bank is not None:
            self.set_bank(bank)
        if stem == "lowres":
            make_lowres(self.backbone, name)
        chosen = {"mean": mean, "std": std}
        self.backbone.pretrained_cfg.update({key: value for key, value in chosen.items() if value is not None})
        self.normalize = normalize_for(self.backbone)
        self.last_part, self.width = self._try(outputs)

    def forward(self, images: torch.Tensor, with_maps: bool = False, detached: bool = False) -> StudentOutput:
        """``detached``: the last layer is trained on the features as they are, and does not change them."""
        features_BD, output, maps = watch(self.backbone, self.normalize(images), self.last_part, with_maps, detached)
        if self.bank is None:
            return StudentOutput(features_BD, output, maps=maps)
        classifier, embedding = self._parted(output)
        if self.dual and self.training:
            return StudentOutput(features_BD, classifier, embedding, maps)
        with torch.autocast(output.device.type, enabled=False):
            logits_BC = self.named(classifier, embedding, self.bank_CE, self.columns_C)
        return StudentOutput(features_BD, logits_BC, embedding, maps)

    def heads(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the classifier says (B, C), of width 0 without one, and the embedding (B, E) of any length."""
        return self._parted(watch(self.backbone, self.normalize(images), self.last_part).output_BC)

    def _parted(self, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = len(self.classes) if self.dual else 0
        return output[:, :first].float(), output[:, first:].float()

    def named(
        self,
        classifier_BC: torch.Tensor,
        embedding_BE: torch.Tensor,
        bank_KE: torch.Tensor,
        columns_K: torch.Tensor | None,
    ) -> torch.Tensor:
        """(B, K): logits of the names of a bank, whose places in a dual student's classifier are ``columns_K``."""
        names_BK = self.compared(embedding_BE, bank_KE)
        if not self.dual:
            return names_BK
        assert columns_K is not None
        return mixed_logits(classifier_BC, names_BK, columns_K, self.mix)

    def compared(self, embedding_BE: torch.Tensor, bank_KE: torch.Tensor) -> torch.Tensor:
        """(B, K): cosines of embeddings with the rows of a bank, divided by the temperature."""
        # linear becomes one Gemm in ONNX: a transposed bank would be copied for every image
        return F.linear(F.normalize(embedding_BE, dim=1) / self.temperature, bank_KE)

    def set_bank(self, bank: TextBank) -> None:
        """Name classes with this bank from now on, of the same teacher; the class table stays that of the training.

        Raises:
            UserError: the student has a classifier, or the bank is of another teacher.
        """
        if self.bank is None:
            raise UserError(
                f"this student ({self.name}) has a classifier for its {len(self.classes)} classes and cannot name "
                "others: train one with --method openvocab or dual"
            )
        bank.check_teacher(self.bank.teacher_hash, f"this student ({self.name})")
        device = next(self.backbone.parameters()).device
        self.bank = bank
        self.register_buffer("bank_CE", torch.from_numpy(bank.rows_CE).to(device), persistent=False)
        columns_C = bank.columns([(info.name, info.prompt_name) for info in self.classes])
        self.register_buffer("columns_C", torch.from_numpy(columns_C).to(device), persistent=False)

    def last_parameters(self) -> list[nn.Parameter]:
        """The weights of its last layer, or layers."""
        return [p for name in classifiers(self.backbone) for p in self.backbone.get_submodule(name).parameters()]

    def map_shapes(self) -> tuple[tuple[int, ...], ...]:
        """(channels, height, width) of the feature map of each stage; empty if the network does not tell them."""
        side, device, training = self.image_size, next(self.backbone.parameters()).device, self.training
        with torch.no_grad():
            maps = self.eval()(torch.zeros(1, 3, side, side, device=device), with_maps=True).maps
        self.train(training)
        return tuple(tuple(stage.shape[1:]) for stage in maps)

    def _try(self, outputs: int) -> tuple[str, int]:
        """The part of the network that makes its output of the features (see :func:`find_last_part`), and their width.

        Some networks shrink a small image to nothing, some are no classifiers: better to know now than after the
        teacher has run.
        """
        side, name = self.image_size, self.name
        images = self.normalize(torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)))
        self.eval()
        try:
            with torch.no_grad():
                expected = self.backbone(images)
                last_part = find_last_part(self.backbone, images)
                seen = watch(self.backbone, images, last_part)
        except NotImplementedError as error:
            raise UserError(
                f"the student '{name}' is no image classifier ({first_line(error)}): choose another timm architecture"
            ) from error
        except Exception as error:  # each network has its own way of refusing an image
            settings = self.backbone.pretrained_cfg
            fixed = settings["input_size"][-1] if settings.get("fixed_input_size") else side
            wanted = "choose a larger --student.image-size" if fixed == side else f"give --student.image-size {fixed}"
            raise UserError(
                f"the student '{name}' cannot work at {side} pixels ({first_line(error)}): {wanted} or choose another"
            ) from error
        self.train()
        same = isinstance(expected, torch.Tensor) and expected.shape == seen.output_BC.shape == (1, outputs)
        if not same or not torch.allclose(expected, seen.output_BC, rtol=1e-4, atol=1e-4, equal_nan=True):
            raise UserError(
                f"the student '{name}' does not give {outputs} numbers per image as timm's forward_head tells them: "
                "choose another timm architecture"
            )
        return last_part, seen.features_BD.shape[1]

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors (timm's layout), classes.json, and the text bank if there is one."""
        from safetensors.torch import save
        from timm.models._hub import save_config_for_hf  # save_for_hf would write weights with torch.save by default

        own: dict[str, Any] = {"name": self.name, "stem": self.stem, "image_size": self.image_size}
        own |= {"crop_mode": self.crop_mode, "crop_pct": self.crop_pct, "jpeg": self.jpeg}
        outputs: dict[str, Any] = {"label_names": [info.name for info in self.classes]}
        if self.bank is not None:
            own, outputs = {**own, "temperature": self.temperature}, {}
            own |= {"dual": True, "mix": self.mix, "classes": [info.name for info in self.classes]} if self.dual else {}
            self.bank.save(folder / BANK)
        with tempfile.TemporaryDirectory() as elsewhere:  # timm writes in place: a kill would leave half a file
            save_config_for_hf(
                self.backbone,
                f"{elsewhere}/config.json",
                model_config={**outputs, "linnet": own},
                data_config={
                    "input_size": (3, self.image_size, self.image_size),
                    "crop_pct": self.crop_pct,
                    "crop_mode": self.crop_mode,
                    "interpolation": "bicubic",
                },
            )
            write_atomically(folder / "config.json", Path(elsewhere, "config.json").read_bytes())
        write_atomically(
            folder / "classes.json", json.dumps([info._asdict() for info in self.classes], indent=1, ensure_ascii=False)
        )
        # copies, since some networks hold one tensor under several names, which safetensors does not write
        state = {key: value.detach().cpu().contiguous().clone() for key, value in self.backbone.state_dict().items()}
        write_atomically(folder / "model.safetensors", with_checksum(save(state)))

    @classmethod
    def load(cls, folder: Path) -> "Student":
        """A saved student in evaluation mode.

        Raises:
            UserError: the folder holds no saved student.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            own = json.loads((folder / "config.json").read_bytes())["linnet"]
            rows = json.loads((folder / "classes.json").read_bytes())
            classes = tuple(ClassInfo(**{**row, "descriptions": tuple(row["descriptions"])}) for row in rows)
            # a student with an embedding head has a temperature, and a bank beside it
            bank = TextBank.load(folder / BANK) if "temperature" in own else None
            more = {"bank": bank, "temperature": own.get("temperature", 1.0), "crop_pct": own.get("crop_pct", 1.0)}
            more |= {"jpeg": own.get("jpeg", "full")}  # as older ones saw them
            more |= {"dual": own.get("dual", False), "mix": own.get("mix", 0.5)}
            state = load(read_checked(folder / "model.safetensors")[0])
            start = (own["name"], classes, own["image_size"], False, own["stem"], own["crop_mode"])
            student = cls(*start, **more, like=folder)
            student.backbone.load_state_dict(state)
            student.backbone.pretrained_cfg.update(normalisation(folder))  # not the name's, if it came from a file
            student.normalize = normalize_for(student.backbone)
        except FileNotFoundError as error:
            raise UserError(f"{folder} holds no saved student: is the run finished?") from error
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{folder} holds no student that linnet can read ({first_line(error)})") from error
        return student.eval()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, the mode it had afterwards."""
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        module.train(training)


def check_start(student: Student, folder: Path, novel: Sequence[str]) -> None:
    """Few-shot finetuning goes on from a student of the same teacher that has not seen the novel classes.

    Raises:
        UserError: the student in ``folder`` is another one.
    """
    earlier = Student.load(model_folder(folder))
    if earlier.bank is None or student.bank is None or earlier.dual:
        raise UserError(
            f"the student at {folder} has a classifier: finetune one that was trained with --method openvocab"
        )
    student.bank.check_teacher(earlier.bank.teacher_hash, f"the student at {folder}")
    if seen := {info.name for info in earlier.classes} & set(novel):
        raise UserError(
            f"the student at {folder} was trained on {len(seen)} of the classes that are novel here, such as "
            f"'{min(seen)}': its score on them would mean nothing; give both runs the same --data.novel and --data.seed"
        )


def student_of(
    config: Config, classes: tuple[ClassInfo, ...], bank: TextBank | None = None, dual: bool = False
) -> Student:
    """A new student as a run starts with it.

    Raises:
        UserError: see :class:`Student`.
    """
    own = config.student
    seed_everything(config.seed)
    start = (own.name, classes, own.image_size, own.pretrained, own.stem)
    more = {"crop_pct": own.crop_pct, "mean": own.mean, "std": own.std, "jpeg": own.jpeg, "dual": dual}
    return Student(*start, own.crop_mode, bank, **more)  # type: ignore[arg-type]
