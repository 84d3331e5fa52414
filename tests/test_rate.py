"""`RateMeter`: the time and the bytes are values here, so nothing waits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenhttp.rate import GRACE, RateMeter


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Pure code opens and logs nothing; to look for it after each of these many cases would take a minute."""


@pytest.mark.parametrize(
    ("waited", "came", "slow"),
    [
        (0.0, 0, False),
        (GRACE - 0.01, 0, False),
        (GRACE, 0, True),
        (GRACE, 499, True),
        (GRACE, 500, False),
        (10.0, 999, True),
        (10.0, 1000, False),
        (1e6, 10**9, False),
    ],
)
def test_below_100_bytes_a_second_after_the_grace_is_too_slow(waited: float, came: int, slow: bool):
    assert RateMeter(100, 50.0, 7).too_slow(50.0 + waited, 7 + came) is slow


def test_bytes_from_before_the_meter_began_do_not_count():
    assert RateMeter(100, 0.0, 10**6).too_slow(GRACE, 10**6)


def test_a_minimum_of_0_judges_nothing_and_is_never_to_be_asked_again():
    meter = RateMeter(0, 0.0, 0)
    assert meter.too_slow(1e9, 0) is False
    assert meter.next_check(3.0) == math.inf


def test_the_next_check_is_one_grace_ahead():
    assert RateMeter(1, 0.0, 0).next_check(3.0) == 3.0 + GRACE


def test_while_paused_nobody_is_too_slow():
    meter = RateMeter(100, 0.0, 0)
    meter.pause(1.0, 0)
    assert meter.too_slow(1e9, 0) is False


def test_time_and_bytes_of_a_pause_do_not_count():
    meter = RateMeter(100, 0.0, 0)
    meter.pause(3.0, 100)
    meter.resume(1000.0, 5000)
    assert meter.too_slow(1001.9, 5000) is False
    assert meter.too_slow(1002.0, 5000) is True
    assert meter.too_slow(1002.0, 5399) is True
    assert meter.too_slow(1002.0, 5400) is False


def test_a_second_pause_or_resume_in_a_row_changes_nothing():
    meter = RateMeter(100, 0.0, 0)
    meter.resume(4.0, 4000)
    assert meter.too_slow(GRACE, 0) is True
    meter.pause(4.0, 0)
    meter.pause(100.0, 10**6)
    meter.resume(100.0, 0)
    assert meter.too_slow(100.9, 0) is False
    assert meter.too_slow(101.0, 0) is True


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5000), st.booleans()), max_size=12), st.integers(1, 500))
def test_any_pauses_give_the_rate_over_the_time_waited(steps: list[tuple[int, int, bool]], minimum: int):
    """Each step lasts some seconds and brings some bytes, and is spent waiting or paused."""
    meter = RateMeter(minimum, 0.0, 0)
    now, count, waited, came = 0, 0, 0, 0
    for seconds, size, waiting in steps:
        (meter.resume if waiting else meter.pause)(float(now), count)
        now += seconds
        count += size
        if waiting:
            waited += seconds
            came += size
    meter.resume(float(now), count)
    assert meter.too_slow(float(now), count) is (waited >= GRACE and came < minimum * waited)
