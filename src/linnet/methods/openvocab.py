"""``openvocab``: a student that lives in its teacher's image-text space and takes class names as text (Li et al., ICCV
2023).

Shapes: B batch, C classes, E teacher embedding width, P context vectors, W token width.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn

from linnet.config import Config
from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.fields import Bounds, Count, NonNegative
from linnet.losses import caption_contrast, embedding_error, image_contrast, nearest_text_kl
from linnet.methods.base import Context, Method, Needs
from linnet.run import model_folder
from linnet.step import Batch, Progress, StudentOutput
from linnet.students.student import Student
from linnet.teachers.base import VisionLanguageTeacher
from linnet.teachers.prompts import initial_context, prompt_templates
from linnet.teachers.texts import ImageTexts, text_vectors
from linnet.text.bank import BANK, TextBank
from linnet.text.classes import first_sentences

log = logging.getLogger("linnet")


@dataclass(frozen=True)
class OpenVocabularyOptions:
    cls_weight: NonNegative = 1.0
    """Weight of the cross-entropy over the training classes' texts."""
    mse_weight: NonNegative = 1.0
    """Weight of the squared distance to the teacher's image embedding."""
    contrast_weight: NonNegative = 1.0
    """Weight of the contrast with the teacher's embeddings of the batch."""
    align_weight: NonNegative = 1.0
    """Weight of the KL between the two networks' distributions over the nearest texts."""
    caption_weight: NonNegative = 0.0
    """Weight of the contrast with the captions of the batch, for data that have captions."""
    temperature: Annotated[float, Bounds(0.001, 100.0)] = 0.07
    """Divides cosines, in training and in the student's own logits."""
    texts: Count = 256
    """Nearest texts over which the KL is taken; all if there are fewer classes."""
    filter: bool = True
    """Take the KL only for images that the teacher classifies correctly."""
    caption_temperature: Annotated[float, Bounds(0.001, 100.0)] | None = None
    """Divides the cosines with captions; none: as they are."""
    learn_prompts: bool = False
    """Learn context vectors before the class texts together with the student (prompts.vectors; the paper's are 8)."""
    align_teacher: Literal["constant", "learned"] | None = None
    """With learn_prompts: whether the KL moves the prompts through the student's distribution alone, or through the
    teacher's too, as in the released code; auto: constant."""


