"""Batches: each member gets the result that it would get alone, in the order of arrival."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from service.database.batch import REPLIES_PER_TURN, Batcher, BatchKind
from service.database.batch_key import BatchKey
from service.errors import DatabaseUnavailable, Overloaded

Outcome = int | Exception


class Deposit(Struct, frozen=True):
    """Adds to one account of the model; the result is the account's balance. Nothing falls below zero."""

    account: int
    amount: int


class Rejected(Exception):
    """The result of a deposit that would make its account negative."""


class Bank:
    """A store whose transactions take a turn of the event loop, and which records the batches that it ran."""

    def __init__(self) -> None:
        self.balances: dict[int, int] = {}
        self.batches: list[list[Deposit]] = []
        self.broken: set[Deposit] = set()
        """Deposits that break the whole batch that contains them, as invalid data does."""
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    @asynccontextmanager
    async def session(self) -> AsyncIterator["Bank"]:
        yield self

    async def apply(self, deposits: Sequence[Deposit]) -> list[Outcome]:
        await self.gate.wait()
        self.batches.append(list(deposits))
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if self.broken.intersection(deposits):
            raise ValueError("invalid data")
        return [self._apply_one(deposit) for deposit in deposits]

    def _apply_one(self, deposit: Deposit) -> Outcome:
        balance = self.balances.get(deposit.account, 0) + deposit.amount
        if balance < 0:
            return Rejected()
        self.balances[deposit.account] = balance
        return balance


async def _apply(bank: Bank, deposits: Sequence[Deposit]) -> list[Outcome]:
    return await bank.apply(deposits)


def batcher_of(bank: Bank, **options: Any) -> Batcher[Deposit, int]:
    kind = BatchKind(
        BatchKey("deposits"),
        _apply,
        conflict_key=lambda deposit: deposit.account,
        **{"size_max": 4, **options},
    )
    return Batcher(kind, bank.session)


async def results(batcher: Batcher[Deposit, int], deposits: Sequence[Deposit]) -> list[int | BaseException]:
    return await asyncio.gather(*map(batcher.join, deposits), return_exceptions=True)


accounts = st.builds(Deposit, account=st.integers(0, 3), amount=st.integers(-3, 3))


@given(
    deposits=st.lists(accounts, max_size=40), size_max=st.integers(1, 8), concurrency_max=st.integers(1, 3)
)
def test_results_are_those_of_one_by_one_in_the_order_of_arrival_per_row(
    deposits: list[Deposit], size_max: int, concurrency_max: int
) -> None:
    async def run() -> None:
        bank, alone = Bank(), Bank()
        batcher = batcher_of(bank, size_max=size_max, concurrency_max=concurrency_max)
        outcomes = await results(batcher, deposits)
        expected = [alone._apply_one(deposit) for deposit in deposits]
        assert [repr(outcome) for outcome in outcomes] == [repr(outcome) for outcome in expected]
        assert bank.balances == alone.balances

    asyncio.run(run())


@given(deposits=st.lists(accounts, max_size=40), size_max=st.integers(1, 8))
def test_two_mutations_of_one_row_never_share_a_batch(deposits: list[Deposit], size_max: int) -> None:
    async def run() -> list[list[Deposit]]:
        bank = Bank()
        await results(batcher_of(bank, size_max=size_max), deposits)
        return bank.batches

    for batch in asyncio.run(run()):
        assert len({deposit.account for deposit in batch}) == len(batch) <= size_max


@given(deposits=st.lists(accounts, min_size=1, max_size=20, unique=True), data=st.data())
def test_a_member_that_breaks_its_batch_fails_alone(deposits: list[Deposit], data: st.DataObject) -> None:
    broken = set(data.draw(st.lists(st.sampled_from(deposits))))

    async def run() -> None:
        bank = Bank()
        bank.broken = broken
        outcomes = await results(batcher_of(bank), deposits)
        for deposit, outcome in zip(deposits, outcomes, strict=True):
            assert isinstance(outcome, ValueError) == (deposit in broken)

    asyncio.run(run())


