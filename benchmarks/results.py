"""What runs yield, and what is computed from it: medians, and ratios to the baseline round by round.

Pure: no clock, no process, no printing.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = [
    "BASELINE",
    "BUSY",
    "CLIENT_BUSY",
    "CPU_PER_MIB",
    "CPU_PER_REQUEST",
    "MIB_PER_SECOND",
    "PEAK_GROWTH",
    "REQUESTS_PER_SECOND",
    "Measurement",
    "Metric",
    "Results",
    "Run",
    "VoidRunError",
]

BASELINE = "node"  # the contender that ratios refer to, unless the scenario has another


class VoidRunError(Exception):
    """The run does not count: a wrong answer, an error under load, a dead server. The message says which."""


@dataclass(frozen=True)
class Metric:
    """One column of figures. `compared` is False where a ratio to the baseline would say nothing."""

    name: str
    digits: int = 0
    higher_is_better: bool = True
    compared: bool = True


REQUESTS_PER_SECOND = Metric("requests/s")
MIB_PER_SECOND = Metric("MiB/s")
CPU_PER_REQUEST = Metric("CPU us/request", digits=1, higher_is_better=False)
CPU_PER_MIB = Metric("CPU us/MiB", higher_is_better=False)
BUSY = Metric("server busy %", compared=False)  # well below 100: something else was the limit, so read the CPU
CLIENT_BUSY = Metric("client busy %", compared=False)
PEAK_GROWTH = Metric("peak growth MiB", digits=1, higher_is_better=False)

Measurement = Mapping[Metric, float]
Run = Measurement | VoidRunError


@dataclass
class Results:
    """The runs of one scenario: for each contender one entry a round, a measurement or why it is void."""

    baseline: str = BASELINE
    runs: dict[str, list[Run]] = field(default_factory=dict)

    def add(self, contender: str, run: Run) -> None:
        self.runs.setdefault(contender, []).append(run)

    def median(self, contender: str, metric: Metric) -> float | None:
        """The median over the rounds that count, None if there is none."""
        return _median([run[metric] for run in self.runs[contender] if not isinstance(run, VoidRunError)])

    def ratios(self, contender: str, metric: Metric) -> list[float | None]:
        """Contender / baseline, round by round; None where either run is void or the baseline's figure is 0.

        Both runs of a pair come from the same minute, so what slows the whole machine down cancels out.
        """
        pairs = zip(self.runs[contender], self.runs.get(self.baseline, []), strict=False)
        return [_quotient(run, base, metric) for run, base in pairs]

    def ratio(self, contender: str, metric: Metric) -> float | None:
        """The median of `ratios()`."""
        return _median([ratio for ratio in self.ratios(contender, metric) if ratio is not None])

    def voids(self) -> list[tuple[str, int, VoidRunError]]:
        """Contender, round (from 1) and reason of each void run."""
        return [
            (contender, number, run)
            for contender, runs in self.runs.items()
            for number, run in enumerate(runs, 1)
            if isinstance(run, VoidRunError)
        ]


def _quotient(run: Run, base: Run, metric: Metric) -> float | None:
    if isinstance(run, VoidRunError) or isinstance(base, VoidRunError) or base[metric] <= 0:
        return None
    return run[metric] / base[metric]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
