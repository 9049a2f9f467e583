"""Define `kill_some`, which kills a stream several times, and `Ended`, the result of a killed stream."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.restarted_stream import Stream
from tests.chaos.verdict import Verdict


@dataclass
class Ended:
    """The result of one stream that was killed.

    Attributes:
        verdict: the comparison with the stream without kills.
        killed: for each kill, what was killed.
        recovery_s: seconds from each start to the first progress.
        swaps: number of changes of the model version.
    """

    verdict: Verdict
    killed: list[str]
    recovery_s: list[float]
    swaps: int = 0


def kill_some(
    stream: Stream,
    kills: int,
    rng: random.Random,
    before: Callable[[int], None],
    feed: Callable[[bool], None] = lambda waits_for_input: None,
    is_due: Callable[[], bool] | None = None,
) -> list[str]:
    """Kill a stream ``kills`` times, unless the stream ends earlier.

    Each kill ends the stream's pipeline, its Prism or both.

    Args:
        stream: the stream; it is started again after each kill.
        kills: the number of kills.
        rng: see `Stream.run_until_kill`.
        before: called before each run with the number of kills left.
        feed, is_due: see `Stream.run_until_kill`.

    Returns:
        For each kill, what was killed: "pipeline", "prism" or "both".
    """
    killed: list[str] = []
    try:
        while len(killed) < kills:
            before(kills - len(killed))
            what = stream.run_until_kill(rng, feed, is_due)
            if not what:
                print(f"  ended by itself after {len(killed)} of {kills} kills", flush=True)
                break
            killed.append(what)
            print(f"  kill {len(killed)}: {what}", flush=True)
    finally:
        stream.end()
    return killed
