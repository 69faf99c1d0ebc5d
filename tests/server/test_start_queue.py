"""Tests of the order in which requests are started."""

import asyncio

from service.server.start_queue import STARTS_PER_TURN, StartQueue


async def test_requests_that_arrive_together_start_a_few_per_turn_and_in_order() -> None:
    queue, started = StartQueue(), list[int]()
    total = 2 * STARTS_PER_TURN + 1
    for number in range(total):
        queue.add(lambda number=number: started.append(number))
    turns = []
    while len(started) < total:
        turns.append(len(started))
        await asyncio.sleep(0)
    assert turns == [STARTS_PER_TURN, 2 * STARTS_PER_TURN]
    assert started == list(range(total))


async def test_a_request_starts_immediately_while_few_arrive() -> None:
    queue, started = StartQueue(), list[int]()
    for turn in range(3):
        for number in range(STARTS_PER_TURN):
            queue.add(lambda number=number: started.append(number))
        assert len(started) == (turn + 1) * STARTS_PER_TURN
        await asyncio.sleep(0)


async def test_a_request_does_not_overtake_those_that_wait() -> None:
    queue, started = StartQueue(), list[str]()
    for _ in range(2 * STARTS_PER_TURN):
        queue.add(lambda: started.append("first"))
    await asyncio.sleep(0)
    queue.add(lambda: started.append("last"))
    await asyncio.sleep(0)
    assert started == ["first"] * 2 * STARTS_PER_TURN + ["last"]
