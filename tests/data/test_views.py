import numpy as np
import pytest
import torch
from PIL import Image

from linnet.data import views
from linnet.data.images import eval_pixels


def digests(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 16)).astype(np.uint8)


def photo(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """Smooth, so that two ways to interpolate must agree."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def one_view(image: np.ndarray, size: int, box=(0, 0, 1, 1), flip=False, angle=0.0, colour=(1, 1, 1)) -> np.ndarray:
    view = views.ViewParameters(np.array([box], float), np.array([flip]), np.array([angle]), np.array([colour], float))
    return views.apply(views.pad([image]), np.array([image.shape[:2]]), view, size)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("recipe", list(views.RECIPES))
def test_parameters_depend_on_image_view_and_seed_alone(recipe: str):
    keys, shapes = digests(6), np.tile([40, 60], (6, 1))
    whole = views.draw(recipe, keys, shapes, view=3, seed=1)
    part = views.draw(recipe, keys[[4, 1]], shapes[:2], view=3, seed=1)
    for all_rows, rows in zip(whole, part, strict=True):
        assert np.array_equal(all_rows[[4, 1]], rows)
    if recipe != "none":
        assert not np.array_equal(whole.box_B4, views.draw(recipe, keys, shapes, view=4, seed=1).box_B4)
        assert not np.array_equal(whole.box_B4, views.draw(recipe, keys, shapes, view=3, seed=2).box_B4)
        assert len(np.unique(whole.box_B4[:, 0])) > 1  # one crop for a whole batch would be a known bug of the field


def test_crops_stay_inside_and_have_the_promised_area():
    keys, shapes = digests(500), np.tile([40, 60], (500, 1))
    box = views.draw("light", keys, shapes, view=0, seed=0).box_B4
    assert (box >= 0).all()
    assert (box[:, :2] + box[:, 2:] <= 1 + 1e-9).all()
    area = box[:, 2] * box[:, 3]
    square = 40 * 40 / (40 * 60)  # the largest square of the image
    assert 0.6 < area.min() / square < 0.75
    assert 0.9 < area.max() / square <= 1.0 + 1e-9
    flips = views.draw("light", keys, shapes, view=0, seed=0).flip_B
    assert 0.4 < flips.mean() < 0.6


def test_a_crop_is_the_crop_that_pillow_cuts():
    image = photo()
    expected = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR, box=(15, 10, 45, 40))
    ours = one_view(image, 32, box=(15 / 60, 10 / 40, 30 / 60, 30 / 40))
    assert np.abs(ours - np.asarray(expected) / 255).max() < 0.02


def test_flip_mirrors():
    image = photo()
    assert np.allclose(one_view(image, 24, flip=True), one_view(image, 24)[:, ::-1], atol=1e-5)


def test_a_quarter_turn_is_counter_clockwise():
    image = photo(40, 40)
    assert np.allclose(one_view(image, 40, angle=90.0), np.rot90(image) / 255, atol=0.01)


def test_view_none_is_what_evaluation_sees():
    image = photo(36, 50)
    view = views.draw("none", digests(1), np.array([[36, 50]]), view=0, seed=0)
    ours = views.apply(views.pad([image]), np.array([[36, 50]]), view, 36)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - eval_pixels(Image.fromarray(image), 36) / 255).max() < 0.01


def test_a_batch_of_different_shapes_gives_what_each_image_gives_alone():
    images = [photo(40, 60, 1), photo(50, 45, 2), photo(33, 70, 3)]
    shapes = np.array([image.shape[:2] for image in images])
    view = views.draw("standard", digests(3), shapes, view=2, seed=0)
    together = views.apply(views.pad(images), shapes, view, 28)
    for i, image in enumerate(images):
        alone = views.ViewParameters(*[np.asarray(part)[i : i + 1] for part in view])
        assert torch.allclose(together[i], views.apply(views.pad([image]), shapes[i : i + 1], alone, 28)[0], atol=1e-5)


def test_the_padding_never_shows():
    white = [np.full((20, 30, 3), 255, np.uint8), np.full((40, 40, 3), 255, np.uint8)]
    shapes = np.array([[20, 30], [40, 40]])
    for view in range(20):
        parameters = views.draw("standard", digests(2), shapes, view, seed=0)._replace(colour_B3=np.ones((2, 3)))
        assert views.apply(views.pad(white), shapes, parameters, 24).min() > 0.999


def test_colour_factors():
    image = photo()
    plain = one_view(image, 16)
    assert np.allclose(one_view(image, 16, colour=(0.5, 1, 1)), plain * 0.5, atol=1e-5)
    grey = one_view(image, 16, colour=(1, 1, 0))
    assert np.ptp(grey, axis=2).max() < 1e-5
    flat = one_view(image, 16, colour=(1, 0, 1))
    assert np.ptp(flat) < 1e-5
    bright = one_view(image, 16, colour=(1.3, 1.3, 1.3))
    assert 0 <= bright.min() <= bright.max() <= 1
