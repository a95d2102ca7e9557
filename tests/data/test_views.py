from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as torchvision

from linnet.data import views
from linnet.data.images import eval_pixels
from linnet.data.tones import TONES


def digests(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 16)).astype(np.uint8)


def photo(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """Smooth, so that two ways to interpolate must agree."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def one_view(
    image: np.ndarray,
    size: int,
    box=(0, 0, 1, 1),
    flip=False,
    angle=0.0,
    colour=(1, 1, 1, 0),
    blur=0.0,
    squash=False,
    black=False,
    shear=(0.0, 0.0),
    tone="none",
    strength=0.0,
) -> np.ndarray:
    view = views.ViewParameters(
        np.array([box], float),
        np.array([flip]),
        np.array([angle]),
        np.array([colour], float),
        np.array([blur]),
        np.array([squash]),
        np.array([black]),
        np.array([shear], float),
        np.array([TONES.index(tone)]),
        np.array([strength]),
    )
    return views.apply([image], view, size)[0].permute(1, 2, 0).numpy()


# what version 1 draws and cuts: left, top, width, height | angle | brightness, contrast, saturation | pixel (3, 5)
PINNED = {
    "none": [
        ([0.16666666666666669, 0, 0.6666666666666666, 1], 0, (1, 1, 1), (0.75931370, 0.43259826, 0.34754911)),
        ([0, 0.16999999999999998, 1, 0.66], 0, (1, 1, 1), (0.22607997, 0.52745104, 0.36017150)),
    ],
    "light": [
        (
            [0.31728110792327824, 0.01147904518194946, 0.6463068864829179, 0.9565745142366999],
            0,
            (1, 1, 1),
            (0.75831026, 0.96492636, 0.35554338),
        ),
        (
            [0.08224438342196042, 0.10485898059474114, 0.8623064341852892, 0.6286336855233046],
            0,
            (1, 1, 1),
            (0.29391852, 0.36388475, 0.46770450),
        ),
    ],
    "standard": [
        (
            [0.3374770461184738, 0.029714285038556092, 0.6237932098653218, 0.8875901922628969],
            12.871799828595034,
            (0.8084960878201672, 0.9640446852351536, 1.162157321873081),
            (0.50513065, 0.75278997, 0.25015104),
        ),
        (
            [0.19894545237297306, 0.11942752661835537, 0.666925477460131, 0.577038035695434],
            -7.9576499322986125,
            (1.2260567299656104, 1.066849751206722, 1.060535622590386),
            (0.38278884, 0.40165260, 0.48322192),
        ),
    ],
}


@pytest.mark.parametrize("recipe", list(PINNED))
def test_the_views_of_version_1_do_not_change(recipe: str):
    """Cached teacher outputs of replayed views, and every earlier run, stand on these numbers."""
    assert views.RECIPES[recipe].version == 1
    images, shapes = [photo(40, 60, 1), photo(50, 33, 2)], np.array([[40, 60], [50, 33]])
    view = views.draw(recipe, digests(2), shapes, view=3, seed=1)
    pixels = views.apply(images, view, 16)[:, :, 3, 5].numpy()
    for i, (box, angle, colour, pixel) in enumerate(PINNED[recipe]):
        assert view.box_B4[i] == pytest.approx(box, abs=1e-14)
        assert view.angle_B[i] == pytest.approx(angle, abs=1e-14)
        assert view.colour_B4[i] == pytest.approx((*colour, 0), abs=1e-14)
        assert pixels[i] == pytest.approx(pixel, abs=1e-6)
    assert not view.flip_B.any() and not view.blur_B.any() and not view.squash_B.any()


@pytest.mark.parametrize("recipe", list(views.RECIPES))
def test_parameters_depend_on_image_view_and_seed_alone(recipe: str):
    keys, shapes = digests(6), np.tile([40, 60], (6, 1))
    whole = views.draw(recipe, keys, shapes, view=3, seed=1)
    part = views.draw(recipe, keys[[4, 1]], shapes[:2], view=3, seed=1)
    for all_rows, rows in zip(whole, part, strict=True):
        assert np.array_equal(all_rows[[4, 1]], rows)
    if recipe != "none":
        others = [views.draw(recipe, keys, shapes, view=view, seed=seed) for view, seed in ((4, 1), (3, 2))]
        varied = [v.angle_B if recipe == "paper:tiny-imagenet" else v.box_B4[:, 0] for v in (whole, *others)]
        assert not any(np.array_equal(varied[0], other) for other in varied[1:])
        assert len(np.unique(varied[0])) > 1  # one crop for a whole batch would be a known bug of the field


@pytest.mark.parametrize("number", [0, 3, 2**32 - 1, 2**32, 2**70 + 5])
def test_any_seed_gives_the_numbers_that_numpy_gives(number: int):
    """The words of all numbers in one array are what numpy makes of a list of them, in half the time."""
    for seed, view in ((number, 1), (1, number)):
        key = np.concatenate([views._words(seed), views._words(view)])
        assert np.random.default_rng(key).random() == np.random.default_rng([seed, view]).random()


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
    ours = views.apply([image], view, 36)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - eval_pixels(Image.fromarray(image), 36) / 255).max() < 0.01


@pytest.mark.parametrize("recipe", ["standard", "trivial", "paper:vl2lite"])
def test_a_batch_of_different_shapes_gives_what_each_image_gives_alone(recipe: str):
    images = [photo(40, 60, 1), photo(50, 45, 2), photo(33, 70, 3)]
    shapes = np.array([image.shape[:2] for image in images])
    view = views.draw(recipe, digests(3), shapes, view=2, seed=0)
    together = views.apply(images, view, 28)
    for i, image in enumerate(images):
        alone = views.ViewParameters(*[np.asarray(part)[i : i + 1] for part in view])
        assert torch.allclose(together[i], views.apply([image], alone, 28)[0], atol=1e-5)


def test_the_padding_never_shows():
    white = [np.full((20, 30, 3), 255, np.uint8), np.full((40, 40, 3), 255, np.uint8)]
    shapes = np.array([[20, 30], [40, 40]])
    for view in range(20):
        parameters = views.draw("standard", digests(2), shapes, view, seed=0)._replace(
            colour_B4=np.array([[1, 1, 1, 0]] * 2)
        )
        assert views.apply(white, parameters, 24).min() > 0.999


def test_colour_factors():
    image = photo()
    plain = one_view(image, 16)
    assert np.allclose(one_view(image, 16, colour=(0.5, 1, 1, 0)), plain * 0.5, atol=1e-5)
    grey = one_view(image, 16, colour=(1, 1, 0, 0))
    assert np.ptp(grey, axis=2).max() < 1e-5
    flat = one_view(image, 16, colour=(1, 0, 1, 0))
    assert np.ptp(flat) < 1e-5
    bright = one_view(image, 16, colour=(1.3, 1.3, 1.3, 0))
    assert 0 <= bright.min() <= bright.max() <= 1


# ----------------------------------------------------------------------------------------------------- paper:openvocab


def test_boxes_of_li_et_al_are_those_of_torchvisions_random_resized_crop():
    """Of many draws in a square of 256 pixels: the same areas, widths and heights, in the mean and in the tails. Clipped
    instead of drawn again, the mean area would be .534 instead of .478."""
    count, square = 20_000, torch.zeros(3, 256, 256)
    view = views.draw("paper:openvocab", digests(count), np.tile([40, 60], (count, 1)), view=0, seed=0)
    left, top, width, height = view.box_B4.T
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [RandomResizedCrop.get_params(square, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    their_top, their_left, their_height, their_width = np.array(drawn).T / 256
    assert all(np.allclose(part * 256, np.round(part * 256)) for part in (left, top, width, height))
    for ours, theirs in (
        (width * height, their_width * their_height),
        (width, their_width),
        (height, their_height),
        (width / height, their_width / their_height),
        (left, their_left),
        (top, their_top),
    ):
        spread = np.sqrt((ours.var() + theirs.var()) / count)
        assert abs(ours.mean() - theirs.mean()) < 4.5 * spread
        for share in (0.1, 0.25, 0.5, 0.75, 0.9):  # as many below a bound, which lies between two pixels
            bound = np.quantile(theirs, share)
            below = [(values <= bound).mean() for values in (ours, theirs)]
            assert abs(below[0] - below[1]) < 4.5 * np.sqrt(2 * share * (1 - share) / count)
    assert (width * height).mean() == pytest.approx(0.478, abs=0.008)
    assert ((left >= 0) & (top >= 0) & (left + width <= 1 + 1e-12) & (top + height <= 1 + 1e-12)).all()
    assert 0.48 < view.flip_B.mean() < 0.52


def test_a_crop_that_never_fits_is_the_whole_image():
    recipe = views.RECIPES["paper:openvocab"]
    none, last = np.full((1, 20), 1.0), np.full((1, 20), 1.0)
    last[0, 18:] = (0.5, 0.5)  # the tenth try: a share of .54, as wide as high
    assert views._resized_crop(recipe, none).ravel().tolist() == [1.0, 1.0]
    assert views._resized_crop(recipe, last).ravel() == pytest.approx(np.sqrt(0.54), abs=1 / 256)


def test_a_crop_of_li_et_al_is_that_of_the_squashed_image():
    image = photo(40, 70)
    view = views.draw("paper:openvocab", digests(1), np.array([[40, 70]]), view=0, seed=0)
    left, top, width, height = 256 * view.box_B4[0]
    squashed = Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC)
    box = (left, top, left + width, top + height)
    expected = np.asarray(squashed.resize((64, 64), Image.Resampling.BILINEAR, box=box)) / 255
    ours = views.apply([image], view, 64)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - (expected[:, ::-1] if view.flip_B[0] else expected)).max() < 0.03


# ------------------------------------------------------------------------------------------------------- paper:vl2lite


def test_nested_crops_stay_inside_and_take_the_aspect_of_the_image():
    shapes = np.tile([[40, 60], [90, 50]], (500, 1))
    view = views.draw("paper:vl2lite", digests(1000), shapes, view=0, seed=0)
    corner, side = view.box_B4[:, :2], view.box_B4[:, 2:]
    assert (corner >= 0).all() and (corner + side <= 1 + 1e-12).all()
    assert np.array_equal(side[:, 0], side[:, 1])  # equal shares of width and height: the aspect is the image's
    assert 192 / 256 <= side.min() < 194 / 256 and 222 / 256 < side.max() <= 224 / 256
    free = corner / (1 - side)
    assert free.min() < 0.05 and free.max() > 0.95  # the outer crop moves, too
    assert free.std() < 0.25  # and so the sum of two moves is not uniform (0.29)


def test_ranges_of_the_paper_recipe():
    view = views.draw("paper:vl2lite", digests(1000), np.tile([40, 60], (1000, 1)), view=0, seed=0)
    low, high = view.colour_B4.min(axis=0), view.colour_B4.max(axis=0)
    assert low == pytest.approx([0.7, 0.9, 0.9, -0.1], abs=0.01)
    assert high == pytest.approx([1.3, 1.1, 1.1, 0.1], abs=0.01)
    assert (np.abs(view.angle_B).max(), view.blur_B.min(), view.blur_B.max()) == pytest.approx((60, 0, 10), abs=0.2)
    assert view.blur_B.min() >= 1e-5
    assert 0.45 < view.flip_B.mean() < 0.55


def test_a_squashed_crop_is_that_of_the_squashed_image():
    image = photo(40, 70)
    squashed = Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC)
    expected = squashed.resize((64, 64), Image.Resampling.BILINEAR, box=(32, 20, 232, 220))
    ours = one_view(image, 64, box=(32 / 256, 20 / 256, 200 / 256, 200 / 256), squash=True)
    assert np.abs(ours - np.asarray(expected) / 255).max() < 0.02


def test_a_squashed_image_is_turned_after_it_was_squashed():
    image = photo(40, 70)
    ours = one_view(image, 64, angle=90.0, squash=True)
    assert np.allclose(ours, np.rot90(one_view(image, 64)), atol=1e-4)
    theirs = torchvision.rotate(torch.from_numpy(one_view(image, 64)).permute(2, 0, 1), 30.0, interpolation=torchvision.InterpolationMode.BILINEAR)  # fmt: skip
    inside = slice(20, 44)  # away from the black corners
    ours = one_view(image, 64, angle=30.0, squash=True)
    assert np.abs(ours - theirs.permute(1, 2, 0).numpy())[inside, inside].max() < 0.01


@pytest.mark.parametrize("sigma", [1e-5, 0.4, 1.5, 9.0])
def test_blur_is_that_of_torchvision(sigma: float):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    theirs = torchvision.gaussian_blur(torch.from_numpy(one_view(noise, 24)).permute(2, 0, 1), [5, 5], [sigma, sigma])
    assert np.allclose(one_view(noise, 24, blur=sigma), theirs.permute(1, 2, 0).numpy(), atol=1e-5)


def test_colours_are_those_of_torchvision():
    image = photo()
    expected = torch.from_numpy(one_view(image, 24)).permute(2, 0, 1)
    for adjust, value in (("brightness", 1.2), ("contrast", 0.8), ("saturation", 1.3), ("hue", -0.08)):
        expected = getattr(torchvision, f"adjust_{adjust}")(expected, value)
    ours = one_view(image, 24, colour=(1.2, 0.8, 1.3, -0.08))
    assert np.allclose(ours, expected.permute(1, 2, 0).numpy(), atol=1e-3)  # they round the weights of grey


def test_blur_and_hue_are_those_of_each_sample():
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    shapes = np.tile([24, 24], (3, 1))
    view = views.draw("none", digests(3), shapes, view=0, seed=0)
    view.blur_B[:] = (0, 3, 0)
    view.colour_B4[:, 3] = (0, 0, 0.1)
    pixels = views.apply([image] * 3, view, 24).permute(0, 2, 3, 1).numpy()
    assert np.allclose(pixels[0], one_view(image, 24), atol=1e-5)
    assert np.allclose(pixels[1], one_view(image, 24, blur=3.0), atol=1e-5)
    assert np.allclose(pixels[2], one_view(image, 24, colour=(1, 1, 1, 0.1)), atol=1e-5)
    assert np.abs(pixels[1] - pixels[0]).max() > 0.1 and np.abs(pixels[2] - pixels[0]).max() > 0.1


@pytest.mark.parametrize(("recipe", "side", "pad"), [("paper:cifar", 32, 4), ("paper:tiny-imagenet-crop", 64, 8)])
def test_small_images_are_padded_cropped_and_flipped_to_the_last_bit(recipe: str, side: int, pad: int):
    """The benchmarks' views: black pixels all around, a random crop, mirrored or not; nothing is interpolated."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (side, side, 3)).astype(np.uint8) for _ in range(300)]
    shapes = np.full((300, 2), side)
    view = views.draw(recipe, digests(300), shapes, view=0, seed=0)
    cut = views.apply(images, view, side).permute(0, 2, 3, 1).numpy() * 255
    places = set()
    for image, shown, box, flip in zip(images, cut, view.box_B4, view.flip_B, strict=True):
        left, top = round(side * box[0]) + pad, round(side * box[1]) + pad
        expected = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))[top : top + side, left : left + side]
        assert np.allclose(shown, expected[:, ::-1] if flip else expected, atol=1e-2)
        places |= {("left", left), ("top", top)}
    assert places == {(edge, place) for edge in ("left", "top") for place in range(2 * pad + 1)}
    assert 0.4 < view.flip_B.mean() < 0.6


