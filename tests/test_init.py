import linnet


def test_the_public_names_are_listed_before_they_are_used(run_python):
    """Completion in a notebook shows what there is; looking costs no import of torch."""
    code = "import sys, linnet; print(*[n for n in dir(linnet) if not n.startswith('_')], 'torch' in sys.modules)"
    assert run_python(code).split() == [*sorted(linnet.__all__), "False"]
    assert {"__doc__", "__name__", "__all__"} <= set(dir(linnet))
    assert all(getattr(linnet, name) is not None for name in linnet.__all__)
