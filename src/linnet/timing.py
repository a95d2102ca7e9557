"""How long a call takes, the one timer behind every latency and every comparison of speed; and times in words."""

import statistics
import time
from collections.abc import Callable, Mapping


def median_ms(call: Callable[[], object], repeats: int = 30, warm_up: int = 5) -> float:
    """Median time of a call in milliseconds, after some that do not count."""
    for _ in range(warm_up):
        call()
    return statistics.median(_ms(call) for _ in range(repeats))


def best_ms_in_turn(
    calls: Mapping[str, Callable[[], object]], rounds: int = 7, seconds: float = float("inf")
) -> dict[str, float]:
    """The shortest time of each of several calls, taken in turn: a busy moment of the machine can only lengthen one.

    Args:
        seconds: after the second round no further one starts once this time is over.
    """
    start = time.perf_counter()
    best = dict.fromkeys(calls, float("inf"))
    for done in range(rounds):
        if done >= 2 and time.perf_counter() - start > seconds:
            break
        for name, call in calls.items():
            best[name] = min(best[name], _ms(call))
    return best


def duration(seconds: float) -> str:
    """``0.4 s``, ``34 s``, ``5 min``, ``2 h 10 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)