def test_paper_tiny_imagenet_turns_the_whole_image_and_leaves_black_corners():
    shapes = np.full((300, 2), 64)
    view = views.draw("paper:tiny-imagenet", digests(300), shapes, view=0, seed=0)
    assert (view.box_B4 == [0, 0, 1, 1]).all()
    assert -20 <= view.angle_B.min() < -18 < 18 < view.angle_B.max() <= 20
    image = photo(64, 64)
    ours = one_view(image, 64, angle=15.0, black=True)
    channels_first = torch.from_numpy(image.copy()).permute(2, 0, 1)
    theirs = torchvision.rotate(channels_first, 15.0, torchvision.InterpolationMode.BILINEAR)
    theirs = theirs.permute(1, 2, 0).numpy() / 255
    assert np.abs(ours - theirs)[12:52, 12:52].max() < 0.01
    assert (ours[0, 0] == 0).all()
    black = [(pixels == 0).all(axis=2).mean() for pixels in (ours, theirs)]
    assert black[0] == pytest.approx(black[1], abs=0.03)  # torchvision mixes black into the pixels of the edge
    assert black[1] > 0.05


@pytest.mark.parametrize("recipe", ["paper:cifar", "paper:tiny-imagenet", "paper:tiny-imagenet-crop"])
def test_a_padded_view_is_the_same_view_at_every_size(recipe: str):
    """A teacher of another size is shown what the student sees."""
    image = photo(64, 64)
    small, large = (
        np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) for side in (64, 96)
    )
    cut = []
    for pixels in (small, large):
        shapes = np.array([pixels.shape[:2]])
        cut.append(views.apply([pixels], views.draw(recipe, digests(1), shapes, 3, 0), 64))
    assert (cut[0] - cut[1]).abs().mean() < 0.01


