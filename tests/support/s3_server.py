"""An S3 server that rejects requests that are not signed with its secret."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

NANIO = Path(sys.executable).with_name("nanio")
BUCKET, ACCESS, SECRET = "depot", "access", "secret-of-tests"
START_SECONDS = 20.0


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run the server until the block ends, with buckets as directories, and yield its URL."""
    (folder / BUCKET).mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [NANIO, "serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", folder]
    environment = {"NANIO_ACCESS_KEY": ACCESS, "NANIO_SECRET_KEY": SECRET}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*command, "--no-access-log"], env=environment, stdout=log, stderr=log)
    try:
        _wait_for(port)
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


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < deadline, "the S3 server did not start"
            time.sleep(0.05)
        else:
            return
