"""`depot` for tests: forked, which takes a tenth of the time, unless that could make a difference."""

import os

import pytest

from tests.support.depot_command import NEW_INTERPRETER, ForkedProcess, start_depot


@pytest.fixture
def prepared() -> dict[str, str]:
    """Return the environment of a command, as a fixture sees it."""
    return {**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}


def is_forked(environment: dict[str, str]) -> bool:
    process = start_depot(["--version"], env=environment)
    process.wait(60)
    return isinstance(process, ForkedProcess)


def test_a_command_whose_environment_a_fixture_prepared_is_forked(prepared: dict[str, str]) -> None:
    assert is_forked(prepared)


@pytest.mark.parametrize(
    "difference", [NEW_INTERPRETER, {"PYTHONHASHSEED": "1"}], ids=["asked for", "of Python"]
)
def test_a_command_with_another_environment_gets_a_new_interpreter(
    prepared: dict[str, str], difference: dict[str, str]
) -> None:
    assert not is_forked({**prepared, **difference})
