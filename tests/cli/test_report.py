"""`depot report`: the same figures as the endpoint's, as lines, a table, CSV and a page."""

import os
import pty
from datetime import UTC, datetime
from pathlib import Path

import pytest

from conftest import Client
from tests.support.app_helpers import item, order
from tests.support.depot_command import NEW_INTERPRETER, run_depot, start_depot

TODAY = str(datetime.now(UTC).date())
DAY = (TODAY, "USD", "1", "19.98", "0.00", "19.98")


@pytest.fixture
async def sold(client: Client, database_url: str) -> dict[str, str]:
    """The environment of a command on a database in which something was sold."""
    assert (await order(client, (await item(client, 5, sku="BOLT"), 2))).status_code == 201
    return {**os.environ, "DATABASE_URL": database_url}


async def test_piped_output_has_a_line_for_each_day(sold: dict[str, str]) -> None:
    printed = run_depot(["report"], env={**sold, **NEW_INTERPRETER})
    assert (printed.returncode, printed.stdout) == (0, "\t".join(DAY) + "\n"), printed.stderr


def on_terminal(environment: dict[str, str]) -> str:
    """Run the command with a terminal as its output, and return what it prints."""
    terminal, end = pty.openpty()
    command = start_depot(["report"], env={**environment, "COLUMNS": "120"}, stdout=end)
    assert command.wait(timeout=60) == 0
    os.close(end)
    printed = os.read(terminal, 65_536).decode()
    os.close(terminal)
    return printed


async def test_a_terminal_gets_tables(sold: dict[str, str]) -> None:
    printed = on_terminal(sold)
    assert "total" in printed
    assert "19.98" in printed
    assert "BOLT" in printed


async def test_csv_is_that_of_the_endpoint(sold: dict[str, str], client: Client) -> None:
    printed = run_depot(["report", "--csv"], env=sold)
    served = await client.get("/reports/financial", headers={"Accept": "text/csv"})
    assert printed.stdout.splitlines() == served.text.splitlines()


async def test_a_page_is_written_to_a_file(sold: dict[str, str], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    printed = run_depot(["report", "--html", str(page)], env=sold)
    assert printed.stdout == f"{page}\n"
    assert "BOLT" in page.read_text()


async def test_a_page_is_opened_in_a_browser(sold: dict[str, str], tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "xdg-open"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
    browser.chmod(0o755)
    environment = {**sold, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    printed = run_depot(["report", "--open"], env=environment)
    assert printed.returncode == 0, printed.stderr
    assert opened.read_text() == printed.stdout.strip()
    assert opened.read_text().endswith(".html")


async def test_a_period_and_a_currency_select(sold: dict[str, str]) -> None:
    assert run_depot(["report", "--currency", "EUR"], env=sold).stdout == ""
    assert run_depot(["report", "--from", TODAY], env=sold).stdout != ""
    assert run_depot(["report", "--to", TODAY], env=sold).stdout == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--currency", "usd"], "ISO 4217"),
        (["--from", "yesterday"], "must be a date such as 2026-11-23"),
        (["--from", "2026-01-02", "--to", "2026-01-02"], "before"),
        (["--csv", "--html", "x.html"], "--csv"),
    ],
)
async def test_wrong_options_are_named(sold: dict[str, str], arguments: list[str], expected: str) -> None:
    printed = run_depot(["report", *arguments], env=sold)
    assert printed.returncode == 2
    assert expected in printed.stderr
    assert printed.stdout == ""
