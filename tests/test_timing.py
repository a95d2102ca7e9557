"""Timers, on a clock of the test's own."""

from types import SimpleNamespace

import pytest

from linnet import timing
from linnet.timing import best_ms_in_turn, duration, median_ms


class Clock:
    """Time passes only in calls."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def call(self, name: str, *ms: float):
        """A call that takes these times, one after another, then the last one for ever."""
        times = list(ms)

        def run() -> None:
            self.log.append(name)
            self.now += (times.pop(0) if len(times) > 1 else times[0]) / 1000

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_the_median_of_the_repeats_after_the_warm_up(clock: Clock):
    assert median_ms(clock.call("a", 900, 800, 5, 1, 3), repeats=3, warm_up=2) == pytest.approx(3)
    assert len(clock.log) == 5


def test_calls_are_timed_in_turn_and_the_best_counts(clock: Clock):
    found = best_ms_in_turn({"a": clock.call("a", 9, 2, 4), "b": clock.call("b", 1, 7, 6)}, rounds=3)
    assert clock.log == ["a", "b"] * 3
    assert found == pytest.approx({"a": 2, "b": 1})


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 2), (3.5, 2), (4.5, 3), (100, 7)])
def test_no_round_starts_late_but_the_second(clock: Clock, seconds: float, rounds: int):
    """The first one warms up; a round takes two seconds here."""
    best_ms_in_turn({"a": clock.call("a", 1500), "b": clock.call("b", 500)}, seconds=seconds)
    assert clock.log == ["a", "b"] * rounds


def test_times_in_words():
    times = {0.04: "0.0 s", 9.94: "9.9 s", 9.96: "10 s", 99.4: "99 s", 99.6: "2 min", 5999: "1 h 40 min"}
    times |= {5940: "99 min", 6000: "1 h 40 min", 7200: "2 h 0 min"}
    assert {seconds: duration(seconds) for seconds in times} == times
