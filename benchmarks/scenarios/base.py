"""What every scenario is: a name, its columns, a check, a measurement."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..results import Measurement, Metric
from ..server import Server
from ..settings import Settings

__all__ = ["Scenario"]


class Scenario(ABC):
    """Stateless: the runner brings a fresh server for each run, so that none inherits another's heap."""

    name: str
    title: str
    metrics: tuple[Metric, ...]  # the first is the headline
    programs: tuple[str, ...] = ()  # what must be on PATH

    def open_files(self, settings: Settings) -> int:
        """How many descriptors we or the server need at a time."""
        return 256

    @abstractmethod
    def estimate(self, settings: Settings) -> float:
        """About how many seconds one run takes, for the progress display."""

    @abstractmethod
    def check(self, server: Server) -> None:
        """Ask what will be timed once; raises VoidRunError if the answer is not right to the byte."""

    @abstractmethod
    def measure(self, server: Server, settings: Settings) -> Measurement:
        """Warm up, then measure. Raises VoidRunError at any error under load."""
