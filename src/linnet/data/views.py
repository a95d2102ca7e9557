"""Views: random crops, flips, turns and colours whose parameters are data, so that any network can be shown the same
view again.

Parameters are in normalised coordinates and drawn from (data seed, image digest, view index) alone: not from the
order of images, the batch or the process. :func:`apply` cuts each image's own view, at any output size.

Shapes: B batch.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from linnet.data.images import Fit
from linnet.data.tones import TONES, retone

TRIES = 10  # of torchvision's RandomResizedCrop, before it takes the whole of a square image
IN_CACHE = 2**19  # floating-point numbers that a CPU works on at once: two megabytes
CPU = torch.device("cpu")
BLUR_TAPS = 5  # as in the papers, though a sigma above 2 pixels would need more


class Recipe(NamedTuple):
    """How far a view may go.

    The crop's area (as a share of the largest square in the image) and aspect, the probability of a flip, the largest
    turn in degrees, the largest change of brightness, contrast, saturation (as factors) and hue (in turns of the colour
    circle), and the range of the blur's sigma in pixels of the view.

    With ``squash`` the crop is a share of the whole image, squashed to a square: its side is uniform, not its area, and
    it lies within a first random crop whose side is ``frame`` of the image's.

    With ``resized_crop`` it is torchvision's RandomResizedCrop of the whole image, squashed to a square of so many
    pixels a side: a crop of that area and aspect, in whole pixels; one that does not fit is drawn again.

    With ``pad`` = (n, m) the largest square is moved by -n .. n steps of 1/m of its side, across and down: whole pixels
    if the side is a multiple of m. What lies outside the image is its mirror image, or ``black``. ``fit`` says what
    views are cut from: images of the network's own size ("eval"), or somewhat larger ones ("train").

    With ``one_change`` each view has one of the :data:`CHANGES`, of any strength, instead of turn, colour and blur.

    ``version`` is raised when the parameters or the pixels change: cached answers of a teacher about views and the
    resuming of a run depend on it.
    """

    area: tuple[float, float] = (1.0, 1.0)
    aspect: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    angle: float = 0.0
    colour: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    blur: tuple[float, float] = (0.0, 0.0)
    squash: bool = False
    frame: float = 1.0
    resized_crop: int = 0
    pad: tuple[int, int] = (0, 1)
    black: bool = False
    fit: Fit = "train"
    one_change: bool = False
    version: int = 1


# What one_change chooses from, with the range of its strength: degrees, sideways per length, factors, and what
# :mod:`linnet.data.tones` knows.
CHANGES: dict[str, tuple[float, float]] = {
    "none": (0, 0),
    "turn": (-30, 30),
    "shear across": (-0.3, 0.3),
    "shear down": (-0.3, 0.3),
    "brightness": (0.1, 1.9),
    "contrast": (0.1, 1.9),
    "saturation": (0.1, 1.9),
    "sharpness": (0.1, 1.9),
    "posterize": (8, 4),
    "solarize": (1, 0),
    "autocontrast": (0, 0),
    "equalize": (0, 0),
}

RECIPES: dict[str, Recipe] = {
    "none": Recipe(),
    "light": Recipe(area=(0.7, 1.0), aspect=(0.9, 1.1), flip=0.5),
    # Li et al., ICCV 2023: the image squashed to 256 x 256, torchvision's RandomResizedCrop and a flip.
    # Deviation: each image has a crop of its own (theirs: one for the whole batch); one bilinear resampling of the
    # training image (at most twice as long as wide) instead of two.
    "paper:openvocab": Recipe(area=(0.08, 1.0), aspect=(3 / 4, 4 / 3), flip=0.5, resized_crop=256, version=2),
    "standard": Recipe(area=(0.3, 1.0), aspect=(3 / 4, 4 / 3), flip=0.5, angle=15.0, colour=(0.3, 0.3, 0.3, 0.0)),
    # TrivialAugment (Mueller and Hutter, ICCV 2021): one change of a random strength.
    # Deviation: no shifts, which the crop makes; a turn shows what lies around the crop, mirrored beyond the image.
    "trivial": Recipe(area=(0.3, 1.0), aspect=(3 / 4, 4 / 3), flip=0.5, one_change=True),
    # VL2Lite (CVPR 2025) and PAND (arXiv 2602.07768): 256 x 256, a crop of 224, in it a crop of 192 to 224, and so on.
    # Deviation: one bilinear resampling of the training image (at most twice as long as wide) instead of three; crops
    # between pixels; a turn shows what lies around the crop, mirrored beyond the image, not black corners; colour is
    # changed always in the order of colour_B4; blur in pixels of each network's own input, the papers' only at 224.
    "paper:vl2lite": Recipe(
        area=((192 / 256) ** 2, (224 / 256) ** 2),
        flip=0.5,
        angle=60.0,
        colour=(0.3, 0.1, 0.1, 0.1),
        blur=(1e-5, 10.0),
        squash=True,
        frame=224 / 256,
    ),
    # the mdistiller benchmark: 4 black pixels around 32, a crop of 32
    "paper:cifar": Recipe(flip=0.5, pad=(4, 32), black=True, fit="eval"),
    # Deviation: bilinear, where the benchmark takes the nearest pixel
    "paper:tiny-imagenet": Recipe(flip=0.5, angle=20.0, black=True, fit="eval"),
    # FiGKD's author (code of R2KD): 8 black pixels around 64, a crop of 64
    "paper:tiny-imagenet-crop": Recipe(flip=0.5, pad=(8, 64), black=True, fit="eval"),
}


class ViewParameters(NamedTuple):
    """One view of each of B images.

    ``box_B4``: left, top, width, height as shares of the image. ``flip_B``: mirrored. ``angle_B``: degrees,
    counter-clockwise. ``colour_B4``: factors of brightness, contrast and saturation, and a shift of the hue in turns
    (-0.5 to 0.5). ``blur_B``: sigma in pixels of the view, 0 for none. ``squash_B``: turned after the box was squashed
    to a square, not before. ``black_B``: black outside the image, not mirrored. ``shear_B2``: how far it leans, across
    for each step down, and down for each step across. ``tone_B``: a number of :data:`linnet.data.tones.TONES`, with its
    ``strength_B``.
    """

    box_B4: np.ndarray
    flip_B: np.ndarray
    angle_B: np.ndarray
    colour_B4: np.ndarray
    blur_B: np.ndarray
    squash_B: np.ndarray
    black_B: np.ndarray
    shear_B2: np.ndarray
    tone_B: np.ndarray
    strength_B: np.ndarray


def draw(name: str, digests: np.ndarray, shapes: np.ndarray, view: int, seed: int) -> ViewParameters:
    """Parameters of view number ``view`` of each image.

    Args:
        digests: (B, d) uint8 image hashes. shapes: (B, 2) heights and widths, for the aspect of the crop.
    """
    recipe = RECIPES[name]
    uniform = np.stack([rng.random(15 + 2 * (TRIES - 1)) for rng in generators(digests, view, seed)])
    side = shapes.min(axis=1) / shapes.T[::-1]  # the largest square, as shares of width and height
    if recipe.squash:
        low, high = np.sqrt(recipe.area)
        width = height = low + (high - low) * uniform[:, 0]
    elif recipe.resized_crop:
        width, height = _resized_crop(recipe, np.concatenate([uniform[:, :2], uniform[:, 13:-2]], axis=1))
    else:
        width, height = np.minimum(1, _sides(recipe, uniform[:, 0], uniform[:, 1]) * side)
    centred = name == "none" or recipe.fit == "eval"  # the centre square, as in evaluation
    place = 0.5 if centred else uniform[:, 2:4].T
    if recipe.resized_crop:
        free = recipe.resized_crop * (1 - np.stack([width, height]))
        place = np.floor(place * (free + 1)) / np.maximum(free, 1)
    left, top = (1 - recipe.frame) * uniform[:, 11:13].T + (recipe.frame - np.stack([width, height])) * place
    steps, per_side = recipe.pad
    across, down = (np.floor(uniform[:, 2:4].T * (2 * steps + 1)) - steps) / per_side * side
    left, top = left + across, top + down
    view_parameters = ViewParameters(
        np.stack([left, top, width, height], axis=1),
        uniform[:, 4] < recipe.flip,
        recipe.angle * (2 * uniform[:, 5] - 1),
        np.array([1, 1, 1, 0]) + np.array(recipe.colour) * (2 * uniform[:, 6:10] - 1),
        recipe.blur[0] + (recipe.blur[1] - recipe.blur[0]) * uniform[:, 10],
        np.full(len(uniform), recipe.squash),
        np.full(len(uniform), recipe.black),
        np.zeros((len(uniform), 2)),
        np.zeros(len(uniform), dtype=np.int64),
        np.zeros(len(uniform)),
    )
    return _changed(view_parameters, *uniform[:, -2:].T) if recipe.one_change else view_parameters


def _changed(view: ViewParameters, for_change: np.ndarray, for_strength: np.ndarray) -> ViewParameters:
    """Views with one of the changes each, drawn from two uniform numbers."""
    change_B = np.floor(for_change * len(CHANGES)).astype(int)
    low_B, high_B = np.array(list(CHANGES.values()))[change_B].T
    strength_B = low_B + (high_B - low_B) * for_strength

    def of(name: str, otherwise: float = 0.0) -> np.ndarray:
        return np.where(change_B == list(CHANGES).index(name), strength_B, otherwise)

    factors = [of(name, 1.0) for name in ("brightness", "contrast", "saturation")]
    tones = np.array([TONES.index(name) if name in TONES else 0 for name in CHANGES])
    return view._replace(
        angle_B=of("turn"),
        shear_B2=np.stack([of("shear across"), of("shear down")], axis=1),
        colour_B4=np.stack([*factors, np.zeros(len(change_B))], axis=1),
        tone_B=tones[change_B],
        strength_B=strength_B,
    )


def generators(digests: np.ndarray, view: int, seed: int, *purpose: int) -> Iterator[np.random.Generator]:
    """One for each of (B, d) uint8 image hashes in a view; another one for each purpose."""
    of_views = np.concatenate([_words(number) for number in (seed, view, *purpose)])
    keys = np.concatenate([np.tile(of_views, (len(digests), 1)), np.ascontiguousarray(digests).view("<u4")], axis=1)
    return (np.random.default_rng(key) for key in keys)


def _words(number: int) -> np.ndarray:
    """A number as numpy's generators are seeded with it: 32 bits at a time, the lowest first."""
    return np.frombuffer(number.to_bytes(4 * max(1, math.ceil(number.bit_length() / 32)), "little"), dtype="<u4")


