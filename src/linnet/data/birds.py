"""The birds of the aviary: species that look alike, what a picture shows of them, and captions.

A species is a combination of attributes (crown, breast, wings, wing bars, beak, tail, face). Species of one genus
differ in one or two of them. Pose, background, light, occlusion and noise differ from image to image. Half of all
combinations (:func:`is_reserved`) is kept for species; the shipped mini-CLIP is trained on the other half only, so no
species of any aviary was ever seen by it.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

IMAGE_SIZE = 80  # pixels; birds are drawn at twice this size and reduced

RGB = {
    "red": (205, 45, 45),
    "orange": (238, 140, 38),
    "yellow": (242, 220, 70),
    "green": (64, 150, 70),
    "blue": (55, 100, 200),
    "brown": (128, 84, 52),
    "black": (38, 36, 40),
    "white": (240, 240, 236),
}
COLOURS = tuple(RGB)


class Plumage(NamedTuple):
    """What a species looks like. Every field is one attribute that can be read off a picture."""

    crown: str
    crown_shape: str
    breast: str
    pattern: str
    wings: str
    bars: str
    beak: str
    tail: str
    face: str

    def phrases(self) -> list[str]:
        """One noun phrase per visible part, in the fixed order of a prompt name."""
        return [
            f"{self.crown} {self.crown_shape}",
            f"{self.pattern} {self.breast} breast",
            f"{self.wings} wings",
            f"{self.bars} wing {'bar' if self.bars == 'one' else 'bars'}",
            f"{self.beak} beak",
            f"{self.tail} tail",
            f"{self.face} face",
        ]


CHOICES: dict[str, tuple[str, ...]] = {
    "crown": COLOURS,
    "crown_shape": ("crown", "crest"),
    "breast": COLOURS,
    "pattern": ("plain", "streaked", "spotted"),
    "wings": COLOURS,
    "bars": ("no", "one", "two"),
    "beak": ("short", "long", "curved"),
    "tail": ("short", "long", "forked"),
    "face": ("plain", "masked", "browed"),
}

BACKGROUNDS = {  # name -> (top colour, bottom colour)
    "sky": ((150, 190, 235), (215, 230, 245)),
    "meadow": ((170, 200, 150), (110, 150, 70)),
    "forest": ((60, 85, 55), (35, 55, 35)),
    "water": ((120, 165, 190), (60, 110, 150)),
    "sand": ((225, 210, 170), (190, 165, 120)),
    "dusk": ((120, 90, 130), (220, 150, 110)),
    "snow": ((225, 230, 238), (200, 208, 220)),
    "rock": ((140, 135, 130), (95, 92, 90)),
}


def seeded(*key: object) -> np.random.Generator:
    """A generator that depends on nothing but ``key``: the same on every machine and in every order."""
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def is_reserved(plumage: Plumage) -> bool:
    """Whether this combination is kept for species (one half) or for training the mini-CLIP (the other half)."""
    return hashlib.sha256("|".join(plumage).encode()).digest()[0] % 2 == 0


def random_plumage(rng: np.random.Generator, reserved: bool) -> Plumage:
    """A uniformly drawn combination out of one of the two halves."""
    while True:
        plumage = Plumage(**{name: str(rng.choice(values)) for name, values in CHOICES.items()})
        if is_reserved(plumage) == reserved:
            return plumage


def mutate(plumage: Plumage, rng: np.random.Generator, changes: int) -> Plumage:
    """The same bird with exactly ``changes`` attributes replaced by other values."""
    names = rng.choice(list(CHOICES), size=changes, replace=False)
    other = {str(n): str(rng.choice([v for v in CHOICES[n] if v != getattr(plumage, n)])) for n in names}
    return plumage._replace(**other)


@dataclass(frozen=True)
class Species:
    name: str
    prompt_name: str
    plumage: Plumage


def prompt_name(plumage: Plumage) -> str:
    *most, last = plumage.phrases()
    return f"bird with {', '.join(most)} and {last}"


def invented_name(rng: np.random.Generator, capital: bool = True) -> str:
    onsets, vowels, ends = (
        ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kr", "pl", "st", "tr"],
        "aeiou",
        ["l", "n", "r", "s", "x", "nd", "rk", "sh"],
    )
    word = "".join(str(rng.choice(onsets)) + str(rng.choice(list(vowels))) for _ in range(2)) + str(rng.choice(ends))
    return word.capitalize() if capital else word


def make_species(count: int, genus_size: int = 6, seed: int = 0) -> list[Species]:
    """``count`` species in genera of ``genus_size``; within a genus each differs from the type species in 1 or 2
    attributes.

    The list for a larger ``count`` starts with the list for a smaller one.
    """
    rng = seeded("species", genus_size, seed)
    species: list[Species] = []
    plumages: set[Plumage] = set()
    names: set[str] = set()
    while len(species) < count:
        if len(species) % genus_size == 0:
            genus_name, ancestor = invented_name(rng, capital=False), random_plumage(rng, reserved=True)
            candidate = ancestor
        else:
            candidate = mutate(ancestor, rng, changes=int(rng.integers(1, 3)))
        while candidate in plumages or not is_reserved(candidate):
            candidate = mutate(ancestor, rng, changes=int(rng.integers(1, 3)))
        name = f"{invented_name(rng)} {genus_name}"
        while name in names:
            name = f"{invented_name(rng)} {genus_name}"
        plumages.add(candidate)
        names.add(name)
        species.append(Species(name, prompt_name(candidate), candidate))
    return species


# ---------------------------------------------------------------------------------------------------- drawing

Points = np.ndarray  # (n, 2), bird coordinates: x forward (to the beak), y down, the body is about 1 long


def _ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> Points:
    angle = np.linspace(0, 2 * math.pi, 28, endpoint=False)
    cos, sin = math.cos(tilt), math.sin(tilt)
    px, py = rx * np.cos(angle), ry * np.sin(angle)
    return np.stack([x + px * cos - py * sin, y + px * sin + py * cos], axis=1)


def _polygon(*points: tuple[float, float]) -> Points:
    return np.array(points, dtype=float)


class _Brush:
    """Draws shapes given in bird coordinates onto the canvas, through the pose and under the light of one image."""

    def __init__(self, canvas: Image.Image, rng: np.random.Generator):
        size = canvas.size[0]
        self.draw = ImageDraw.Draw(canvas)
        self.rng = rng
        scale = size * rng.uniform(0.56, 0.80)
        tilt = math.radians(rng.uniform(-22, 22))
        mirror = 1.0 if rng.random() < 0.5 else -1.0
        rotation = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]])
        self.matrix = scale * rotation @ np.diag([mirror, rng.uniform(0.88, 1.12)])
        self.offset = np.array([size * rng.uniform(0.43, 0.57), size * rng.uniform(0.43, 0.57)])
        self.shift = {name: rng.normal(0, 11, 3) for name in RGB}  # the colour of this individual

    def colour(self, name: str, shade: float = 1.0) -> tuple[int, ...]:
        return tuple(int(v) for v in np.clip((np.array(RGB[name]) + self.shift[name]) * shade, 0, 255))

    def fill(self, points: Points, colour: tuple[int, ...]) -> None:
        self.draw.polygon([tuple(p) for p in points @ self.matrix.T + self.offset], fill=colour)

    def line(self, points: Points, colour: tuple[int, ...], width: float) -> None:
        width_px = max(1, round(width * abs(float(np.linalg.det(self.matrix))) ** 0.5))
        self.draw.line([tuple(p) for p in points @ self.matrix.T + self.offset], fill=colour, width=width_px)


def _draw_background(rng: np.random.Generator, background: str, size: int) -> Image.Image:
    top, bottom = (np.array(c) + rng.normal(0, 14, 3) for c in BACKGROUNDS[background])
    ramp = np.linspace(0, 1, size)[:, None, None]
    rows = (1 - ramp) * top + ramp * bottom
    canvas = Image.fromarray(np.clip(np.broadcast_to(rows, (size, size, 3)), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(4, 12))):  # clutter: leaves, stones, clouds
        x, y, r = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0.03, 0.16) * size
        mix = rng.random()
        colour = np.clip(mix * top + (1 - mix) * bottom + rng.normal(0, 28, 3), 0, 255).astype(int)
        draw.ellipse(
            [x - r, y - r * rng.uniform(0.4, 1), x + r, y + r * rng.uniform(0.4, 1)], fill=tuple(colour.tolist())
        )
    return canvas.filter(ImageFilter.BoxBlur(size * 0.02))


def _draw_tail(brush: _Brush, bird: Plumage) -> None:
    colour = brush.colour(bird.wings, 0.78)
    if bird.tail == "short":
        brush.fill(_polygon((-0.28, -0.04), (-0.46, 0.02), (-0.45, 0.14), (-0.26, 0.13)), colour)
    elif bird.tail == "long":
        brush.fill(_polygon((-0.28, -0.04), (-0.78, 0.10), (-0.76, 0.22), (-0.26, 0.13)), colour)
    else:
        brush.fill(_polygon((-0.28, -0.04), (-0.72, -0.16), (-0.48, 0.07), (-0.70, 0.30), (-0.26, 0.13)), colour)


def _draw_breast(brush: _Brush, bird: Plumage) -> None:
    brush.fill(_ellipse(0.04, 0.09, 0.30, 0.19, -0.25), brush.colour(bird.breast))
    mark = brush.colour("brown" if bird.breast in ("black", "white", "yellow", "orange") else "white", 0.85)
    if bird.breast == "black":
        mark = brush.colour("white", 0.85)
    if bird.pattern == "streaked":
        for x in np.linspace(0.02, 0.26, 5):
            brush.line(_polygon((x, 0.02), (x - 0.05, 0.22)), mark, 0.022)
    elif bird.pattern == "spotted":
        for x in np.linspace(0.00, 0.26, 4):
            for y in (0.05, 0.13, 0.21):
                brush.fill(_ellipse(x - 0.25 * (y - 0.05), y, 0.019, 0.019), mark)


def _draw_wing(brush: _Brush, bird: Plumage) -> None:
    brush.fill(
        _polygon((0.12, -0.10), (0.06, 0.08), (-0.16, 0.15), (-0.46, 0.12), (-0.30, -0.06), (-0.06, -0.14)),
        brush.colour(bird.wings),
    )
    bar = brush.colour("black", 1.3) if bird.wings in ("white", "yellow") else brush.colour("white")
    for i in range(("no", "one", "two").index(bird.bars)):
        x = 0.00 - 0.13 * i
        brush.line(_polygon((x + 0.02, -0.09), (x - 0.06, 0.10)), bar, 0.038)


def _draw_head(brush: _Brush, bird: Plumage) -> None:
    brush.fill(_ellipse(0.26, -0.19, 0.19, 0.175), brush.colour(bird.breast, 0.93))
    crown = brush.colour(bird.crown)
    arc = _ellipse(0.26, -0.20, 0.194, 0.180)
    brush.fill(arc[arc[:, 1] <= -0.205], crown)
    if bird.crown_shape == "crest":
        brush.fill(_polygon((0.38, -0.33), (0.06, -0.56), (0.09, -0.22)), crown)
    if bird.face == "masked":
        mask = _polygon((0.43, -0.235), (0.43, -0.12), (0.18, -0.11), (0.10, -0.17), (0.18, -0.22))
        brush.fill(mask, brush.colour("black", 0.8))
    elif bird.face == "browed":
        shade = brush.colour("white") if bird.crown != "white" else brush.colour("black", 1.2)
        brush.line(_polygon((0.43, -0.235), (0.28, -0.27), (0.09, -0.21)), shade, 0.052)
    brush.fill(_ellipse(0.335, -0.18, 0.03, 0.03), (250, 250, 250) if bird.face == "masked" else (15, 15, 15))
    beak = brush.colour("orange", 0.72)
    if bird.beak == "short":
        brush.fill(_polygon((0.42, -0.26), (0.55, -0.17), (0.42, -0.11)), beak)
    elif bird.beak == "long":
        brush.fill(_polygon((0.42, -0.24), (0.82, -0.175), (0.42, -0.13)), beak)
    else:
        brush.fill(_polygon((0.42, -0.27), (0.60, -0.25), (0.70, 0.02), (0.54, -0.13), (0.42, -0.12)), beak)


def _draw_bird(brush: _Brush, bird: Plumage) -> None:
    for x in (-0.02, 0.07):
        brush.line(_polygon((x, 0.20), (x - 0.02, 0.40)), brush.colour("orange", 0.6), 0.022)
    _draw_tail(brush, bird)
    brush.fill(_ellipse(-0.02, 0.03, 0.36, 0.20, -0.22), brush.colour(bird.wings, 0.90))
    _draw_breast(brush, bird)
    _draw_wing(brush, bird)
    _draw_head(brush, bird)


def draw_bird(plumage: Plumage, background: str, rng: np.random.Generator, image_size: int = IMAGE_SIZE) -> np.ndarray:
    """One image, uint8 (image_size, image_size, 3): the bird in a random pose, light, clutter and noise."""
    size = 2 * image_size
    canvas = _draw_background(rng, background, size)
    brush = _Brush(canvas, rng)
    perch = rng.uniform(-0.1, 0.1)
    brush.line(
        _polygon((-1.2, 0.41 - perch), (1.2, 0.41 + perch)),
        brush.colour("brown", rng.uniform(0.5, 1.1)),
        rng.uniform(0.03, 0.08),
    )
    _draw_bird(brush, plumage)
    for _ in range(int(rng.integers(0, 4))):  # leaves in front of the bird
        angle, radius = rng.uniform(0, 2 * math.pi), rng.uniform(0.15, 0.6)
        leaf = _ellipse(
            radius * math.cos(angle),
            radius * math.sin(angle),
            rng.uniform(0.05, 0.13),
            rng.uniform(0.02, 0.06),
            rng.uniform(0, 3),
        )
        brush.fill(leaf, brush.colour(str(rng.choice(["green", "brown"])), rng.uniform(0.5, 1.1)))
    blur = rng.uniform(0, 0.9)
    small = canvas.filter(ImageFilter.GaussianBlur(blur)).resize((image_size, image_size), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32)
    light = rng.uniform(0.62, 1.22) * (1 + rng.normal(0, 0.06, 3))
    pixels = (pixels - 128) * rng.uniform(0.75, 1.1) + 128
    return np.clip(pixels * light + rng.normal(0, rng.uniform(2, 9), pixels.shape), 0, 255).astype(np.uint8)


def caption(plumage: Plumage, background: str, rng: np.random.Generator) -> str:
    """An exact caption of one image: its parts in random order, some left out, and where the bird is."""
    phrases = plumage.phrases()
    if rng.random() < 0.5:
        rng.shuffle(phrases)
    if rng.random() < 0.3:
        phrases = phrases[: int(rng.integers(3, len(phrases) + 1))]
    *most, last = phrases
    lead = str(
        rng.choice(
            [
                "a photo of a bird",
                "a bird",
                "a picture of one bird",
                "this is a bird",
                "a small bird",
                "photo of a perched bird",
            ]
        )
    )
    where = "" if rng.random() < 0.5 else f", {background} behind it"
    return f"{lead} with {', '.join(most)} and {last}{where}."