class OpenVocabulary(Method):
    """The student's embedding s, of unit length, follows the teacher's image embedding v and its text embeddings t_c:

    * cls: cross-entropy of softmax(s t_c / T) over the training classes.
    * mse: |s - v|^2.
    * contrast: s_i picks v_i among the batch's, and v_i picks s_i: :func:`linnet.losses.image_contrast`.
    * align: KL of softmax(v t_c / T) and softmax(s t_c / T) over the nearest texts:
      :func:`linnet.losses.nearest_text_kl`.
    * caption: s_i picks its caption among the batch's: :func:`linnet.losses.caption_contrast`.

    Descriptions of classes are the data's (``data.descriptions``); calibrated prompts (``teacher.head: prompt``) can
    take the place of the class texts. Behind learned context vectors a class has one sentence: the first template with
    the first description.

    Reference:
        Li et al.: Distilling Large Vision-Language Model with Out-of-Distribution Generalizability, ICCV 2023, and its
        released code, from which weights, temperature, K and the filter are taken.

    Deviation:
        Optimiser, schedule and length are linnet's defaults for every method; the teacher sees its own view of an
        image by default (theirs: all of it, squashed: ``teacher.views: squash``). Between a class text and its
        description stands ". ". Of two captions of an image the view number chooses one. The KL moves learned prompts
        through the student's side alone by default (``align_teacher``).

    Raises:
        UserError: every weight is 0; captions are asked for and the data have none; ``caption_temperature`` without a
            ``caption_weight``; ``learn_prompts`` with prompts that are calibrated already or without a term that reads
            them; ``align_teacher`` without prompts that are learned.
    """

    summary = "an encoder into the teacher's image-text space: class names as text (Li et al., ICCV 2023)"
    use = "students that take class names as text"
    Options = OpenVocabularyOptions
    needs = Needs(teacher="vlm", head="embedding", labels=True)
    bank_CE: torch.Tensor

    def check_settings(self, config: Config) -> None:
        options = self.options
        weights = ("cls", "mse", "contrast", "align", "caption")
        if not any(getattr(options, f"{name}_weight") for name in weights):
            raise UserError("every weight of openvocab is 0: there is nothing to learn")
        if options.caption_temperature is not None and not options.caption_weight:
            raise UserError(
                "openvocab.caption_temperature has no effect without a caption_weight: add one, or leave it out"
            )
        if options.learn_prompts and config.teacher.head == "prompt":
            raise UserError("use openvocab.learn_prompts or --teacher.head prompt, not both: each learns prompts")
        if options.learn_prompts and config.train.ema is not None:
            raise UserError("train.ema averages the student and not the prompts that it learns: leave one of both out")
        if options.align_teacher == "learned" and not (options.learn_prompts and options.align_weight):
            raise UserError(
                "openvocab.align_teacher learned has no effect without learn_prompts and an align_weight: add them, or "
                "leave it out"
            )
        if options.learn_prompts and not (options.cls_weight or options.align_weight):
            raise UserError("openvocab.learn_prompts has nothing to learn from: raise cls_weight or align_weight")

    def check_data(self, rows: Manifest) -> None:
        if self.options.caption_weight and (rows.texts is None or not all(rows.texts)):
            raise UserError(
                "openvocab.caption_weight needs a caption for every training image: give them with --data.texts FILE, "
                "or leave it out"
            )

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        options, teacher, head = self.options, context.teacher, context.class_head
        assert isinstance(teacher, VisionLanguageTeacher)
        assert head is not None
        assert head.bank_CE is not None
        self.register_buffer("bank_CE", head.bank_CE, persistent=False)
        self.captions: ImageTexts | None = None
        if options.caption_weight:
            assert context.captions is not None
            self.captions = ImageTexts(teacher, context.captions, context.config.teacher.cache)
        self.embed_classes: Callable[[torch.Tensor], torch.Tensor] | None = None
        if options.learn_prompts:
            self._learn_prompts(context, teacher)

    def _learn_prompts(self, context: Context, teacher: VisionLanguageTeacher) -> None:
        """The text tower stays in memory, in a closure: a frozen teacher is no part of the method's state."""
        config, classes = context.config, context.classes
        templates = prompt_templates(config)
        texts = first_sentences(classes, templates)
        generator = torch.Generator().manual_seed(config.seed)
        context_PW = initial_context(teacher, texts, config.prompts.vectors, generator)
        start = config.student.pretrained
        if isinstance(start, Path) and (file := model_folder(start) / BANK).is_file():
            earlier = TextBank.load(file).context_PW  # a student that goes on keeps its prompts
            context_PW = context_PW if earlier is None else torch.from_numpy(earlier)
        log.info("prompts: %d context vectors, learned with the student", len(context_PW))
        self.context_PW = nn.Parameter(context_PW)
        self.templates = templates
        self.embed_classes = lambda context_PW: text_vectors(teacher, classes, templates, context_PW)

    def hand_over(self, student: Student) -> None:
        student.temperature = self.options.temperature
        if self.embed_classes is not None and student.bank is not None:
            with torch.no_grad():
                rows_CE = self.embed_classes(self.context_PW).cpu().numpy()
            context_PW = self.context_PW.detach().cpu().numpy()
            made = replace(student.bank, rows_CE=rows_CE, templates=self.templates, context_PW=context_PW)
            student.set_bank(made)

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        options = self.options
        assert batch.teacher is not None
        assert batch.teacher.embedding_BE is not None
        assert student.embedding_BE is not None
        student_BE, teacher_BE = F.normalize(student.embedding_BE, dim=1), batch.teacher.embedding_BE.detach()
        bank_CE = self.bank_CE if self.embed_classes is None else self.embed_classes(self.context_PW)
        student_BC = student_BE @ bank_CE.T / options.temperature
        teacher_BC = teacher_BE @ bank_CE.T / options.temperature
        keep_B = teacher_BC.argmax(dim=1) == batch.labels if options.filter else None
        terms = {}
        if options.cls_weight:
            terms["ce"] = options.cls_weight * self.supervised(student_BC, batch)
        if options.mse_weight:
            terms["mse"] = options.mse_weight * embedding_error(student_BE, teacher_BE)
        if options.contrast_weight:
            terms["contrast"] = options.contrast_weight * image_contrast(student_BE, teacher_BE, options.temperature)
        if options.align_weight:
            constant = options.align_teacher != "learned"
            divergence = nearest_text_kl(student_BC, teacher_BC, options.texts, keep_B, constant)
            terms["align"] = options.align_weight * divergence
        if self.captions is not None:
            caption_BE = self.captions.one(batch.index.cpu(), batch.view).to(student_BE)
            contrast = caption_contrast(student_BE, caption_BE, batch.labels, options.caption_temperature)
            terms["caption"] = options.caption_weight * contrast
        return terms
