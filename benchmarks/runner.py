"""The order of the runs: scenario by scenario, in each round every contender once, in a fresh process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .contenders import Contender
from .progress import Progress
from .results import Results, Run, VoidRunError
from .scenarios import Scenario
from .settings import Settings

__all__ = ["Plan", "compare"]

_START = 1.0  # seconds, roughly, to start and stop a process, for the estimate

Plan = Sequence[tuple[Scenario, Sequence[Contender]]]  # who takes part in what, in this order


def compare(plan: Plan, settings: Settings, core: int) -> Iterator[tuple[Scenario, Results]]:
    """Run everything; each scenario is yielded with its results as soon as it is done."""
    progress = Progress(
        [
            _START + scenario.estimate(settings)
            for scenario, contenders in plan
            for _ in range(settings.rounds * len(contenders))
        ]
    )
    try:
        for scenario, contenders in plan:
            results = Results(scenario.baseline)
            for number in range(1, settings.rounds + 1):
                for contender in contenders:
                    progress.step(f"{scenario.name}, round {number} of {settings.rounds}, {contender.name}")
                    results.add(contender.name, _run(scenario, contender, core, settings))
            progress.clear()
            yield scenario, results
    finally:
        progress.clear()


def _run(scenario: Scenario, contender: Contender, core: int, settings: Settings) -> Run:
    try:
        return scenario.run(contender, core, settings)
    except VoidRunError as void:
        return void
