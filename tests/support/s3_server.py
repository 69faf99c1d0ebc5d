"""An S3 server that rejects requests that are not signed with its secret."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.depot_command import start_depot
from tests.support.ports import free_port, wait_for_listener

NANIO = Path(sys.executable).with_name("nanio")
BUCKET, ACCESS, SECRET = "depot", "access", "secret-of-tests"
SHARED = "shared"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run the server until the block ends, with buckets as directories, and yield its URL."""
    (folder / BUCKET).mkdir()
    port = free_port()
    command = ["serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(folder)]
    environment = {**os.environ, "NANIO_ACCESS_KEY": ACCESS, "NANIO_SECRET_KEY": SECRET}
    with (folder / "log").open("wb") as log:
        server = start_depot(
            [*command, "--no-access-log"], env=environment, stdout=log, stderr=log, script=NANIO
        )
    try:
        wait_for_listener(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def account(endpoint: str) -> dict[str, str]:
    """Return the environment of an authorized client."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }


def new_url() -> str:
    """Return the URL of a new store."""
    return f"s3://{BUCKET}/{uuid4().hex}"


@contextmanager
def empty_store(endpoint: str, folder: Path) -> Iterator[str]:
    """Yield the URL of a store, and let this process use it. What the block leaves in it is deleted.

    All stores of a server have one URL, so that an application with this setting can be shared.
    """
    with pytest.MonkeyPatch.context() as environment:
        for name, value in account(endpoint).items():
            environment.setenv(name, value)
        yield f"s3://{BUCKET}/{SHARED}"
    shutil.rmtree(folder / BUCKET / SHARED, ignore_errors=True)
