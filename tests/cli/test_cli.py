"""The `depot` command, as a person at a terminal meets it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.auth.keys import key_id
from service.database.database import SCHEMA
from service.settings import os_reason
from service.testing import database_url_for, execute
from tests.support.depot_command import DEPOT, NEW_INTERPRETER, run_depot, start_depot
from tests.support.depot_process import depot_serve


def depot(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return run_depot(arguments, env={**inherited(), **environment})


def inherited() -> dict[str, str]:
    """Return the environment without settings of Depot."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("DEPOT_") and name != "DATABASE_URL"
    }


def assert_one_clear_line(outcome: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert outcome.returncode != 0
    assert outcome.stdout == ""
    assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr
    for word in words:
        assert word in outcome.stderr


@pytest.mark.parametrize("command", ["serve", "worker", "migrate", "keys list", "audit verify"])
def test_without_a_database_it_does_not_start(command: str, tmp_path: Path) -> None:
    assert_one_clear_line(depot(*command.split(), DEPOT_HOME=str(tmp_path)), "DATABASE_URL")
    assert list(tmp_path.iterdir()) == []


def test_migrate_says_what_it_did(server_url: str) -> None:
    name = f"depot_test_{uuid4().hex[:12]}"
    execute(server_url, f"create database {name}")
    url = database_url_for(server_url, name)
    try:
        migrated = depot("migrate", DATABASE_URL=url).stdout
        assert migrated == f"the schema was migrated from nothing to {SCHEMA}\n"
        assert (
            depot("migrate", DATABASE_URL=url).stdout
            == f"the schema is already at {SCHEMA}; nothing was changed\n"
        )
    finally:
        execute(server_url, f"drop database {name} with (force)")


def test_the_installed_script_says_the_same() -> None:
    done = subprocess.run([DEPOT, "serve"], env=inherited(), capture_output=True, text=True, timeout=60)
    assert_one_clear_line(done, "DATABASE_URL")


def test_a_setting_it_does_not_know_stops_the_start() -> None:
    assert_one_clear_line(depot("serve", DEPOT_POLL_SIZE="3"), "DEPOT_POLL_SIZE")


def test_a_bad_setting_stops_the_start(database_url: str) -> None:
    assert_one_clear_line(depot("serve", DATABASE_URL=database_url, PORT="x"), "PORT", "'x'")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://127.0.0.1:1/depot", "Connection refused\n"),
        ("postgresql://depot@/depot?host=/nowhere", "No such file or directory\n"),
        ("postgresql://nowhere.invalid/depot", "Name or service not known\n"),
    ],
)
def test_an_unreachable_database_stops_a_command(url: str, why: str) -> None:
    outcome = depot("keys", "list", DATABASE_URL=url)
    assert_one_clear_line(outcome, f"depot: cannot reach the database: {why}")


class TwoAddresses(asyncio.SelectorEventLoop):
    """An event loop for which each host has two addresses, as `localhost` has on most machines."""

    async def getaddrinfo(self, host: object, port: object, **_: object) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (f"127.0.0.{n}", port)) for n in (1, 2)]


def test_a_failure_at_each_address_of_a_host_has_one_reason() -> None:
    loop = TwoAddresses()
    with closing(loop), pytest.raises(OSError, match="Multiple exceptions") as failure:
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, "localhost", 1))
    assert os_reason(failure.value) == "Connection refused"


def test_an_error_without_a_number_is_its_own_reason() -> None:
    assert os_reason(ConnectionError("every server is deposed")) == "every server is deposed"


def test_a_database_that_does_not_exist_stops_the_start(database_url: str) -> None:
    assert_one_clear_line(
        depot("serve", DATABASE_URL=database_url.replace("depot_test_", "depot_no_")), "no_"
    )


