"""Backends of this machine: this process, or several processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from milpath.runs.child import Child, Died, TimedOut, end_children, wait_for_children
from milpath.runs.outcome import (
    Item,
    Job,
    Outcome,
    Stop,
    attempt_slide,
    crashed_outcome,
    never_stop,
    timed_out_outcome,
)


@dataclass(frozen=True)
class Inline:
    """This process."""

    threads: int = 1

    def run(
        self, job: Job[Item], items: Sequence[Item], stop: Stop = never_stop
    ) -> Iterator[Outcome]:
        """Process one item after the other."""
        for item in items:
            if stop():
                return
            yield attempt_slide(job, item)


@dataclass(frozen=True)
class Processes:
    """Processes of this machine; they are spawned, and share nothing."""

    workers: int
    threads: int = 1
    timeout: float | None = None
    """Seconds that an item may take; then it has failed, and its process is replaced."""

    def run(
        self, job: Job[Item], items: Sequence[Item], stop: Stop = never_stop
    ) -> Iterator[Outcome]:
        """Process as many items at a time as there are workers.

        An item whose process died is retried last and alone, with all of the memory.
        """
        for retry in (yield from self._spread(job, items, self.workers, stop)):
            for failed in (yield from self._spread(job, [retry], 1, stop)):
                yield crashed_outcome(failed)

    def _spread(
        self, job: Job[Item], items: Sequence[Item], workers: int, stop: Stop
    ) -> Generator[Outcome, None, list[Item]]:
        """Process the items; return those whose process died."""
        waiting = deque(items)
        retries: list[Item] = []
        idle: list[Child[Item]] = []
        busy: list[Child[Item]] = []
        try:
            while True:
                while waiting and len(busy) < workers and not stop():
                    busy.append(idle.pop() if idle else Child(self.timeout))
                    busy[-1].begin(job, waiting.popleft())
                if not busy:
                    return retries
                for child in wait_for_children(busy):
                    end = child.receive()
                    if end is None:
                        continue
                    busy.remove(child)
                    if isinstance(end, Died):
                        retries.append(child.item)
                    elif isinstance(end, TimedOut):
                        yield timed_out_outcome(child.item, end.seconds)
                    else:
                        idle.append(child)
                        yield end
        finally:
            end_children([*idle, *busy])
