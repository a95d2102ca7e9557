import torch
from hand_made import B, text_batch, text_method, text_student

from linnet.step import Progress


def test_pand_without_neighbours_is_vl2lite_to_the_last_bit():
    data, out, schedule = text_batch(), text_student(), {"schedule": "published"}
    for number in range(10):
        pand = text_method("pand", {"nsd_weight": 0.0, **schedule})(data, out, Progress(number, 10))
        vl2lite = text_method("vl2lite", {"text_weight": 1.0, **schedule})(data, out, Progress(number, 10))
        assert pand.pop("nsd") == 0
        assert {name: term.item() for name, term in pand.items()} == {
            name: term.item() for name, term in vl2lite.items()
        }


def test_center_teacher_changes_the_search_only():
    data, out = text_batch(), text_student()
    assert data.teacher is not None
    data.teacher.logits_BC.add_(torch.arange(B, dtype=torch.float64)[:, None] * 30)
    plain = text_method("pand", {"neighbours": 1})(data, out, Progress(0, 10))
    centred = text_method("pand", {"neighbours": 1, "center_teacher": True})(data, out, Progress(0, 10))
    assert plain["nsd"] != centred["nsd"]
    assert torch.equal(plain["text"], centred["text"])
