"""Every grid in bench/ says what can be trained; nothing is trained here."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from linnet.commands.comparison.grid import Compared, Request, build, check_fair

GRIDS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "bench").glob("*.yaml"))}
WITH_DATA = {"animals", "animals_classifier", "open_vocabulary_animals"}
WITH_CLASSIFIER = {"animals_classifier", "lookalikes", "lookalikes_figkd", "data_free"}


@pytest.fixture
def resolve(make_folder: Callable[..., Path]) -> Callable[[str], Compared]:
    def resolve(name: str) -> Compared:
        data = str(make_folder(images=3)) if name in WITH_DATA else None
        teacher = {"teacher.id": "timm:resnet18"} if name in WITH_CLASSIFIER else {}
        return build(Request(data, GRIDS[name], options={"train.precision": "fp32", **teacher}))

    return resolve


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_resolves_and_begins_with_the_command_that_trains_it(name: str, resolve: Callable[[str], Compared]):
    compared = resolve(name)
    text = GRIDS[name].read_text()
    assert f"bench/{name}.yaml" in text.partition("shared:")[0]
    assert next(row.name for row in compared.rows if row.is_baseline).startswith("ce")
    assert set(yaml.safe_load(text)["rows"]) <= {row.name for row in compared.rows}
    check_fair(compared.rows, allow_mismatch="--allow-mismatch" in text.partition("shared:")[0])
    assert {str(row.config.train.precision) for row in compared.rows} == {"fp32"}


def test_what_the_grids_say_is_what_was_measured(resolve: Callable[[str], Compared]):
    by_name = {row.name: row.config for row in resolve("long_tail_texts").rows}
    assert by_name["weight 0.1"].options["vlm-kd"]["text_weight"] == 0.1
    assert by_name["captions shuffled"].data.texts == Path("runs/bench/texts-shuffled.parquet")
    vocabulary = resolve("open_vocabulary").rows
    assert str(vocabulary[-1].config.student.pretrained).endswith("compare-open_vocabulary/full-s0")
    free = {row.name: row.config for row in resolve("data_free").rows}
    assert (free["full"].data.source, free["full"].data.eval) == (None, "aviary:species=8,genus=1,images=200")
    assert (free["ce"].train.epochs, free["full"].train.epochs, free["full"].train.lr) == (20, 10, 0.05)
    assert len(resolve("aviary_views").rows) == 11  # with ce on the replayed views
