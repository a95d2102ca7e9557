from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import write_image
from PIL import Image

from linnet.data.digests import digest_files
from linnet.data.images import (
    CropMode,
    decoded_side,
    eval_pixels,
    middle,
    read_image,
    resize_shortest,
    shortest_size,
    train_pixels,
)
from linnet.data.store import Images
from linnet.deploy.inputs import to_rgb
from linnet.errors import UserError


def test_eval_is_shortest_side_and_centre_crop():
    gradient = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    pixels = eval_pixels(Image.fromarray(np.stack([gradient] * 3, axis=2)), 50)
    assert pixels.shape == (50, 50, 3)
    assert abs(float(pixels[:, 25].mean()) - 100) < 3  # the middle of the picture is in the middle
    assert abs(float(pixels[:, 0].mean()) - 51) < 3  # a quarter of the width is cut away on each side


def test_squash_keeps_the_whole_image():
    gradient = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    pixels = eval_pixels(Image.fromarray(np.stack([gradient] * 3, axis=2)), 50, "squash")
    assert pixels.shape == (50, 50, 3)
    assert pixels[:, 0].mean() < 3 and pixels[:, -1].mean() > 196


@pytest.mark.parametrize("mode", ["center", "squash"])
def test_a_share_below_one_cuts_the_middle_out_of_a_larger_image(mode: CropMode):
    """256 for 224, as papers evaluate."""
    image = Image.effect_noise((300, 400), 80).convert("RGB")
    larger = eval_pixels(image, 256, mode)
    assert np.array_equal(eval_pixels(image, 224, mode, 0.875), larger[16:240, 16:240])


@pytest.mark.parametrize("side", [24, 32, 97, 224])
def test_resized_sides_are_those_of_torchvision(side: int):
    """Rounded to the nearest pixel, every second photo would have another size, and other pixels, in timm."""
    from torchvision.transforms.functional import _compute_resized_output_size as theirs

    for width in range(1, 700, 3):
        for height in range(1, 700, 5):
            assert shortest_size((width, height), side) == tuple(theirs((height, width), [side])[::-1])


def test_the_middle_is_that_of_torchvision():
    from torchvision.transforms.functional import center_crop

    for width, height in [(33, 32), (34, 33), (35, 32), (37, 36), (39, 38), (41, 51)]:
        image = Image.effect_noise((width, height), 80)
        assert np.array_equal(np.asarray(middle(image, 32, 32)), np.asarray(center_crop(image, [32, 32])))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_pixel_format_becomes_rgb(tmp_path: Path, mode: str):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new("L", (20, 10), 128).convert(mode).save(path) if mode != "I;16" else Image.new(mode, (20, 10), 9000).save(
        path
    )
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (20, 10))


def test_sixteen_bits_keep_their_range(tmp_path: Path):
    """Clipped to eight bits, such pictures (microscopes, inspection cameras) would be white squares."""
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, 256).repeat(16, axis=0)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    pixels = np.asarray(read_image(tmp_path / "x.png"))
    assert np.abs(pixels[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_a_panorama_does_not_inflate_the_store():
    assert train_pixels(Image.new("RGB", (3000, 100)), 100).shape == (115, 230, 3)
    assert train_pixels(Image.new("RGB", (100, 3000)), 100).shape == (230, 115, 3)
    assert train_pixels(Image.new("RGB", (300, 200)), 100).shape == (115, 172, 3)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 65_000), (65_000, 3)])
def test_of_an_extreme_shape_the_middle_is_read(tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    """Resized as a whole, a thread of pixels would take gigabytes."""
    largest = []
    real = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda own, size, *a: (largest.append(max(size)), real(own, size, *a))[1]
    )
    strip = Image.new("RGB", size)
    left, top = size[0] // 2, size[1] // 2
    strip.paste((255, 255, 255), (max(0, left - 2), max(0, top - 2), left + 2, top + 2))
    strip.save(tmp_path / "x.png")
    assert max(read_image(tmp_path / "x.png").size) <= 16 * min(size)  # what a teacher resizes
    for image in (read_image(tmp_path / "x.png"), to_rgb(strip)):
        assert eval_pixels(image, 32).max() > 200  # the middle is still in it
        assert train_pixels(image, 32).shape[:2] in ((74, 37), (37, 74))
    assert max(largest) <= 16 * 40


def test_a_panorama_is_read_whole(tmp_path: Path):
    Image.new("RGB", (320, 20)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").size == (320, 20)


def test_photos_are_turned_upright(tmp_path: Path):
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held sideways
    image.save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").size == (10, 20)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None):
    path = tmp_path / "bad.jpg"
    if content is None:  # a truncated photo
        whole = write_image(path, (1, 2, 3), seed=0).read_bytes()
        content = whole[: len(whole) // 2]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read the image .*bad.jpg .*replace or remove it"):
        Images([path], digest_files([path]), 32, "eval")


def test_resize_never_makes_a_side_too_short():
    for width in range(30, 60):
        assert min(resize_shortest(Image.new("RGB", (width, 31)), 37).size) == 37


def test_no_torch_is_needed(run_python: Callable[[str], str]):
    assert (
        run_python("import sys, linnet.data.images, linnet.deploy.predictor; print('torch' in sys.modules)") == "False"
    )


def test_a_jpeg_is_decoded_at_twice_what_it_is_resized_to():
    assert decoded_side("eval", 224, 1.0, "scaled") == 448
    assert decoded_side("eval", 224, 0.875, "scaled") == 512
    assert decoded_side("train", 200, 1.0, "scaled") == 460  # with the margin of what views are cut from
    assert decoded_side("eval", 224, 1.0, "full") is None
