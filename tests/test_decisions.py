"""Tests that the decisions name tests and modules that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRIVATE_APIS = (ROOT / "docs" / "decisions" / "0016-private-apis.md").read_text()


def test_the_tests_of_private_apis_exist() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    named = re.findall(r"`(?:tests/\w+/)?(test_\w+\.py)(?:::(\w+))?`", PRIVATE_APIS)
    assert len(named) > 10
    assert [pair for pair in named if f"def {pair[1]}" not in sources.get(pair[0], "")] == []


def test_the_modules_that_use_private_apis_exist() -> None:
    named = re.findall(r"`(\w+/\w+\.py)`", PRIVATE_APIS)
    assert named
    assert [name for name in named if not (ROOT / "src" / "service" / name).is_file()] == []
