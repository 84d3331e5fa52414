"""What every scenario is: a name, its columns, who takes part, a run of it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .. import tls
from ..contenders import SERVERS, Contender
from ..exchange import Exchange
from ..payloads import HELLO
from ..results import BASELINE, Measurement, Metric
from ..server import Server
from ..settings import Settings

__all__ = ["Scenario", "ServerScenario"]


class Scenario(ABC):
    """Stateless: each run starts its processes afresh, so that none inherits another's heap."""

    name: str
    title: str
    metrics: tuple[Metric, ...]  # the first is the headline
    contenders: tuple[Contender, ...]
    baseline: str = BASELINE  # the contender that ratios refer to
    programs: tuple[str, ...] = ()  # what must be on PATH

    def open_files(self, settings: Settings) -> int:
        """How many descriptors we or the processes we start need at a time."""
        return 256

    @abstractmethod
    def estimate(self, settings: Settings) -> float:
        """About how many seconds one run takes, for the progress display."""

    @abstractmethod
    def greet(self, contender: Contender, core: int) -> str:
        """Start the contender once for next to nothing. Returns its versions.

        Raises:
            VoidRunError: it does not run here; the message says why.
        """

    @abstractmethod
    def run(self, contender: Contender, core: int, settings: Settings) -> Measurement:
        """One turn of the contender, on the core. Raises VoidRunError at any error."""


class ServerScenario(Scenario):
    """What is asked of servers."""

    contenders: tuple[Contender, ...] = SERVERS

    def greet(self, contender: Contender, core: int) -> str:
        with Server(contender, core) as server:
            Exchange("/hello", HELLO).check(server.port, server.context)
            return server.about

    def run(self, contender: Contender, core: int, settings: Settings) -> Measurement:
        with Server(contender, core) as server:
            if contender.secure:
                tls.probe(server.port)
            self.check(server)
            try:
                measurement = self.measure(server, settings)
            finally:
                server.must_be_alive()  # if it died, that is the reason to give, not the error that followed
            return measurement

    @abstractmethod
    def check(self, server: Server) -> None:
        """Ask what will be timed once; raises VoidRunError if the answer is not right to the byte."""

    @abstractmethod
    def measure(self, server: Server, settings: Settings) -> Measurement:
        """Warm up, then measure. Raises VoidRunError at any error under load."""
