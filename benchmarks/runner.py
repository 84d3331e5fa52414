"""The order of the runs: scenario by scenario, in each round every contender once, in a fresh server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .contenders import Contender
from .exchange import Exchange
from .payloads import HELLO
from .progress import Progress
from .results import Results, Run, VoidRunError
from .scenarios import Scenario
from .server import Server
from .settings import Settings

__all__ = ["compare", "greet"]

_START = 1.0  # seconds, roughly, to start and stop a server, for the estimate


def greet(contender: Contender, core: int) -> str:
    """Start the contender once for a single request. Returns its versions.

    Raises:
        VoidRunError: it does not run here; the message says why.
    """
    with Server(contender, core) as server:
        Exchange("/hello", HELLO).check(server.port)
        return server.about


def compare(
    scenarios: Sequence[Scenario], contenders: Sequence[Contender], settings: Settings, core: int
) -> Iterator[tuple[Scenario, Results]]:
    """Run everything; each scenario is yielded with its results as soon as it is done."""
    runs = settings.rounds * len(contenders)
    progress = Progress([_START + scenario.estimate(settings) for scenario in scenarios for _ in range(runs)])
    try:
        for scenario in scenarios:
            results = Results()
            for number in range(1, settings.rounds + 1):
                for contender in contenders:
                    progress.step(f"{scenario.name}, round {number} of {settings.rounds}, {contender.name}")
                    results.add(contender.name, _run(scenario, contender, settings, core))
            progress.clear()
            yield scenario, results
    finally:
        progress.clear()


def _run(scenario: Scenario, contender: Contender, settings: Settings, core: int) -> Run:
    try:
        with Server(contender, core) as server:
            scenario.check(server)
            try:
                measurement = scenario.measure(server, settings)
            finally:
                server.must_be_alive()  # if it died, that is the reason to give, not the error that followed
            return measurement
    except VoidRunError as void:
        return void
