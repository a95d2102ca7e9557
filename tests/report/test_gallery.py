from pathlib import Path

import numpy as np
import torch
from PIL import Image

from linnet.report.gallery import add_row, is_moment


def test_the_gallery_keeps_a_few_epochs():
    assert [epoch for epoch in range(1, 201) if is_moment(epoch, 200)] == [1, 2, 5, 10, 20, 50, 100, 200]
    assert [epoch for epoch in range(1, 8) if is_moment(epoch, 7)] == [1, 2, 5, 7]


def test_a_row_is_added_below_the_earlier_ones(tmp_path: Path):
    folder, picture = tmp_path / "gallery", tmp_path / "gallery.png"
    images = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
    add_row(folder, picture, 2, images)
    add_row(folder, picture, 10, 1 - images)
    assert sorted(path.name for path in folder.iterdir()) == ["epoch-00002.png", "epoch-00010.png"]
    row = np.asarray(Image.open(folder / "epoch-00010.png"))
    assert row.shape == (64, 128, 3)  # small images are enlarged
    assert (row[:, :64] == 255).all() and (row[:, 64:] == 0).all()
    wall = np.asarray(Image.open(picture))
    assert np.array_equal(wall[64:, -128:], row)
    assert np.array_equal(wall[:64, -128:], 255 - row)