def test_trivial_changes_one_thing_of_any_strength():
    """Each kind about as often as any other, over its whole range, and never two at once."""
    count = 6000
    view = views.draw("trivial", digests(count), np.tile([40, 60], (count, 1)), view=0, seed=0)
    changed = {
        "turn": view.angle_B != 0,
        "shear across": view.shear_B2[:, 0] != 0,
        "shear down": view.shear_B2[:, 1] != 0,
        **{name: view.colour_B4[:, i] != 1 for i, name in enumerate(("brightness", "contrast", "saturation"))},
        **{name: view.tone_B == i for i, name in enumerate(TONES) if name != "none"},
    }
    assert set(changed) == set(views.CHANGES) - {"none"}
    assert np.sum(list(changed.values()), axis=0).max() == 1
    for name, is_changed in changed.items():
        assert 0.7 / len(views.CHANGES) < is_changed.mean() < 1.3 / len(views.CHANGES), name
        low, high = sorted(views.CHANGES[name])
        strength_B = view.strength_B[is_changed]
        assert strength_B.min() >= low
        assert strength_B.max() <= high
        assert np.ptp(strength_B) >= 0.95 * (high - low)
    assert (view.blur_B == 0).all()
    assert (view.colour_B4[:, 3] == 0).all()


@pytest.mark.parametrize(
    ("tone", "strength", "expected"),
    [
        ("sharpness", 1.7, lambda image: torchvision.adjust_sharpness(image, 1.7)),
        ("posterize", 4.4, lambda image: torchvision.posterize(image, 4)),
        ("solarize", 0.5, lambda image: torchvision.solarize(image, 128)),
        ("autocontrast", 0.0, torchvision.autocontrast),
        ("equalize", 0.0, torchvision.equalize),
    ],
)
def test_tones_are_those_of_torchvision(tone: str, strength: float, expected: Callable):
    """Of whole numbers from 0 to 255, which it rounds once or twice."""
    noise = np.random.default_rng(0).integers(0, 40, (32, 32, 3))  # something to sharpen
    image = (30 + 0.6 * photo(32, 32) + noise).astype(np.uint8)
    theirs = expected(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy() / 255
    ours = one_view(image, 32, tone=tone, strength=strength)
    assert np.abs(ours - theirs).max() <= 1.5 / 255
    assert np.abs(ours - image / 255).max() > 10 / 255  # it does change something


def test_a_tone_is_that_of_its_own_image():
    images = [photo(32, 32, seed) for seed in range(3)]
    view = views.draw("none", digests(3), np.tile([32, 32], (3, 1)), view=0, seed=0)
    plain = views.apply(images, view, 32)
    view.tone_B[1], view.strength_B[1] = TONES.index("solarize"), 0.0
    cut = views.apply(images, view, 32)
    assert torch.equal(cut[0], plain[0])
    assert torch.allclose(cut[1], 1 - plain[1], atol=1e-6)
    assert torch.equal(cut[2], plain[2])


def test_a_lean_moves_the_lower_half_aside():
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 18:22] = 255  # a post
    leaning = one_view(image, 40, shear=(0.3, 0))
    top, bottom = (np.average(np.arange(40), weights=leaning[row, :, 0]) for row in (0, -1))
    assert top - bottom == pytest.approx(0.3 * 39, abs=0.1)
    level = one_view(image, 40, shear=(0, 0.3))  # a post that stands stays one
    assert np.allclose(level, one_view(image, 40), atol=1e-5)


