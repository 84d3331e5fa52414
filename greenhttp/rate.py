"""How fast a body comes in, against the least that is tolerated. Pure: the time and the bytes come in as values."""

from __future__ import annotations

from .deadlines import NEVER

__all__ = ["RateMeter"]

GRACE = 5.0  # seconds before the first judgement. Precedent: Kestrel, as the default rate of 240 B/s


class RateMeter:
    """Bytes over the time that we waited for them.

    Args:
        minimum: bytes a second; 0 judges nothing.
        now: seconds of any clock that never goes back.
        count: bytes so far, from which on it counts.
    """

    __slots__ = ("_bytes", "_count", "_since", "_waited", "minimum")

    def __init__(self, minimum: float, now: float, count: int) -> None:
        self.minimum = minimum
        self._since = now  # of the present stretch of waiting; NEVER while paused
        self._count = count
        self._waited = 0.0
        self._bytes = 0

    def pause(self, now: float, count: int) -> None:
        """We stop waiting: the peer could not send if it wanted to."""
        if self._since != NEVER:
            self._waited += now - self._since
            self._bytes += count - self._count
            self._since = NEVER

    def resume(self, now: float, count: int) -> None:
        """We wait again."""
        if self._since == NEVER:
            self._since, self._count = now, count

    def next_check(self, now: float) -> float:
        """When to ask `too_slow` again."""
        return now + GRACE if self.minimum else NEVER

    def too_slow(self, now: float, count: int) -> bool:
        """Whether less than the minimum came in the time waited, after the grace."""
        if self._since == NEVER:
            return False
        waited = self._waited + now - self._since
        came = self._bytes + count - self._count
        return waited >= GRACE and came < self.minimum * waited
