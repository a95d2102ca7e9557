import numpy as np
import pytest

from linnet.config import DataConfig
from linnet.data.load import load_manifest
from linnet.errors import UserError


def test_bare_aviary_names_tell_nothing():
    told, bare = (load_manifest(DataConfig(source=f"aviary:species=3,images=3{end}")) for end in ("", ",bare=1"))
    assert told.class_names == bare.class_names
    assert [info.prompt_name for info in bare.classes] == bare.class_names
    assert all(info.prompt_name.startswith("bird with ") for info in told.classes)
    assert np.array_equal(told.digests, bare.digests)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("aviary:spices=3", "unknown aviary option 'spices'.*Did you mean 'species'"),
        ("aviary:images=0", "aviary:images must be at least 1 and"),
        ("aviary:species=x", "aviary:species must be a whole number"),
        ("aviary:species=1", "at least two class"),
    ],
)
def test_bad_aviary_options(source: str, message: str):
    with pytest.raises(UserError, match=message):
        load_manifest(DataConfig(source=source))
