from __future__ import annotations

from pipelines.workers.snapshot_queue import SnapshotQueue


def test_each_turn_goes_to_the_shard_waiting_longest() -> None:
    called: list[int] = []

    def call(shard: int) -> bool:
        called.append(shard)
        return shard != 2  # a call of shard 2 fails, so the queue calls the next shard

    queue = SnapshotQueue(call)
    assert not queue.take(1)  # shard 1 has not requested a turn
    for shard in (1, 2, 3, 3):
        queue.ask(shard)
    assert queue.take(1)
    assert not queue.take(2)
    queue.end()
    assert called == [2, 3]
    assert queue.take(3)
    queue.end()
    assert not queue.take(3)  # the repeated request of shard 3 counts once
    assert queue.take(2)


def test_no_shard_is_called_after_withdrawal_or_close() -> None:
    called: list[int] = []

    def call(shard: int) -> bool:
        called.append(shard)
        return True

    queue = SnapshotQueue(call)
    for shard in (1, 2, 3):
        queue.ask(shard)
    assert queue.take(1)
    queue.withdraw(2)
    queue.end()
    assert called == [3]
    queue.close()
    queue.end()
    assert called == [3]
    assert not queue.take(3)
