import timm
import torch

from linnet.teachers.base import Teacher, fingerprint


def test_the_convolutions_of_a_teacher_keep_channels_last_and_say_the_same():
    """Faster, and nothing else: the numbers, and what tells one teacher from another."""
    torch.manual_seed(0)
    plain = timm.create_model("resnet10t", num_classes=5).eval()
    images, mark = torch.rand(2, 3, 64, 64), fingerprint(plain)
    expected = plain(images)
    teacher = Teacher("own", plain, lambda image: torch.zeros(3, 64, 64), "")
    weights = [p for p in teacher.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert teacher.fingerprint() == mark
    assert torch.allclose(plain(images), expected, atol=1e-4)
