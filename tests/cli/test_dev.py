"""`depot dev`: from nothing to a running service, and back to nothing."""

import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.depot_command import DEPOT, NEW_INTERPRETER, Process, run_depot, start_depot
from tests.support.requirements import requires_root

Start = Callable[..., Process]


@pytest.fixture
def home(home: Path) -> Path:
    """Return a directory whose name has to be quoted everywhere."""
    return home / "Ann's shop & 100% more"


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Start `depot dev` in `home`; whatever still runs at the end is killed."""
    started: list[Process] = []

    def run(**environment: str) -> Process:
        inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        process = start_depot(
            ["dev"],
            env={**inherited, "DEPOT_HOME": str(home), "PORT": "0", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()
    for server in postgres_of(home):
        server.kill()


def postgres_of(home: Path) -> list[psutil.Process]:
    """Return the running servers, without the children that have not named themselves yet."""
    processes = [
        process
        for process in psutil.process_iter(["name", "cmdline", "ppid"])
        if process.info["name"] == "postgres" and f"{home}/postgres" in (process.info["cmdline"] or [])
    ]
    ids = {process.pid for process in processes}
    return [process for process in processes if process.info["ppid"] not in ids]


def greeting(process: Process) -> str:
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            return "".join(lines)
    raise AssertionError(process.communicate())


def interrupt(process: Process) -> float:
    """Ctrl-C; the seconds until it is gone."""
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 0
    return time.monotonic() - begun


def test_it_greets_with_a_curl_that_works_when_pasted(start: Start, home: Path) -> None:
    text = greeting(start(**NEW_INTERPRETER))
    command = re.search(r"curl .*", text)
    assert command
    reply = subprocess.run(command[0], shell=True, capture_output=True, text=True)
    assert reply.stdout == '{"data":[],"next_cursor":null}'
    assert str(home / "api-key") in text
    assert stat.S_IMODE((home / "api-key").stat().st_mode) == 0o600
    assert (home / "api-key").read_text().strip() in command[0]


def test_ctrl_c_stops_everything_within_two_seconds_and_without_noise(start: Start, home: Path) -> None:
    process = start()
    greeting(process)
    assert postgres_of(home)
    assert interrupt(process) < 2
    assert postgres_of(home) == []
    assert process.stderr
    assert "Traceback" not in process.stderr.read()


def test_the_second_start_reuses_all_and_is_quick(start: Start, home: Path) -> None:
    interrupt_after = start()
    greeting(interrupt_after)
    key = (home / "api-key").read_text()
    interrupt(interrupt_after)
    begun = time.monotonic()
    greeting(start())
    assert time.monotonic() - begun < 10  # a guard against set-up done twice, not a benchmark
    assert (home / "api-key").read_text() == key


def test_after_a_kill_the_next_start_adopts_the_database_and_stops_it(start: Start, home: Path) -> None:
    killed = start()
    greeting(killed)
    killed.kill()
    killed.wait()
    orphan = postgres_of(home)
    assert orphan
    adopting = start()
    greeting(adopting)
    assert [process.pid for process in postgres_of(home)] == [process.pid for process in orphan]
    interrupt(adopting)
    assert postgres_of(home) == []


def test_two_share_one_home_and_the_last_turns_off_the_light(start: Start, home: Path) -> None:
    first, second = start(), start()
    greeting(first), greeting(second)
    interrupt(first)
    assert postgres_of(home)
    interrupt(second)
    assert postgres_of(home) == []


def test_administrative_commands_work_beside_it(start: Start, home: Path, tmp_path: Path) -> None:
    greeting(start())
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    environment["DEPOT_HOME"] = str(home)
    (tmp_path / "items.csv").write_text("sku,name,price\nA,Bolt,1.00\n")

    def depot(*arguments: str) -> str:
        return run_depot(arguments, env=environment, check=True).stdout

    key = depot("keys", "create", "--name", "shop", "--scope", "items:read").strip()
    identity = key.split("_")[1]
    assert identity in depot("keys", "list")
    assert depot("keys", "revoke", identity) == ""
    assert depot("items", "import", str(tmp_path / "items.csv")).startswith("1 created")
    assert "sealed events" in depot("audit", "verify")
    assert "already at" in depot("migrate")
    depot("doctor")
    assert postgres_of(home)


@requires_root
def test_a_directory_of_another_user_is_refused_in_one_line(home: Path) -> None:
    home.mkdir(mode=0o755)
    home.parent.chmod(0o755)
    ids = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    environment = {**os.environ, "DEPOT_HOME": str(home), "PORT": "0"}
    ended = subprocess.run([*ids, DEPOT, "dev"], env=environment, cwd="/", capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert "belongs to another user" in ended.stderr
