"""When a failed delivery is tried again."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.webhooks.retries import SCHEDULE_SECONDS, retry_delay_seconds

LAST = len(SCHEDULE_SECONDS)


def test_the_first_retry_is_soon_and_all_of_them_take_three_days() -> None:
    pauses = [
        retry_delay_seconds(attempt, SCHEDULE_SECONDS, chance=0.5) or 0 for attempt in range(1, LAST + 1)
    ]
    assert pauses == [5, 30, 120, 600, 1800, 7200, 18000, 36000, 50400, 72000, 72000]
    assert 2.9 < sum(pauses) / 86_400 < 3.1
    assert all(earlier <= later for earlier, later in pairwise(pauses))


def test_after_the_last_retry_there_is_none() -> None:
    assert retry_delay_seconds(LAST, SCHEDULE_SECONDS, chance=0.5) is not None
    assert retry_delay_seconds(LAST + 1, SCHEDULE_SECONDS, chance=0.5, retry_after=60) is None


@given(attempt=st.integers(1, LAST), chance=st.floats(0, 1))
def test_deliveries_that_failed_together_are_retried_at_different_times(attempt: int, chance: float) -> None:
    pause = retry_delay_seconds(attempt, SCHEDULE_SECONDS, chance=chance)
    assert pause == pytest.approx(SCHEDULE_SECONDS[attempt - 1], rel=0.2 + 1e-9)
    first, last = (retry_delay_seconds(attempt, SCHEDULE_SECONDS, chance=edge) or 0 for edge in (0, 1))
    assert last / first == pytest.approx(1.5)


@given(attempt=st.integers(1, LAST), asked=st.floats(0, 1e9))
def test_a_receiver_can_lengthen_a_delay_up_to_a_day_but_not_shorten_it(attempt: int, asked: float) -> None:
    ours = retry_delay_seconds(attempt, SCHEDULE_SECONDS, chance=0.5) or 0
    pause = retry_delay_seconds(attempt, SCHEDULE_SECONDS, chance=0.5, retry_after=asked)
    assert pause == max(ours, min(asked, 86_400))
