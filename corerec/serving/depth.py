"""How many RPCs to a replica are under way at once: found by trying, within a bound.

One carries the largest batches and lets the replica wait for the next while an answer travels; more
keep it busy and split the batches. Which is better depends on the network, the cores and the load,
so it is measured: twice or half the depth is tried for a while, between two looks at the present
one, and kept when entries then spend less time from their arrival to their result. Where callers
wait for one answer before they ask again, that is also what answers most (Little's law).
"""

from __future__ import annotations

_RPCS = 48  # in one look; the first few are still those of the depth before
_SKIPPED = 8
_BETTER, _NO_WORSE = 0.93, 1.0  # of the time before: to go deeper, to go back
_LOOKS_MOST = 32  # between two trials, when nothing changes


class Depth:
    """The depth of one stage's replicas.

    Args:
        most: greatest depth; 1 tries nothing.
    """

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self.value = 1
        """RPCs that may be under way per replica now."""
        self._settled, self._tried, self._deeper = 1, 1, True
        self._wait = self._looks_left = 1
        self._before: float | None = None
        self._trial: float | None = None
        self._rpcs, self._seconds, self._entries = 0, 0.0, 0

    def record(self, entry_seconds: float, entries: int) -> None:
        """Note an answered RPC: the time that its entries spent in the stage, summed."""
        if self._most == 1:
            return
        self._rpcs += 1
        if self._rpcs > _SKIPPED:
            self._seconds += entry_seconds
            self._entries += entries
        if self._rpcs >= _RPCS:
            mean = self._seconds / max(1, self._entries)
            self._rpcs, self._seconds, self._entries = 0, 0.0, 0
            self._look(mean)

    def _look(self, mean: float) -> None:
        """Go on after a look that found entries to spend `mean` seconds."""
        if self.value != self._settled:  # a trial has ended; look at the depth before once more
            self._trial, self.value = mean, self._settled
        elif self._trial is not None and self._before is not None:
            self._judge(self._trial, (self._before + mean) / 2)
            self._trial, self._before = None, mean
        else:
            self._before = mean
            self._looks_left -= 1
            if self._looks_left <= 0:
                self._try()

    def _try(self) -> None:
        tried = min(self._most, 2 * self._settled) if self._deeper else max(1, self._settled // 2)
        if tried == self._settled:  # at an end: the other way, after another look
            self._deeper, self._looks_left = not self._deeper, 1
        else:
            self._tried = self.value = tried

    def _judge(self, trial: float, before: float) -> None:
        wanted = _BETTER if self._deeper else _NO_WORSE
        if trial <= wanted * before:
            self.value = self._settled = self._tried
            self._wait = 1  # and on in this direction, soon
        else:
            self._deeper = not self._deeper
            self._wait = min(_LOOKS_MOST, 2 * self._wait)
        self._looks_left = self._wait
