"""Tables of texts for bench/long_tail_texts.yaml, in which each training image has the captions of another one, of any
class or of its own: ``python bench/shuffled_captions.py aviary:species=60,images=300,captions=4``."""

import argparse
from pathlib import Path

import numpy as np

from linnet.data.sources import find_source
from linnet.text.captions import Caption, write_captions

FOLDER = Path("runs/bench")


def write_shuffled(data: str, file: Path, within_classes: bool) -> None:
    images, chance = find_source(data).read(data, True), np.random.default_rng(0)
    assert images.texts is not None
    trained = np.flatnonzero(images.splits == "train")
    donors = chance.permutation(trained)
    if within_classes:
        for label in range(len(images.classes)):
            own = images.labels[trained] == label
            donors[own] = chance.permutation(trained[own])
    captions = [
        Caption(str(images.paths[image]), images.digests[image].tobytes().hex(), "", "", text)
        for image, donor in zip(trained, donors, strict=True)
        for text in images.texts[donor]
    ]
    write_captions(file, captions, {"shuffled": data})
    print(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    arguments = parser.parse_args()
    write_shuffled(arguments.data, FOLDER / "texts-shuffled.parquet", within_classes=False)
    write_shuffled(arguments.data, FOLDER / "texts-shuffled-within-classes.parquet", within_classes=True)