@given(count=st.integers(2, 12), turns=st.sampled_from([1, 2]), data=st.data())
def test_a_cancelled_caller_changes_nothing_for_the_others(
    count: int, turns: int, data: st.DataObject
) -> None:
    """The callers are cancelled after so many turns of the loop: before their batch runs, or meanwhile."""
    cancelled = set(data.draw(st.lists(st.integers(0, count - 1))))

    async def run() -> None:
        bank = Bank()
        batcher = batcher_of(bank, concurrency_max=1)
        bank.gate.clear()
        calls = [asyncio.create_task(batcher.join(Deposit(account, 1))) for account in range(count)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for position in cancelled:
            calls[position].cancel()
        bank.gate.set()
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for position, outcome in enumerate(outcomes):
            assert outcome == 1 or (position in cancelled and isinstance(outcome, asyncio.CancelledError))

    asyncio.run(run())


async def test_when_the_database_is_down_every_member_gets_the_error_and_none_is_retried() -> None:
    bank = Bank()
    bank.error = DatabaseUnavailable()
    outcomes = await results(batcher_of(bank), [Deposit(account, 1) for account in range(4)])
    assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 4
    assert len(bank.batches) == 1


async def test_an_idle_batcher_runs_a_request_in_the_next_turn_of_the_loop() -> None:
    bank = Bank()
    call = asyncio.create_task(batcher_of(bank).join(Deposit(1, 1)))
    for _ in range(3):  # the call starts, the batch starts, the bank takes its turn
        await asyncio.sleep(0)
    assert bank.batches == [[Deposit(1, 1)]]
    assert await call == 1


async def test_requests_that_arrive_while_a_batch_runs_share_the_next_one() -> None:
    bank = Bank()
    batcher = batcher_of(bank, concurrency_max=1, size_max=64)
    bank.gate.clear()
    first = asyncio.create_task(batcher.join(Deposit(0, 1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(batcher.join(Deposit(account, 1))) for account in range(1, 40)]
    await asyncio.sleep(0)
    assert len(batcher) == 39
    bank.gate.set()
    assert await asyncio.gather(first, *others) == [1] * 40
    assert [len(batch) for batch in bank.batches] == [1, 39]


async def test_a_read_sees_what_was_committed_before_it_arrived() -> None:
    bank = Bank()

    async def read(bank: Bank, accounts: Sequence[int]) -> list[Outcome]:
        balances: list[Outcome] = [bank.balances.get(account, 0) for account in accounts]
        await bank.gate.wait()
        return balances

    kind: BatchKind[int, int] = BatchKind(BatchKey("balances"), read)
    batcher = Batcher(kind, bank.session)
    bank.gate.clear()
    early = asyncio.create_task(batcher.join(1))
    for _ in range(2):  # the batch of the early read is sent
        await asyncio.sleep(0)
    bank.balances[1] = 5
    late = asyncio.create_task(batcher.join(1))
    await asyncio.sleep(0)
    bank.gate.set()
    assert await asyncio.gather(early, late) == [0, 5]


async def test_a_full_queue_rejects_without_running_anything() -> None:
    bank = Bank()
    batcher = batcher_of(bank, queue_max=2, concurrency_max=1)
    bank.gate.clear()
    running = asyncio.create_task(batcher.join(Deposit(0, 1)))
    for _ in range(2):
        await asyncio.sleep(0)
    waiting = [asyncio.create_task(batcher.join(Deposit(account, 1))) for account in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.join(Deposit(3, 1))
    bank.gate.set()
    assert await asyncio.gather(running, *waiting) == [1, 1, 1]
    assert 3 not in bank.balances


async def test_finishing_answers_every_request_first() -> None:
    bank = Bank()
    batcher = batcher_of(bank, concurrency_max=1)
    calls = [asyncio.create_task(batcher.join(Deposit(account, 1))) for account in range(10)]
    await asyncio.sleep(0)
    await batcher.finish()
    await asyncio.sleep(0)
    assert [call.done() for call in calls] == [True] * 10


async def test_a_request_can_be_queued_before_the_others() -> None:
    bank = Bank()
    batcher = batcher_of(bank, concurrency_max=1, size_max=1)
    late = [asyncio.create_task(batcher.join(Deposit(account, 1))) for account in (1, 2)]
    await asyncio.sleep(0)
    first = asyncio.create_task(batcher.join(Deposit(0, 1), first=True))
    await asyncio.gather(first, *late)
    assert [deposit.account for (deposit,) in bank.batches] == [1, 0, 2]


async def test_results_are_delivered_in_slices_so_that_other_work_gets_its_turn() -> None:
    bank = Bank()
    batcher = batcher_of(bank, size_max=64, concurrency_max=1)
    calls = [asyncio.create_task(batcher.join(Deposit(account, 1))) for account in range(40)]
    done_per_turn = []
    while not all(call.done() for call in calls):
        before = sum(call.done() for call in calls)
        await asyncio.sleep(0)
        done_per_turn.append(sum(call.done() for call in calls) - before)
    assert 0 < max(done_per_turn) <= REPLIES_PER_TURN
