"""How much of a dual student's answer is its classifier's: chosen on val."""

import numpy as np
import torch

from linnet.data.batches import eval_batch_size, eval_batches
from linnet.data.store import Images
from linnet.students.student import Student, evaluating
from linnet.students.two_heads import mixed_logits

WEIGHTS = tuple(i / 10 for i in range(11))


def choose_mix(student: Student, images: Images, labels_N: np.ndarray, device: torch.device) -> dict[str, float]:
    """Give the student the weight of its classifier that names most val images right (of equals the one with the
    lowest cross-entropy).

    Returns:
        What the summary says: ``student.mix``, and the val accuracy of either head alone.
    """
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    with evaluating(student):
        for batch in eval_batches(images, eval_batch_size(student.image_size, device)):
            classifier_BC, embedding_BE = student.heads(batch.to(device))
            parts.append((classifier_BC, student.compared(embedding_BE, student.bank_CE)))
        classifier_NC, names_NC = (torch.cat(part) for part in zip(*parts, strict=True))
        truth_N, scores = torch.from_numpy(labels_N).to(device), []
        for weight in WEIGHTS:
            log_p_NC = mixed_logits(classifier_NC, names_NC, student.columns_C, weight)
            top1 = (log_p_NC.argmax(dim=1) == truth_N).double().mean().item()
            scores.append((top1, -torch.nn.functional.nll_loss(log_p_NC, truth_N).item(), weight))
    student.mix = max(scores)[2]
    return {"student.mix": student.mix, "val.names.top1": scores[0][0], "val.classifier.top1": scores[-1][0]}