# ------------------------------------------------------------------------------------------------ how it is computed


def by_hand(image: np.ndarray, view: views.ViewParameters, size: int) -> np.ndarray:
    """The same pixels, but for blur and colour, one at a time in float64."""
    (left, top, width, height), angle = view.box_B4[0], np.radians(view.angle_B[0])
    rows, columns = image.shape[:2]
    side_x, side_y = width * columns, height * rows
    stretch = side_x / side_y if view.squash_B[0] else 1.0
    cut = np.zeros((size, size, 3))
    for i in range(size):
        for j in range(size):
            dx, dy = ((2 * k + 1 - size) / size / 2 * side for k, side in ((j, side_x), (i, side_y)))
            dx = -dx if view.flip_B[0] else dx
            leans_across, leans_down = view.shear_B2[0]
            dx, dy = dx + leans_across * dy * side_x / side_y, dy + leans_down * dx * side_y / side_x
            x = left * columns + side_x / 2 + np.cos(angle) * dx - np.sin(angle) * stretch * dy
            y = top * rows + side_y / 2 + np.sin(angle) / stretch * dx + np.cos(angle) * dy
            if view.black_B[0] and not (0 <= x <= columns and 0 <= y <= rows):
                continue
            x, y = (min(max(end - abs(end - abs(at)), 0.5), end - 0.5) - 0.5 for at, end in ((x, columns), (y, rows)))
            x0, y0 = int(x), int(y)
            x1, y1 = min(x0 + 1, columns - 1), min(y0 + 1, rows - 1)
            upper, lower = (image[k, x0] + (x - x0) * (image[k, x1] / 1.0 - image[k, x0]) for k in (y0, y1))
            cut[i, j] = upper + (y - y0) * (lower - upper)
    return cut / 255