def _sides(recipe: Recipe, for_area: np.ndarray, for_aspect: np.ndarray) -> np.ndarray:
    """Width and height (2, ...) of a crop out of a unit square: a uniform area, the aspect uniform in its logarithm."""
    low, high = np.log(recipe.aspect)
    area = recipe.area[0] + (recipe.area[1] - recipe.area[0]) * for_area
    aspect = np.exp(low + (high - low) * for_aspect)
    return np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)])


def _resized_crop(recipe: Recipe, uniform: np.ndarray) -> np.ndarray:
    """Width and height (2, B) as shares: of several tries (B, 2 x tries) the first that fits in whole pixels, or all of
    the image."""
    tries = np.round(_sides(recipe, uniform[:, ::2], uniform[:, 1::2]) * recipe.resized_crop)
    width_fits, height_fits = (tries > 0) & (tries <= recipe.resized_crop)
    fits = width_fits & height_fits
    first = np.take_along_axis(tries, fits.argmax(axis=1)[None, :, None], axis=2)[:, :, 0]
    return np.where(fits.any(axis=1), first / recipe.resized_crop, 1.0)


def apply(images: Sequence[np.ndarray], view: ViewParameters, size: int, device: torch.device = CPU) -> torch.Tensor:
    """Cut one view out of each image.

    Only what a view shows of its image becomes floating-point numbers, on a CPU a few images at a time: what its cache
    holds.

    Args:
        images: B arrays (height, width, 3) of uint8, of any shapes. device: where the views are cut, and stay.

    Returns:
        (B, 3, size, size) float32 in [0, 1]; what lies outside the image is its mirror image, or black.
    """
    places, (width, height) = _places(view, np.array([image.shape[:2] for image in images]), size, device)
    together = max(1, IN_CACHE // (3 * (size**2 + width * height))) if device.type == "cpu" else len(images)
    steps = (torch.arange(size, device=device) * 2 + 1) / size - 1
    cut = torch.empty(len(images), 3, size, size, device=device)
    for start in range(0, len(images), together):
        part = slice(start, start + together)
        own, out = _Places._make(values[part] for values in places), cut[part]
        seen = np.empty((len(own.window_B4), height, width, 3), dtype=np.uint8)  # what is not written is never shown
        for window, image, (left, top, right, bottom) in zip(seen, images[part], own.window_B4, strict=True):
            window[: bottom - top, : right - left] = image[top:bottom, left:right]
        pixels = torch.from_numpy(seen).to(device).permute(0, 3, 1, 2).float()
        _sample(pixels, own, view.black_B[part], steps, out)
        out.copy_(_recolour(_blur(out, view.blur_B[part]), view.colour_B4[part]))  # nothing, if all was done in place
        retone(out, view.tone_B[part], view.strength_B[part])
    return cut


class _Places(NamedTuple):
    """Where B views lie in the parts of their images that they show.

    ``window_B4``: left, top, right and bottom of that part, in pixels: all of the image, if the view reaches beyond it.
    ``is_inside_B``: the view does not even reach the outer half of the image's outermost pixels, where there is nothing
    to interpolate with.

    The others are (B, 2, 1, 1), x and y in the units of grid_sample, which has an array from -1 to 1: ``centre``;
    ``across`` and ``down``, from the centre to the middle of the right and of the lower edge; ``low`` and ``high``, the
    middles of the image's outermost pixels; ``half``, half a pixel.
    """

    window_B4: np.ndarray
    is_inside_B: np.ndarray
    centre: torch.Tensor
    across: torch.Tensor
    down: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    half: torch.Tensor


def _places(
    view: ViewParameters, shapes: np.ndarray, size: int, device: torch.device
) -> tuple[_Places, tuple[int, int]]:
    """The places, and width and height of an array into which all windows fit."""
    size_B2 = shapes[:, ::-1].astype(float)
    half_B2 = view.box_B4[:, 2:] * size_B2 / 2
    centre_B2 = (view.box_B4[:, :2] + view.box_B4[:, 2:] / 2) * size_B2
    cos, sin = np.cos(np.radians(view.angle_B)), np.sin(np.radians(view.angle_B))
    # a turn of the squashed square is a turn and a stretch of the image
    stretch = np.where(view.squash_B, half_B2[:, 0] / half_B2[:, 1], 1.0)
    across_B2 = half_B2[:, :1] * np.stack([cos, sin / stretch], axis=1)
    down_B2 = half_B2[:, 1:] * np.stack([-sin * stretch, cos], axis=1)
    lean_B2 = view.shear_B2
    across_B2, down_B2 = across_B2 + lean_B2[:, 1:] * down_B2, down_B2 + lean_B2[:, :1] * across_B2
    reach_B2 = (np.abs(across_B2) + np.abs(down_B2)) * (1 - 1 / size)  # to the middle of the pixel in the corner
    low_B2, high_B2 = centre_B2 - reach_B2, centre_B2 + reach_B2
    is_beyond = ((low_B2 < 0) | (high_B2 > size_B2)).any(axis=1, keepdims=True)
    first_B2 = np.where(is_beyond, 0, np.floor(low_B2 - 1).clip(min=0))
    last_B2 = np.where(is_beyond, size_B2, np.ceil(high_B2 + 1).clip(max=size_B2))
    is_inside_B = ((low_B2 >= 0.5) & (high_B2 <= size_B2 - 0.5)).all(axis=1)
    width, height = (last_B2 - first_B2).max(axis=0).astype(int).tolist()
    scale_2 = 2 / np.array([width, height])
    points = [centre_B2 - first_B2, np.where(view.flip_B[:, None], -across_B2, across_B2), down_B2]
    points += [-first_B2 + 0.5, size_B2 - first_B2 - 0.5, np.full_like(size_B2, 0.5)]
    scaled = np.stack(points) * scale_2 - np.array([1, 0, 0, 1, 1, 0])[:, None, None]
    planes = torch.from_numpy(scaled.astype(np.float32)).to(device)[..., None, None]
    return _Places(np.concatenate([first_B2, last_B2], axis=1).astype(int), is_inside_B, *planes), (width, height)


def _sample(pixels: torch.Tensor, places: _Places, black_B: np.ndarray, steps: torch.Tensor, out: torch.Tensor) -> None:
    """What views show, in its own colours.

    Args:
        pixels: (B, 3, height, width) from 0 to 255, the windows. steps: of the view's pixels, from -1 to 1.
        out: (B, 3, size, size), from 0 to 1, to be filled.
    """
    grid = places.centre + places.across * steps + places.down * steps[:, None]
    black = None
    if not places.is_inside_B.all():
        low, high = places.low - places.half, places.high + places.half  # the image's edges
        if black_B.any():
            outside = ((grid < low) | (grid > high)).any(dim=1, keepdim=True)
            black = outside & torch.from_numpy(black_B).to(grid.device)[:, None, None, None]
        grid = high - (high - (low + (grid - low).abs())).abs()  # mirrored
        grid = grid.maximum(places.low).minimum(places.high)
    torch.div(F.grid_sample(pixels, grid.permute(0, 2, 3, 1), align_corners=False), 255, out=out)
    if black is not None:
        out.masked_fill_(black, 0.0)


def _blur(pixels: torch.Tensor, sigma_B: np.ndarray) -> torch.Tensor:
    """Gaussian blur with a sigma per sample, five taps along each axis, reflected at the borders."""
    if not sigma_B.any():
        return pixels
    half = BLUR_TAPS // 2
    offsets = np.arange(-half, half + 1)[:, None] / np.maximum(sigma_B, 1e-5)  # so small a sigma changes no pixel
    bell = np.exp(-0.5 * offsets**2)
    weights = torch.from_numpy((bell / bell.sum(axis=0)).astype(np.float32)).to(pixels.device)[:, :, None, None, None]
    for axis, margin in ((3, (half, half, 0, 0)), (2, (0, 0, half, half))):
        size, padded = pixels.shape[axis], F.pad(pixels, margin, mode="reflect")
        taps = (weights[k] * padded.narrow(axis, k, size) for k in range(BLUR_TAPS))
        pixels = sum(taps, start=torch.zeros_like(pixels))
    return pixels


def _recolour(pixels: torch.Tensor, colour_B4: np.ndarray) -> torch.Tensor:
    """Other colours, for the most part in place."""
    if (colour_B4 == (1, 1, 1, 0)).all():
        return pixels
    brightness, contrast, saturation = (
        torch.from_numpy(colour_B4[:, :3].astype(np.float32)).to(pixels.device).T[:, :, None, None, None]
    )
    pixels.mul_(brightness).clamp_(0, 1)
    mean = _grey(pixels.mean(dim=(2, 3), keepdim=True))
    pixels.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 1)
    grey = _grey(pixels)
    pixels.mul_(saturation).add_(grey * (1 - saturation)).clamp_(0, 1)
    if not colour_B4[:, 3].any():
        return pixels
    from torchvision.transforms.v2.functional import adjust_hue  # takes one shift for a whole batch

    return torch.stack([adjust_hue(image, float(shift)) for image, shift in zip(pixels, colour_B4[:, 3], strict=True)])


def _grey(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 1, height, width)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=pixels.device)
    return (weights @ pixels.flatten(2)).unflatten(1, pixels.shape[2:])[:, None]
