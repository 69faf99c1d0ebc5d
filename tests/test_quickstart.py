"""The programs of docs/quickstart.md, run as users run them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.requirements import requires

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (DOCS / "quickstart.md").read_text(), re.DOTALL | re.MULTILINE)
PAGE = dict(BLOCKS)
PROGRAMS = {"python": ("quickstart.py", sys.executable), "js": ("quickstart.mjs", "node")}


@pytest.mark.parametrize("language", ["python", pytest.param("js", marks=requires("node"))])
def test_a_quickstart_prints_what_its_page_shows(language: str, depot_url: str, depot_key: str) -> None:
    name, interpreter = PROGRAMS[language]
    command = [interpreter, str(DOCS / name), depot_url, depot_key]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (completed.stdout, completed.stderr) == (PAGE["text"], "")


@pytest.mark.parametrize("language", PROGRAMS)
def test_the_page_has_the_program_that_is_tested(language: str) -> None:
    assert PAGE[language] == (DOCS / PROGRAMS[language][0]).read_text()
