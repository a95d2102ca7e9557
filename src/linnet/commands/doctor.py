"""``linnet doctor``: versions, device and extras of this installation."""

import platform
from collections.abc import Iterator

from linnet.environment import EXTRAS, PACKAGES, computes_bf16, device_words, missing_modules, version
from linnet.errors import UserError
from linnet.files import cache_words
from linnet.students.precision import folder, measured_here


def lines() -> Iterator[str]:
    yield f"python       {platform.python_version()} on {platform.platform()}"
    for package in PACKAGES:
        yield f"{package:<12} {version(package) or 'not installed'}"
    yield f"device       {device_words()}"
    words = "computed by the hardware" if computes_bf16() else "not computed by the hardware: fp32 is used"
    yield f"bf16         {words}"
    try:
        rows = [*measured_here()]
    except UserError:  # there is no cache: the last line says why
        rows = []
    for row in rows:
        step = f"{row['student']} at {row['image_size']} px, batch {row['batch_size']}, {row['threads']} thread(s)"
        ms = row["ms"]
        yield f"             a step of {step}: {ms['fp32']:.0f} ms in fp32, {ms['bf16']:.0f} ms in bf16"
    if rows:
        yield f"             (to have them timed again, delete {folder()})"
    for extra in EXTRAS:
        state = f"missing: pip install 'linnet[{extra}]'" if missing_modules(extra) else "installed"
        yield f"extra {extra:<6} {state}"
    yield f"cache        {cache_words()}"
