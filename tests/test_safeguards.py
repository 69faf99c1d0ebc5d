"""`make guards` breaks lines of the code by their text, so that text must be up to date."""

import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "mutation" / "safeguards.py"
SAFEGUARDS: list[Any] = runpy.run_path(str(SCRIPT))["SAFEGUARDS"]


@pytest.mark.parametrize("safeguard", SAFEGUARDS, ids=lambda safeguard: str(safeguard.promise))
def test_the_code_that_keeps_a_promise_is_where_the_list_says(safeguard: Any) -> None:
    assert safeguard.outdated() is None
