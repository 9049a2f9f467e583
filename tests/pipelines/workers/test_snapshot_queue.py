from __future__ import annotations

from pipelines.workers.snapshot_queue import SnapshotQueue


def test_each_turn_goes_to_the_number_waiting_longest() -> None:
    called: list[int] = []

    def call(number: int) -> bool:
        called.append(number)
        return number != 2  # number 2 cannot be reached

    turns = SnapshotQueue(call)
    assert not turns.take(1)  # number 1 has not asked for a turn
    for number in (1, 2, 3, 3):
        turns.ask(number)
    assert turns.take(1)
    assert not turns.take(2)
    turns.end()
    assert called == [2, 3]
    assert turns.take(3)
    turns.end()
    assert not turns.take(3)  # two requests gave number 3 one turn
    assert turns.take(2)


def test_no_number_is_called_after_withdrawal_or_close() -> None:
    called: list[int] = []

    def call(number: int) -> bool:
        called.append(number)
        return True

    turns = SnapshotQueue(call)
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
