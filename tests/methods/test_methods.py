import pytest

from linnet import methods
from linnet.errors import UserError


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("kdd", "unknown method 'kdd'.*Did you mean 'kd'"),
        ("ce+kd:much", "weight in 'kd:much' must be a number"),
        ("kd+kd", "names a method twice"),
        ("kd:0.5", "first method of 'kd:0.5' always has weight 1"),
        ("ce+kd:nan", "weight in 'kd:nan' must be a number of at least 0"),
        ("ce+kd:-1", "weight in 'kd:-1' must be a number of at least 0"),
        ("kd:2+ce", "first method of .* always has weight 1"),
    ],
)
def test_bad_methods(method: str, message: str):
    with pytest.raises(UserError, match=message):
        methods.parse(method)


def test_of_a_sum_every_part_gets_the_teacher_that_it_was_made_for():
    """pand means calibrated prompts, wherever it stands."""
    assert methods.defaults("kd+pand:0.5") == {"teacher": {"head": "prompt"}}
    assert methods.defaults("pand+kd") == {"teacher": {"head": "prompt"}}
    assert methods.defaults("kd") == {}


def test_needs_teacher():
    assert methods.needs_teacher("ce") == set()
    assert methods.needs_teacher("ce+kd") == {"any"}
