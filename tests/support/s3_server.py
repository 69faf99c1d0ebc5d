"""An S3 server that rejects requests that are not signed with its secret."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tests.support.ports import free_port, wait_for_listener

NANIO = Path(sys.executable).with_name("nanio")
BUCKET, ACCESS, SECRET = "depot", "access", "secret-of-tests"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run the server until the block ends, with buckets as directories, and yield its URL."""
    (folder / BUCKET).mkdir()
    port = free_port()
    command = [NANIO, "serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", folder]
    environment = {"NANIO_ACCESS_KEY": ACCESS, "NANIO_SECRET_KEY": SECRET}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*command, "--no-access-log"], env=environment, stdout=log, stderr=log)
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
