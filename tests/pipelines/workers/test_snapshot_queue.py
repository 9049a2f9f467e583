from __future__ import annotations

from pipelines.workers.snapshot_queue import Turns


def test_one_has_its_turn_at_a_time_and_who_has_waited_longest_is_called_next() -> None:
    called: list[int] = []

    def call(number: int) -> bool:
        called.append(number)
        return number != 2  # it cannot be reached

    turns = Turns(call)
    assert not turns.take(1)  # it has not asked
    for number in (1, 2, 3, 3):
        turns.ask(number)
    assert turns.take(1)
    assert not turns.take(2)
    turns.end()
    assert called == [2, 3]
    assert turns.take(3)
    turns.end()
    assert not turns.take(3)  # asked twice, it had it once
    assert turns.take(2)


def test_who_withdraws_is_not_called_and_after_the_close_nobody_is() -> None:
    called: list[int] = []

    def call(number: int) -> bool:
        called.append(number)
        return True

    turns = Turns(call)
    for number in (1, 2, 3):
        turns.ask(number)
    assert turns.take(1)
    turns.withdraw(2)
    turns.end()
    assert called == [3]
    turns.close()
    turns.end()
    assert called == [3]
    assert not turns.take(3)
