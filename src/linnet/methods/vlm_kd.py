"""``vlm-kd``: texts about the training images teach a small encoder (VLM-KD, arXiv 2408.16930).

Shapes: B batch, D student width, E width of the text embeddings, M texts of an image.
"""

import logging
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import nn

from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.fields import Bounds, Count, NonNegative
from linnet.losses import softened_kl, text_contrast
from linnet.methods.base import Context, Method, Needs, TeacherNeed
from linnet.step import Batch, Progress, StudentOutput
from linnet.teachers.texts import ImageTexts, told_classes
from linnet.text.classes import ClassInfo, class_sentences
from linnet.text.leakage import Hide, naming_share, without_names
from linnet.text.twins import ADVICE, check_read_apart, warn_of_twins

log = logging.getLogger("linnet")


@dataclass(frozen=True)
class VLMKDOptions:
    text_weight: NonNegative = 0.5
    """Weight of the contrast between images and their texts (lambda_t)."""
    temperature: Annotated[float, Bounds(0.001, 100.0)] = 0.07
    """Divides the cosines of that contrast (tau)."""
    source: Literal["auto", "image", "class"] = "auto"
    """image: the texts of each image; class: the class's descriptions, or its name in the first template; auto: image
    where the data have such texts."""
    texts: Count | None = None
    """Texts of each image that are used, from the first on (M); none: all."""
    hide: Hide = "none"
    """What is cut out of the texts, so that they describe and do not name: nothing, the names of all classes, or every
    word of those names."""
    vision_weight: NonNegative = 0.0
    """Weight of the teacher's softened logits beside the texts; 0: no teacher looks at the images (lambda_v)."""
    vision_temperature: Annotated[float, Bounds(0.01, 1000.0)] = 2.0
    """Softens both distributions of the vision term."""


class VLMKD(Method):
    """CE + text_weight * L_text + vision_weight * T^2 * KL(teacher || student).

    L_text is the mean over an image's texts of :func:`linnet.losses.text_contrast`: the student's pooled features go
    through Linear, ReLU, Linear to the width of a frozen text encoder, and each image picks its own text among those of
    the batch, each text its image; pairs of one class are left out. Images without texts take no part in it. The
    projection and the encoder stay behind after training.

    For a long tail the cross-entropy can be balanced: ``train.logit_adjustment``.

    Reference:
        VLM-KD, arXiv 2408.16930, of which we know that image-specific texts by a vision-language model supervise an
        encoder from scratch by a contrastive loss, beside an optional vision teacher, on long-tailed data.

    Deviation:
        The form of the contrast, the masking of pairs of one class, the projection, both temperatures and all weights
        are linnet's own. ``hide`` and texts of classes are, too.

    Raises:
        UserError: there are no texts, or hiding the names leaves none.
    """

    summary = "texts about the images, written by a VLM, supervise a small encoder (VLM-KD, arXiv 2408.16930)"
    use = "images with texts about them"
    Options = VLMKDOptions
    needs = Needs(teacher="none", texts=True, labels=True)

    @classmethod
    def teacher_need(cls, options: VLMKDOptions) -> TeacherNeed:
        return "any" if options.vision_weight else "none"

    def check_data(self, rows: Manifest) -> None:
        has_texts = rows.texts is not None and any(rows.texts)
        described = any(info.descriptions for info in rows.classes)
        if self.options.source == "image" and not has_texts:
            raise UserError("vlm-kd.source image needs texts of the images: give them with --data.texts FILE")
        if self.options.source == "auto" and not (has_texts or described):
            raise UserError(
                "vlm-kd needs texts: 'linnet describe DATA --vlm ID --out texts.parquet' writes them for --data.texts; "
                "sentences about the classes can take their place (--data.descriptions FILE), or the names of the "
                "classes (--vlm-kd.source class)"
            )

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        options, encoder = self.options, context.text_encoder
        assert encoder is not None
        captions = context.captions if context.captions is not None and any(context.captions) else None
        of_images = options.source == "image" or (options.source == "auto" and captions is not None)
        if of_images:
            assert captions is not None
            texts = [own[: options.texts] for own in captions]
        else:
            texts = class_texts(context.classes, context.config.teacher.templates, options)
        texts = without_names(texts, context.classes, options.hide)
        if not any(texts):
            raise UserError(f"vlm-kd.hide {options.hide} leaves nothing of the texts: use names or none")
        if not of_images:
            advice = "use --vlm-kd.hide none" if options.hide != "none" else ADVICE
            check_read_apart(encoder.id, context.classes, texts, encoder.tokens, encoder.unknown_token, advice)
        self.texts = ImageTexts(encoder, texts, context.config.teacher.cache)
        self.by_class = not of_images
        self.projection = projection(context.student_width, self.texts.width)
        self.facts: dict[str, Any] = {
            "text_encoder.id": encoder.id,
            "texts.source": "image" if of_images else "class",
            "texts.count": sum(map(len, texts)),
        }
        if of_images:
            self._measure_leakage(texts, context)
        else:
            warn_of_twins(encoder.id, [info.name for info in context.classes], self.texts.means().numpy())

    def _measure_leakage(self, texts: list[tuple[str, ...]], context: Context) -> None:
        """What the texts give away of the class."""
        without, labels = sum(not own for own in texts), context.labels_N
        if without:
            log.warning("%d of %d training images have no text: they take no part in the contrast", without, len(texts))
        named = naming_share(texts, [context.classes[label] if label >= 0 else None for label in labels])
        told, chance = told_classes(self.texts.first(), labels, context.config.data.seed)
        log.info(
            "texts: %.1f %% name their class; from a text alone a linear probe tells the class of %.1f %% of the "
            "images that it was not fitted to (naming the most frequent class: %.1f %%)",
            *(100 * share for share in (named, told, chance)),
        )
        self.facts |= {"texts.naming": named, "texts.probe_top1": told, "texts.probe_chance": chance}

    def about(self) -> dict[str, Any]:
        return self.facts

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        options, device = self.options, student.features_BD.device
        index_B = batch.labels if self.by_class else batch.index
        text_BME, has_BM = (part.to(device) for part in self.texts(index_B.cpu()))
        projected_BE, terms = self.projection(student.features_BD), []
        for text_BE, has_B in zip(text_BME.to(projected_BE).unbind(dim=1), has_BM.unbind(dim=1), strict=True):
            if has_B.any():
                terms.append(
                    text_contrast(projected_BE[has_B], text_BE[has_B], batch.labels[has_B], options.temperature)
                )
        text = torch.stack(terms).mean() if terms else 0.0 * projected_BE.sum()
        result = {"ce": self.cross_entropy(batch, student), "text": options.text_weight * text}
        if options.vision_weight:
            assert batch.teacher is not None
            vision = softened_kl(student.logits_BC, batch.teacher.logits_BC, options.vision_temperature)
            result["vision"] = options.vision_weight * vision
        return result


def class_texts(
    classes: tuple[ClassInfo, ...], templates: tuple[str, ...], options: VLMKDOptions
) -> list[tuple[str, ...]]:
    """What stands for the texts of all images of a class: its descriptions, or its name in the first template."""
    own = [info.descriptions or class_sentences(info, templates[:1]) for info in classes]
    return [tuple(sentences)[: options.texts] for sentences in own]


def projection(student_width: int, text_width: int) -> nn.Sequential:
    """D -> E: Linear, ReLU, Linear."""
    return nn.Sequential(nn.Linear(student_width, student_width), nn.ReLU(), nn.Linear(student_width, text_width))
