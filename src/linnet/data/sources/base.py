"""What a kind of data is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from linnet.config import DataConfig
from linnet.data.manifest import Manifest


@dataclass(frozen=True)
class Source:
    """A kind of data, as it is given for DATA.

    Attributes:
        forms: how it is written -> what it is; the lines of ``linnet list data``.
        matches: whether DATA is of this kind. Sources are asked in the order of SOURCES.
        read: (DATA, training, settings) -> the manifest, with "" as the split of images that have none. Without
            ``training`` the images are only scored, and there need not be any training images. What the settings switch
            off is not looked at.
        run_name: DATA -> what a run on it is called.
        is_there: a quick look whether there is anything to read, before work is done for it.
        images: (DATA, how many) -> a few of its image files, found without reading the rest, whose sizes decide the
            default input size; none where the defaults are fixed.
        is_own: whether linnet made the images itself: they need no check.
        defaults: which column of :data:`linnet.defaults.BY_DATA` its runs start from.
    """

    forms: Mapping[str, str]
    matches: Callable[[str], bool]
    read: Callable[[str, bool, DataConfig], Manifest]
    run_name: Callable[[str], str]
    is_there: Callable[[str], bool] = lambda data: True
    images: Callable[[str, int], list[Path]] = lambda data, count: []
    is_own: bool = False
    defaults: Literal["drawn", "photos"] = "photos"
