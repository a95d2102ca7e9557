"""The pinned set can be installed: on every supported Python there is a wheel of every version."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = ROOT / "constraints.txt"


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-").replace(".", "-")


UNPINNED = {"ray", "tensorboard", "trackio", "wandb"}  # extras that CI does not install


def requirements() -> list[str]:
    extras = {name: own for name, own in PROJECT["optional-dependencies"].items() if name not in UNPINNED}
    return [*PROJECT["dependencies"], *(one for own in extras.values() for one in own)]


def test_every_requirement_is_pinned():
    pinned = {name_of(line) for line in PINNED.read_text().splitlines() if line and not line.startswith("#")}
    assert {name_of(requirement) for requirement in requirements()} <= pinned


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_pinned_set_resolves_from_wheels_alone(python: str, tmp_path: Path):
    command = [
        *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-input", "--quiet"),
        *("--only-binary", ":all:", "--python-version", python, "--target", str(tmp_path / "none")),
        *("--constraint", str(PINNED)),
    ]
    done = subprocess.run([*command, *requirements()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
