"""Bytes of an image file to upright pixels. Damaged metadata is no reason to refuse good ones, and a JPEG may lack its
last bytes.

Nothing here needs torch.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

warnings.filterwarnings("ignore", module=r"PIL\.")  # what Pillow warns of is mended here, or refused in our words

TWELVE_BITS, SIXTEEN_BITS = 4095, 65535
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # of a PNG; all others say something about it
NO_PIXELS = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # segments of a JPEG: what applications and people wrote into it
LOST_SHARE = 0.05  # of a JPEG's pixels that may depend on bytes that are missing
NOISE = bytes(range(1, 255))  # without 255, which starts a marker
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
POINTERS = {  # what lies in place of a photo that was never fetched
    b"version https://git-lfs": "it is a pointer of Git LFS: git lfs pull",
    b"/annex/objects/": "it is a pointer of git-annex: git annex get",
    b"<!doctype html": "it is a web page",
    b"<html": "it is a web page",
}


NO_PHOTOS = {"BUFR", "GRIB", "HDF5", "WMF", "EPS", "MPEG", "IPTC"}  # Pillow needs another program, or shows no pixels
HEIF = (".heic", ".heif", ".hif")
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")
HEIF_NEEDED = "pip install 'linnet[heif]'"


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of all image files that can be read here: what Pillow opens, HEIC if pillow-heif is installed."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    known = Image.registered_extensions()  # of formats that Pillow only writes, too
    opened = {*Image.OPEN, "MPO"} - NO_PHOTOS
    return frozenset(suffix for suffix, kind in known.items() if kind in opened)


def starts_like_an_image(content: bytes) -> bool:
    """Whether the first 16 bytes are those of a usual photo, whatever the file is called."""
    starts = (PNG_START, b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
    return content.startswith(starts) or content[8:12] in (b"WEBP", b"avif", *HEIF_BRANDS)


class Decoded(NamedTuple):
    """An upright RGB image, and whether its file lacks some last bytes."""

    image: Image.Image
    incomplete: bool = False


def decode(content: bytes, side: int | None = None) -> Decoded:
    """The pixels of an image file, upright (EXIF), transparency dropped.

    Args:
        side: a JPEG may come out smaller (:func:`scale_down`); 0: as small as can be, which shows as well, but sooner,
            whether it can be read. None: as large as it is.

    Raises:
        Exception: no image, or a broken one; Pillow raises OSError, SyntaxError, ValueError and others.
    """
    suffixes()  # some formats have to be made known to Pillow first
    if not content:
        raise ValueError("it is empty")
    for start, words in POINTERS.items():
        if content[:64].lower().startswith(start):
            raise ValueError(words)
    try:
        return _whole_or_mended(content, side)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, which looks like an attack: scale it down"
        ) from error
    except UnidentifiedImageError as error:  # whose message names an object in memory
        if content[8:12] in HEIF_BRANDS:
            raise ValueError(f"it is a HEIC photo, which needs {HEIF_NEEDED}") from error
        raise ValueError("it is no image, or of a format that Pillow does not read") from error


def _whole_or_mended(content: bytes, side: int | None) -> Decoded:
    try:
        if _ends_in_zeros(content):
            raise ValueError("it ends in zeros: it was not copied to its end")
        return Decoded(_decoded(content, side), incomplete=_lacks_its_end(content))
    except Image.DecompressionBombError:
        raise
    except Exception:
        if content.startswith(PNG_START) and not _ends_in_zeros(content):
            return Decoded(_decoded(b"".join([PNG_START, *_pixel_chunks(content)])))
        if content.startswith(JPEG_START):
            return _mended_jpeg(content)
        if content.startswith(b"RIFF") and not _ends_in_zeros(content) and (bitstream := _webp_bitstream(content)):
            return Decoded(_decoded(bitstream))
        raise


def _ends_in_zeros(content: bytes) -> bool:
    """Whether pixels may be missing that Pillow would make up without a word; a JPEG is looked at again."""
    if content.startswith(PNG_START):
        return content.endswith(bytes(64)) and PNG_END not in content
    if content.startswith(b"RIFF"):
        return (_webp_bitstream(content) or b"").endswith(bytes(64))
    return content.startswith(JPEG_START) and content.endswith(bytes(64))


def _lacks_its_end(content: bytes) -> bool:
    """Whether a JPEG ends before its pixels do. What is appended to it (a film, a second picture) may look like one."""
    if not content.startswith(JPEG_START) or content.rfind(JPEG_END) > content.rfind(JPEG_SCAN):
        return False
    return JPEG_END not in _pixel_segments(content)[1]


def _decoded(content: bytes, side: int | None = None) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        if side == 0:
            image.draft("RGB", (1, 1))
        elif side:
            scale_down(image, side)
        return upright_rgb(image)


def scale_down(image: Image.Image, side: int) -> None:
    """Have a JPEG decoded at an eighth, a quarter or half of its size: libjpeg then computes that many fewer pixels.

    Only where both sides are multiples of that: of the last pixels a smaller image would have too large a part, and all
    the others would be shifted against the whole image's.

    Args:
        image: opened, not decoded yet; other formats stay as they are.
        side: neither side becomes shorter than this.
    """
    for scale in (8, 4, 2):
        width, height = image.width // scale, image.height // scale
        if (scale * width, scale * height) == image.size and min(width, height) >= side:
            image.draft(None, (width, height))
            return


def upright_rgb(image: Image.Image) -> Image.Image:
    """The same image as RGB, upright (EXIF), transparency dropped.

    Raises:
        ValueError: the range of its pixels is not known; Pillow has others for bad files.
    """
    upper_bits = _has_upper_bits(image)
    image.load()
    upright = _upright(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _eight_bits(upright)
    elif upper_bits:
        _check_upper_bits(upright)
    return upright.convert("RGBA").convert("RGB") if upright.mode == "P" else upright.convert("RGB")


def _has_upper_bits(image: Image.Image) -> bool:
    """Whether colours have 16 bits in the file, of which Pillow will keep the upper 8."""
    tiles = getattr(image, "tile", ())  # of an opened file; the first word of the layout is the one about the bits
    layout = tiles[0].args if tiles else None
    return str(layout[0] if isinstance(layout, tuple) else layout).endswith((";16B", ";16L", ";16N"))


def has_sixteen_bits(content: bytes) -> bool:
    """Whether the pixels of an image file have 16 bits or more."""
    with suppress(Exception), Image.open(io.BytesIO(content)) as image:
        return image.mode.startswith("I") or _has_upper_bits(image)
    return False


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the camera was held; an orientation that cannot be read or makes no sense is none."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF raises whatever its bytes happen to mean
        return image
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Of pixels with more bits. Where the largest value leaves open what is white, nothing is guessed: a wrong guess is
    a black image.

    Raises:
        ValueError: the range is not known.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range: convert it to 8 bits")
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or 0 < high <= TWELVE_BITS or high > SIXTEEN_BITS:
        raise ValueError(
            f"its pixels are whole numbers from {low} to {high}, which does not say what is white: convert it to 8 bits"
        )
    return Image.fromarray(np.clip(values / (SIXTEEN_BITS / 255), 0, 255).astype(np.uint8))


def _check_upper_bits(image: Image.Image) -> None:
    """Of colours with 16 bits Pillow keeps the upper 8, in which 12 bits are nearly black.

    Raises:
        ValueError: the upper bits are hardly used.
    """
    high = max(int(band.getextrema()[1]) for band in image.split()[:3])  # type: ignore[arg-type]
    if high <= TWELVE_BITS >> 8:
        raise ValueError(
            "its colours use 12 of 16 bits or fewer, which does not say what is white: convert it to 8 bits"
        )


def _pixel_chunks(content: bytes) -> Iterator[bytes]:
    """The chunks of a PNG that make its pixels, and an intact EXIF: no text, no colour profile, no further frames."""
    place = len(PNG_START)
    while place + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        chunk = content[place : place + 12 + length]
        intact = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if chunk[4:8] in PIXEL_CHUNKS or (chunk[4:8] == b"eXIf" and intact):
            yield chunk
        place += len(chunk)


def _webp_bitstream(content: bytes) -> bytes | None:
    """A WebP of nothing but the pixels of its first frame: what comes after them may be cut off."""
    place = 12
    while place + 8 <= len(content):
        kind, length = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
        end = place + 8 + length + length % 2
        if kind in (b"VP8 ", b"VP8L"):
            return b"".join([b"RIFF", struct.pack("<I", 4 + end - place), b"WEBP", content[place:end]])
        place = place + 24 if kind == b"ANMF" else end  # a frame begins with its place and size
    return None


def _mended_jpeg(content: bytes) -> Decoded:
    """Without what applications wrote into it, or without its last bytes, if hardly any pixel hangs on them.

    Raises:
        Exception: it is broken in another way.
    """
    head, scans = _pixel_segments(content.rstrip(b"\0\xff"))  # of padding, and of half a marker
    try:
        return Decoded(_decoded(head + scans))
    except Exception:
        if scans and _lost_share(head, scans) <= LOST_SHARE:
            return Decoded(_decoded(head + scans + JPEG_END), incomplete=True)
        raise


def _pixel_segments(content: bytes) -> tuple[bytes, bytes]:
    """A JPEG in two parts: what comes before its first scan, and the rest. Of the segments of applications only JFIF's,
    Adobe's and the EXIF stay, which say how pixels are meant."""
    kept, place = [JPEG_START], len(JPEG_START)
    while place + 4 <= len(content) and content[place] == 0xFF:
        kind, length = content[place + 1], 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if kind == 0xFF:  # a byte of padding
            place += 1
            continue
        if kind == 0xDA:
            return b"".join(kept), content[place:]
        segment = content[place : place + length]
        if kind not in NO_PIXELS or segment[4:8] == b"Exif":
            kept.append(segment)
        place += length
    return b"".join(kept), b""


def _lost_share(head: bytes, scans: bytes) -> float:
    """The share of a cut-off JPEG's pixels that depend on what was cut off: those that change with what follows."""
    last = scans[scans.rindex(JPEG_SCAN) :]
    components = last[4]
    end, precision = last[6 + 2 * components], last[7 + 2 * components] & 0x0F
    if end != 63 or precision:  # of a progressive JPEG: it was cut off before the finest details
        return 1.0
    with_nothing = np.asarray(_decoded(head + scans + JPEG_END))
    noise = NOISE * (1 + with_nothing[..., 0].size // len(NOISE))  # a byte for each pixel lasts to the last of them
    with_noise = np.asarray(_decoded(head + scans + noise + JPEG_END))
    return float((with_nothing != with_noise).any(axis=2).mean())
