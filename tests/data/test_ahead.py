import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from linnet.data import ahead as module
from linnet.data.ahead import ahead


def test_results_come_in_the_order_of_their_items(monkeypatch: pytest.MonkeyPatch):
    """The first is done last: it waits until another thread has come to the second."""
    monkeypatch.setattr(module, "available_cpus", lambda: 2)
    second = threading.Event()

    def slow_first(item: int) -> int:
        second.wait(timeout=30) if item == 0 else second.set()
        return item

    assert list(ahead(slow_first, range(20), 4)) == list(range(20))
    assert list(ahead(slow_first, [])) == []


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_than_so_many_items_are_taken_ahead(count: int):
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    for i, result in enumerate(ahead(lambda item: item, items(), count)):
        assert result == i
        assert len(taken) <= i + count


def test_an_error_comes_in_its_place_and_ends_all():
    def inverse(item: int) -> float:
        return 1 / item

    results = ahead(inverse, [2, 4, 0, 1])
    assert (next(results), next(results)) == (0.5, 0.25)
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_whoever_stops_early_waits_for_nothing_that_has_not_begun(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "available_cpus", lambda: 1)
    seen: list[int] = []
    gate = threading.Event()

    def note(item: int) -> int:
        if item:
            gate.wait(timeout=30)  # the reader has left by then
        seen.append(item)
        return item

    results = ahead(note, range(10), 5)
    threading.Timer(0.2, gate.set).start()
    assert next(results) == 0
    results.close()
    assert seen in ([0], [0, 1])  # the one that was being computed, at most


def test_there_are_as_many_threads_as_processors_that_may_be_used(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(module, "available_cpus", lambda: 3)
    monkeypatch.setattr(module, "ThreadPoolExecutor", lambda n: asked.append(n) or ThreadPoolExecutor(n))
    assert list(ahead(str, range(4))) == ["0", "1", "2", "3"]
    assert asked == [3]
