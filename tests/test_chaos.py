"""The client against a server that closes its connections at the worst moments: see `chaos.py`."""

from __future__ import annotations

import gc

import gevent
import pytest

from greenhttp.workers import Workers

from . import chaos
from .support import eventually


def living() -> list[gevent.Greenlet]:
    """Greenlets that have begun and not ended, but for the workers at rest that a hub keeps."""
    spare = Workers.of(gevent.get_hub()).spare
    return [
        found
        for found in gc.get_objects()
        if isinstance(found, gevent.Greenlet) and found.started and not found.dead and found not in spare
    ]


def test_each_of_3000_requests_ends_once_and_nothing_is_left(caplog: pytest.LogCaptureFixture):
    """Behaviours 6.7, 6.8, 3.19; design: the one safe retry, queueing, fire and forget."""
    before, count = len(living()), 3000
    report = chaos.run(count)

    assert report.wrong == []
    assert sum(report.outcomes.values()) == count
    assert set(report.outcomes) == {"response", "error", "cut", "forgotten", "interrupted"}
    assert all(report.closes[point] > 20 for point in chaos.POINTS), report.closes
    assert report.outcomes["response"] > 0.8 * count
    assert report.repeated > 10
    gc.collect()
    untold = [record.getMessage() for record in caplog.records]
    assert all("nobody was told" in message for message in untold), untold
    assert len(untold) < report.forgotten
    eventually(lambda: len(living()) <= before, "the end of all greenlets")