def test_a_taken_port_stops_the_start(database_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        in_use = f"cannot listen on 127.0.0.1:{port}: Address already in use\n"
        assert_one_clear_line(depot("serve", DATABASE_URL=database_url, PORT=port), in_use)
        assert_one_clear_line(depot("dev", DEPOT_HOME=str(tmp_path / "home"), PORT=port), in_use)


def test_an_invalid_port_stops_the_start(database_url: str) -> None:
    refused = depot("serve", "--port", "99999", DATABASE_URL=database_url)
    assert refused.returncode != 0
    assert "99999" in refused.stderr


def test_without_a_schema_keys_say_what_to_do(server_url: str) -> None:
    assert_one_clear_line(depot("keys", "list", DATABASE_URL=server_url), "depot migrate")


def test_a_key_needs_a_name(database_url: str) -> None:
    made = depot("keys", "create", "--name", "", "--scope", "admin", DATABASE_URL=database_url)
    assert made.returncode == 2
    assert "Traceback" not in made.stderr
    assert "name" in made.stderr


def test_an_unknown_revision_is_named(database_url: str) -> None:
    migrated = depot("migrate", "nowhere", DATABASE_URL=database_url)
    assert_one_clear_line(migrated, f"there is no revision nowhere; use head or 0001 to {SCHEMA}")


def test_migrate_leaves_a_schema_that_is_newer_than_this_version(database_url: str) -> None:
    """A deployment that is rolled back migrates first, too."""
    execute(database_url, "update schema_version set version_num = '9999'")
    migrated = depot("migrate", DATABASE_URL=database_url)
    newer = f"newer than this version's {SCHEMA}"
    assert migrated.stdout == f"the schema is already at 9999, which is {newer}; nothing was changed\n"
    assert migrated.returncode == 0


def test_the_address_of_another_machine_stops_the_start(database_url: str) -> None:
    assert_one_clear_line(
        depot("serve", DATABASE_URL=database_url, HOST="203.0.113.7", PORT="0"), "203.0.113.7"
    )


def test_a_created_key_is_printed_alone_and_works(database_url: str, tmp_path: Path) -> None:
    scope = ["--scope", "items:read"]
    made = depot("keys", "create", "--name", "shop", *scope, DATABASE_URL=database_url, **NEW_INTERPRETER)
    key = made.stdout.strip()
    assert made.returncode == 0
    assert made.stdout == key + "\n"
    assert key_id(key)
    with depot_serve(database_url, tmp_path / "home") as server:
        reply = httpx.get(f"{server.url}/items", headers={"Authorization": f"Bearer {key}"})
        assert reply.status_code == 200


def test_a_revoked_key_is_listed_as_such(database_url: str) -> None:
    key = depot(
        "keys", "create", "--name", "shop", "--scope", "admin", DATABASE_URL=database_url
    ).stdout.strip()
    identity = key_id(key)
    assert identity
    assert depot("keys", "revoke", identity, DATABASE_URL=database_url).returncode == 0
    listed = depot("keys", "list", DATABASE_URL=database_url).stdout
    assert "revoked" in next(line for line in listed.splitlines() if identity in line)
    assert key.removeprefix(f"depot_{identity}_") not in listed


def test_a_listing_for_a_pipe_is_whole(database_url: str) -> None:
    name, scopes = "backend of the shop " * 5, ("items:read", "items:write", "orders:read", "orders:write")
    chosen = [argument for scope in (*scopes, *scopes) for argument in ("--scope", scope)]
    key = depot("keys", "create", "--name", name, *chosen, DATABASE_URL=database_url).stdout.strip()
    (line,) = depot("keys", "list", DATABASE_URL=database_url, COLUMNS="40").stdout.splitlines()
    identity, listed, granted, _, *state = line.split("\t")
    assert (identity, listed, granted.split()) == (key_id(key), name, [*scopes])
    assert state == ["valid", "never", "default"]


def test_a_rotated_key_is_printed_alone_and_listed_with_its_limit(database_url: str) -> None:
    arguments = ("--name", "shop", "--scope", "admin", "--rate-limit", "600/minute")
    old = depot("keys", "create", *arguments, DATABASE_URL=database_url).stdout.strip()
    rotated = depot("keys", "rotate", str(key_id(old)), "--overlap", "24h", DATABASE_URL=database_url)
    new = rotated.stdout.strip()
    assert rotated.stdout == new + "\n"
    assert key_id(new)
    lines = depot("keys", "list", DATABASE_URL=database_url).stdout.splitlines()
    listed = {line.split("\t")[0]: line.split("\t")[4:] for line in lines}
    assert listed[str(key_id(new))] == ["valid", "never", "600/minute"]
    assert listed[str(key_id(old))][0].startswith("valid until ")


@pytest.mark.parametrize("arguments", [["--overlap", "a day"], ["--overlap", "999d"], []])
def test_an_impossible_rotation_is_one_clear_error(database_url: str, arguments: list[str]) -> None:
    refused = depot("keys", "rotate", "nobody", *arguments, DATABASE_URL=database_url)
    assert refused.returncode != 0
    assert refused.stdout == ""
    assert "Traceback" not in refused.stderr
    assert ("366d" if arguments else "nobody") in refused.stderr


@pytest.mark.parametrize("rate", ["600", "0/minute", "600/fortnight", "600/minute\n"])
def test_an_invalid_rate_limit_is_rejected(database_url: str, rate: str) -> None:
    arguments = ("--name", "shop", "--scope", "admin", "--rate-limit", rate)
    made = depot("keys", "create", *arguments, DATABASE_URL=database_url)
    assert made.returncode == 2
    assert "600/minute" in made.stderr
    assert made.stdout == ""


def test_an_unknown_scope_is_refused(database_url: str) -> None:
    made = depot("keys", "create", "--name", "shop", "--scope", "items:own", DATABASE_URL=database_url)
    assert made.returncode == 2
    assert "items:own" in made.stderr
    assert "reports:read" in made.stderr
    assert "reports:write" not in made.stderr
    assert made.stdout == ""


def test_revoking_an_unknown_key_fails(database_url: str) -> None:
    assert depot("keys", "revoke", "nobody", DATABASE_URL=database_url).returncode != 0


@pytest.mark.parametrize("command", ["serve", "worker", "migrate"])
def test_a_command_that_has_not_started_yet_ends_on_sigterm(command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        url = f"postgresql://depot@127.0.0.1:{silent.getsockname()[1]}/depot"
        process = start_depot([command], env={**os.environ, "DATABASE_URL": url})
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 128 + signal.SIGTERM


def test_a_command_ends_soon_even_if_sigterm_is_swallowed() -> None:
    code = """
import contextlib, os, signal, time
from service import cli
signal.signal(signal.SIGTERM, cli.terminate)
with contextlib.suppress(SystemExit):
    os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 128 + signal.SIGTERM


def test_help_needs_no_database_driver() -> None:
    code = "import sys, service.cli; sys.exit(any(name in sys.modules for name in ('asyncpg', 'litestar')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_several_workers_serve_one_port_and_end_together(database_url: str, tmp_path: Path) -> None:
    with depot_serve(database_url, tmp_path / "home", "--workers", "2", DEPOT_DRAIN_SECONDS="0") as server:
        server.wait_for("listening", 2)
        assert httpx.get(f"{server.url}/health/ready").status_code == 200
        assert server.stop() == 0
