"""Make the folder ``grocery-fresh`` of a clone of GroceryStoreDataset (Klasson et al., WACV 2019; MIT licence):

    git clone https://github.com/marcusklasson/GroceryStoreDataset
    python bench/grocery_fresh.py GroceryStoreDataset grocery-fresh

50 kinds of fruit and vegetables, photographed in shops, shorter side 192 pixels: ``train/`` is the official training
set, ``val/`` the official validation set and the first 30 % of each class of the official test set, ``test/`` the rest.
Photos come in series of one shelf: a random split would put the same shelf on both sides.
"""

import sys
from collections import defaultdict
from pathlib import Path

from PIL import Image

SIDE, VAL_OF_TEST = 192, 0.3


def listed(clone: Path, part: str) -> dict[str, list[Path]]:
    """Class name -> the images of a part, in the order of its list, of fruit and vegetables."""
    images = defaultdict(list)
    for line in (clone / "dataset" / f"{part}.txt").read_text().splitlines():
        path = Path(line.split(",")[0].strip())
        if path.parts[1] in ("Fruit", "Vegetables"):
            images[path.parent.name.lower().replace("-", "_")].append(clone / "dataset" / path)
    return images


def main(clone: Path, folder: Path) -> None:
    test = {name: sorted(paths) for name, paths in listed(clone, "test").items()}
    first = {name: int(VAL_OF_TEST * len(paths)) for name, paths in test.items()}
    groups = [("train", "", listed(clone, "train")), ("val", "v_", listed(clone, "val"))]
    groups += [("val", "", {name: paths[: first[name]] for name, paths in test.items()})]
    groups += [("test", "", {name: paths[first[name] :] for name, paths in test.items()})]
    for part, prefix, images in groups:
        for name, paths in images.items():
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for path in paths:
                image = Image.open(path).convert("RGB")
                scale = SIDE / min(image.size)
                size = (round(image.width * scale), round(image.height * scale))
                image.resize(size, Image.Resampling.LANCZOS).save(
                    folder / part / name / f"{prefix}{path.name}", quality=90
                )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