@pytest.mark.parametrize("in_cache", [1, views.IN_CACHE])
@pytest.mark.parametrize("recipe", list(views.RECIPES))
def test_every_pixel_is_the_one_that_is_computed_by_hand(recipe: str, in_cache: int, monkeypatch: pytest.MonkeyPatch):
    """Cut from a part of the image or from all of it, one image at a time or several."""
    monkeypatch.setattr(views, "IN_CACHE", in_cache)
    images = [photo(30, 47, 1), photo(41, 30, 2), photo(30, 30, 3), photo(64, 31, 4)]
    shapes = np.array([image.shape[:2] for image in images])
    view = views.draw(recipe, digests(4), shapes, view=1, seed=0)
    view.colour_B4[:], view.blur_B[:], view.tone_B[:] = (1, 1, 1, 0), 0, 0
    if recipe == "trivial":
        view.shear_B2[:] = [(0.3, 0), (0, -0.3), (0.2, 0.1), (0, 0)]
    cut = views.apply(images, view, 23).permute(0, 2, 3, 1).numpy()
    for i, image in enumerate(images):
        alone = views.ViewParameters(*(values[i : i + 1] for values in view))
        assert np.abs(cut[i] - by_hand(image, alone, 23)).max() < 1e-4, i


def test_a_view_that_reaches_beyond_its_image_or_not_is_cut_in_one_batch():
    """The parts that are looked at differ in size; neither shows the other's padding."""
    view = views.draw("standard", digests(40), np.tile([30, 44], (40, 1)), view=0, seed=0)
    windows = views._places(view, np.tile([30, 44], (40, 1)), 16, views.CPU)[0].window_B4
    is_whole = (windows == [0, 0, 44, 30]).all(axis=1)
    assert is_whole.any() and not is_whole.all()
    view.colour_B4[:] = (1, 1, 1, 0)
    white = views.apply([np.full((30, 44, 3), 255, np.uint8)] * 40, view, 16)
    assert white.min() > 0.999
