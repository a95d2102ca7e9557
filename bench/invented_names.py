"""Descriptions for bench/open_vocabulary_names.yaml: what the prompt names of the aviary say, about species that are
called by their invented names. ``python bench/invented_names.py`` writes runs/bench/descriptions.json."""

import json
from pathlib import Path

from linnet.data.birds import make_species

FILE = Path("runs/bench/descriptions.json")

if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps({species.name: f"a {species.prompt_name}" for species in make_species(60)}, indent=1))
    print(FILE)
