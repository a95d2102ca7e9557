"""``mini-clip``: the small CLIP that ships with linnet. Its weights lie beside this file, in open_clip's layout."""

from pathlib import Path

from linnet.teachers.base import Kind
from linnet.teachers.open_clip import OpenClipTeacher

KIND = Kind(
    gives="vlm",
    load=lambda id, name: OpenClipTeacher(id, f"local-dir:{Path(__file__).parent}"),
    forms={"mini-clip": "the CLIP that ships with linnet; it knows drawn birds"},
    named=False,
)
