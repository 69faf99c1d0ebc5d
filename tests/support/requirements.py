"""Programs and rights that some tests require. Without them a test is skipped, with a reason that says so."""

import os
import shutil

import pytest

SYSTEM_DIRECTORIES = "/usr/sbin:/usr/local/sbin"
"""The directories of servers, which are not in the PATH of every user."""


def find_program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=SYSTEM_DIRECTORIES)


def requires(program: str) -> pytest.MarkDecorator:
    package = {"node": "nodejs"}.get(program, program)
    reason = f"{program} is not installed; install the package {package}"
    return pytest.mark.skipif(find_program(program) is None, reason=reason)


requires_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can act as another user; run the suite as root"
)
