"""Good pixels are read whatever surrounds them; what would be read wrongly is refused."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linnet.data.decoding import decode, suffixes
from linnet.data.images import read_image
from linnet.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pytest takes over linnet's own filter


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Smooth and noisy, as photos are: 128 x 96 pixels."""
    rows, columns = np.mgrid[:96, :128]
    smooth = np.stack([rows * 2, columns, 255 - rows - columns], axis=2).clip(0, 255)
    return Image.fromarray(
        (smooth + np.random.default_rng(0).normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
    )


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(orientation: bytes) -> bytes:
    """EXIF of one entry: the orientation, with its type, count and value."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01" + orientation + b"\0\0\0\0"


LONG = zlib.compress(b"a" * 2_000_000)
BAD_CHUNKS = {
    "broken EXIF": chunk(b"eXIf", b"no TIFF at all"),
    "EXIF that is cut off": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x05\x01"),
    "2 MB of text": chunk(b"zTXt", b"k\0\0" + LONG),
    "2 MB of international text": chunk(b"iTXt", b"k\0\1\0\0\0" + LONG),
    "a colour profile of 2 MB": chunk(b"iCCP", b"k\0\0" + LONG),
    "no colour profile": chunk(b"iCCP", b"k\0\0junk"),
    "a wrong checksum": chunk(b"tEXt", b"k\0text")[:-4] + b"1234",
    "half a resolution": chunk(b"pHYs", b"1"),
    "no gamma": chunk(b"gAMA", b""),
    "half an animation": chunk(b"acTL", b"1"),
}


@pytest.mark.parametrize("bad", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
@pytest.mark.parametrize("behind", [False, True])
def test_a_png_is_its_pixels(photo: Image.Image, bad: bytes, behind: bool):
    whole = saved(photo, "PNG")
    place = len(whole) - 12 if behind else 33  # before the end, or before the pixels
    decoded = decode(whole[:place] + bad + whole[place:])
    assert np.array_equal(decoded.image, photo) and not decoded.incomplete


def test_a_png_with_a_long_text_is_turned_upright(photo: Image.Image):
    whole = saved(photo, "PNG")
    turned = chunk(b"eXIf", tiff(struct.pack("<HIHH", 3, 1, 6, 0))[6:])
    assert decode(whole[:33] + turned + BAD_CHUNKS["2 MB of text"] + whole[33:]).image.size == (96, 128)


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe1\0\x12Exif\0\0no TIFF...",
        b"\xff\xe2\0\x10ICC_PROFILE\0\1",
        b"\xff\xe2\0\x08MPF\0\0\0",
        b"\xff\xed\0\x14Photoshop 3.0\x008BIM",
    ],
    ids=["EXIF", "colour profile", "index of further pictures", "Photoshop"],
)
def test_a_jpeg_is_its_pixels(photo: Image.Image, segment: bytes):
    whole = saved(photo, "JPEG")
    assert np.array_equal(decode(whole[:2] + segment + whole[2:]).image, decode(whole).image)


@pytest.mark.parametrize("bad", ["zero", "nine", "text", "fraction"])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_an_orientation_that_makes_no_sense_is_none(photo: Image.Image, bad: str, kind: str):
    entry = {
        "zero": struct.pack("<HIHH", 3, 1, 0, 0),
        "nine": struct.pack("<HIHH", 3, 1, 9, 0),
        "text": struct.pack("<HI", 2, 2) + b"x\0\0\0",
        "fraction": struct.pack("<HII", 5, 1, 0xFFFFFF),
    }[bad]
    content = saved(photo, kind)
    if kind == "JPEG":
        exif = tiff(entry)
        content = content[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + content[2:]
    else:
        content = saved(photo, kind, exif=tiff(entry))
    assert decode(content).image.size == photo.size


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 3, 10, 60])
def test_a_jpeg_may_lack_its_last_bytes(photo: Image.Image, cut: int, progressive: bool):
    whole = saved(photo, "JPEG", quality=90, progressive=progressive)
    decoded = decode(whole[:-cut])
    assert decoded.incomplete
    assert decoded.image.size == photo.size
    difference = np.abs(np.asarray(decoded.image).astype(int) - np.asarray(decode(whole).image))
    assert difference.mean() < 2


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("left", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("quality", [30, 90])
@pytest.mark.parametrize("zeros", [False, True], ids=["cut off", "zeros at its end"])
def test_a_jpeg_that_lacks_more_is_refused(
    photo: Image.Image, left: float, quality: int, progressive: bool, zeros: bool
):
    """Some copies have the right size and end in zeros: Pillow reads them as grey without a word."""
    whole = saved(photo.resize((256, 192)), "JPEG", quality=quality, progressive=progressive)
    kept = int(left * len(whole))
    with pytest.raises(Exception, match=r"truncated|Truncated|broken|zeros|no image"):
        decode(whole[:kept] + bytes(len(whole) - kept if zeros else 0))


def test_that_a_jpeg_lacks_its_end_is_noted_even_where_pillow_does_not_mind(photo: Image.Image):
    whole = [saved(photo.crop((0, 0, 128, height)), "JPEG", quality=90) for height in range(20, 96)]
    assert all(decode(content[:-cut]).incomplete for content in whole for cut in (1, 2))
    assert not any(decode(content).incomplete for content in whole)


def test_a_jpeg_may_be_cut_inside_a_marker(photo: Image.Image):
    """What follows half a marker would be taken for the rest of it."""
    whole = saved(photo, "JPEG", quality=90)
    middle = whole.index(b"\xff\x00", len(whole) // 2)
    for cut in (middle + 1, middle + 2):
        with pytest.raises(OSError, match="truncated"):
            decode(whole[:cut])


def test_padding_behind_a_jpeg_is_no_damage(photo: Image.Image):
    whole = saved(photo, "JPEG")
    assert not decode(whole + bytes(4096)).incomplete


@pytest.mark.parametrize(
    "behind", [b"ftyp\xff\xda\0\x0c\x03", b"\xff\xd8\xff\xda"], ids=["a film", "a picture cut off"]
)
@pytest.mark.parametrize("progressive", [False, True])
def test_what_phones_append_to_a_jpeg_is_not_its_end(photo: Image.Image, behind: bytes, progressive: bool):
    """The bytes of a film hold every marker of a JPEG somewhere."""
    whole = saved(photo, "JPEG", progressive=progressive)
    assert not decode(whole + behind).incomplete
    assert decode(whole[:-1]).incomplete


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"quality": 90}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("left", [0.2, 0.5, 0.8])
def test_a_file_that_was_not_copied_to_its_end_is_refused(
    photo: Image.Image, kind: str, options: dict[str, object], left: float
):
    """It has the right size and ends in zeros, which are pixels, too."""
    whole = saved(photo, kind, **options)
    kept = int(left * len(whole))
    with pytest.raises(ValueError, match="it ends in zeros"):
        decode(whole[:kept] + bytes(len(whole) - kept))
    assert not decode(whole + bytes(100)).incomplete


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "MPO"])
def test_of_several_pictures_the_first_one_is_enough(photo: Image.Image, kind: str):
    whole = saved(photo, kind, save_all=True, append_images=[photo.rotate(90), photo.rotate(180)])
    assert np.array_equal(decode(whole[: int(0.9 * len(whole))]).image, decode(whole).image)


SCALES = {"int32": 1, "uint32": 1, "int16": 1, "uint16": 16, "float32": 1 / 255, "float32 to 255": 1}


def deep_tiff(values: np.ndarray) -> bytes:
    """A plain TIFF of these numbers, of whatever type: Pillow does not write all of them."""
    formats = {"u": 1, "i": 2, "f": 3}
    height, width = values.shape
    entries = [(256, width), (257, height), (258, 8 * values.itemsize), (259, 1), (262, 1), (273, 8), (277, 1)]
    entries += [(278, height), (279, values.nbytes), (339, formats[values.dtype.kind])]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<I", 8 + values.nbytes)
    return head + values.tobytes() + struct.pack("<H", len(entries)) + table + bytes(4)


@pytest.mark.parametrize("kind", SCALES)
def test_a_range_that_could_be_another_is_refused(kind: str, tmp_path: Path):
    """Read by its type alone, each of these would be a black image."""
    grey = np.arange(256).reshape(8, 32)
    (tmp_path / "x.tif").write_bytes(deep_tiff((grey * SCALES[kind]).astype(kind.split()[0])))
    with pytest.raises(UserError, match=r"cannot read the image .*x\.tif .*convert it to 8 bits"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_fewer_bits_in_a_png_of_sixteen_are_refused(channels: int, bits: int):
    grey = np.linspace(0, 2**bits - 1, 256).astype(">u2").reshape(8, 32, 1).repeat(channels, axis=2)
    rows = b"".join(b"\0" + row.tobytes() for row in grey)
    head = struct.pack(">IIBBBBB", 32, 8, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    if bits < 16:
        with pytest.raises(ValueError, match="what is white"):
            decode(png)
    else:
        assert np.abs(np.asarray(decode(png).image)[..., 0].ravel().astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("values", [[-5, 10_000], [0, 70_000]])
def test_numbers_outside_sixteen_bits_are_refused(values: list[int]):
    with pytest.raises(ValueError, match="what is white"):
        decode(deep_tiff(np.array([values], dtype=np.int32)))


def test_black_is_black_in_any_range():
    assert np.asarray(decode(deep_tiff(np.zeros((4, 4), np.uint16))).image).max() == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"hello", "it is no image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"/annex/objects/MD5E-s1--0.jpg\n", "git annex get"),
        (b"<!DOCTYPE html><html>not found</html>", "a web page"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(content: bytes, words: str):
    with pytest.raises(ValueError, match=words) as error:
        decode(content)
    assert " object at " not in str(error.value)


def test_a_bomb_is_refused_in_plain_words(photo: Image.Image, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="more than 2,000 pixels, .*scale it down"):
        decode(saved(photo, "PNG"))


def test_a_large_image_is_read_without_a_word(photo: Image.Image, run_python: Callable[[str], str]):
    """Between Pillow's two limits there is a warning about an attack."""
    code = (
        "import sys; from io import StringIO; from PIL import Image; from linnet.data.decoding import decode; "
        "Image.MAX_IMAGE_PIXELS = 10_000; sys.stderr = StringIO(); "
        f"decode(bytes.fromhex('{saved(photo, 'PNG').hex()}')); print(len(sys.stderr.getvalue()))"
    )
    assert run_python(code) == "0"


def test_heic_photos_are_read_with_the_extra(photo: Image.Image, tmp_path: Path):
    pytest.importorskip("pillow_heif")
    assert {".heic", ".heif", ".hif"} <= suffixes()
    photo.save(tmp_path / "x.heic", quality=95)
    assert np.abs(np.asarray(read_image(tmp_path / "x.heic")).astype(int) - np.asarray(photo)).mean() < 12


def test_without_the_extra_a_heic_photo_says_what_it_needs():
    if ".heic" in suffixes():
        pytest.skip("the extra is installed")
    with pytest.raises(ValueError, match=r"HEIC photo, which needs pip install 'linnet\[heif\]'"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((800, 480), 60, (100, 60)),
        ((800, 480), 61, (200, 120)),
        ((800, 480), 240, (400, 240)),
        ((800, 480), 241, (800, 480)),
        ((804, 480), 60, (201, 120)),  # no whole number of eighths
        ((801, 480), 60, (801, 480)),
        ((480, 800), 60, (60, 100)),
    ],
)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_is_decoded_as_small_as_it_may(
    size: tuple[int, int], side: int, expected: tuple[int, int], options: dict[str, object]
):
    content = saved(Image.new("RGB", size), "JPEG", **options)
    assert decode(content, side).image.size == expected
    assert decode(content).image.size == size
    assert decode(saved(Image.new("RGB", size), "PNG"), side).image.size == size


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_smaller_jpeg_shows_the_same_picture(photo: Image.Image, mode: str, orientation: int):
    """Upright, of its own colours, and not shifted by a part of a pixel: a ramp would differ by its slope."""
    exif = photo.getexif()
    exif[0x0112] = orientation
    smooth = photo.resize((640, 480), Image.Resampling.BICUBIC)
    content = saved(smooth.convert(mode), "JPEG", quality=95, exif=exif)
    whole, smaller = decode(content).image, decode(content, 100).image
    assert (smaller.mode, tuple(4 * length for length in smaller.size)) == ("RGB", whole.size)
    both = [np.asarray(image.resize((40, 40), Image.Resampling.BICUBIC)).astype(int) for image in (whole, smaller)]
    assert np.abs(both[0] - both[1]).mean() < 1
    assert np.abs((both[0] - both[1]).mean()) < 0.3


def test_a_jpeg_without_its_last_bytes_is_read_as_before(photo: Image.Image):
    content = saved(photo, "JPEG")
    for cut in (-1, -2, -20):
        whole, smaller = decode(content[:cut]), decode(content[:cut], 10)
        assert whole.incomplete == smaller.incomplete
        assert whole.image.width % smaller.image.width == 0
    for broken in (content[: len(content) // 2], content[:-200] + bytes(200)):
        with pytest.raises(Exception, match=r".+"):
            decode(broken)
        with pytest.raises(Exception, match=r".+"):
            decode(broken, 10)
