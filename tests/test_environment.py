import ctypes
import os
from pathlib import Path

import pytest

from linnet import environment
from linnet.environment import available_cpus


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_that_is_bound_to_one_processor_uses_one(run_python):
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); import linnet.environment as e; print(e.available_cpus())"
    assert run_python(code) == "1"


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu.max": "something else"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, 8),
    ],
)
def test_the_quota_of_a_container_counts(
    files: dict[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(environment, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert available_cpus() == cpus


def test_the_pools_that_decode_ask_for_it():
    """os.cpu_count() counts what others may use."""
    source = Path(environment.__file__).parent
    users = [path for path in source.rglob("*.py") if "cpu_count()" in path.read_text()]
    assert {path.name for path in users} == {"environment.py", "onnx_session.py"}


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this system's C library has no mallopt")
def test_freed_memory_is_kept_in_the_block_and_handed_back_after_it(run_python):
    """Told by the pages that the system has to clear when as much is asked for again, in a process of its own."""
    code = """
import ctypes, resource
from linnet.environment import freed_memory_kept

library, size = ctypes.CDLL(None), 64_000_000
library.malloc.restype = ctypes.c_void_p

def cleared():
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        piece = ctypes.c_void_p(library.malloc(ctypes.c_size_t(size)))
        ctypes.memset(piece, 1, size)
        library.free(piece)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

outside = cleared()
with freed_memory_kept():
    inside = cleared()
    with freed_memory_kept():
        pass
    after_inner = cleared()
print(outside, inside, after_inner, cleared())
"""
    outside, inside, after_inner, after = map(int, run_python(code).split())
    assert inside < outside / 4 and inside < after / 4
    assert after_inner < outside / 4  # a block within the block has not handed it back
