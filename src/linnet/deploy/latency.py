"""How fast a student is on this machine: the one way in which every table measures it."""

from pathlib import Path

import numpy as np

from linnet.deploy.onnx_session import open_session, read_meta
from linnet.timing import median_ms


def image_ms(model: Path, threads: int | None = None) -> float:
    """Milliseconds of one image on the CPU, a batch of one, without decoding: the median of some calls.

    Args:
        model: a model.onnx; or, where there is none, a saved student's folder, which torch computes.
        threads: as many as the runtime takes by itself, if not given.

    Raises:
        UserError: nothing that can be opened lies there.
    """
    if not model.is_dir():
        session = open_session(model, str(model), threads)
        size = read_meta(session, model)["image_size"]
        image = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
        return median_ms(lambda: session.run(None, {"images": image}))
    import torch

    from linnet.students.student import Student

    student, own = Student.load(model).eval(), torch.get_num_threads()
    pixels = torch.rand(1, 3, student.image_size, student.image_size)
    try:
        torch.set_num_threads(threads or own)
        with torch.inference_mode():
            return median_ms(lambda: student(pixels))
    finally:
        torch.set_num_threads(own)
