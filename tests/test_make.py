"""The Makefile's care for .venv and for data, in a copy of the few files it needs."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECK = ROOT / "requirements" / "check-venv"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a directory with a virtual environment that is as `make` leaves it."""
    project = tmp_path / "Ann's shop & 100% more"
    project.mkdir()
    # What `python -m venv` writes, without the time that pip takes.
    venv.EnvBuilder(symlinks=True, with_pip=False).create(project / ".venv")
    config = project / ".venv" / "pyvenv.cfg"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("command")]
    lines.append(f"command = {sys.executable} -m venv {project}/.venv")
    config.write_text("\n".join(lines) + "\n")
    (project / ".venv" / "local").touch()
    return project


def check(project: Path, *python: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([CHECK, *python], cwd=project, capture_output=True, text=True)


def base_python() -> str:
    return str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")


def test_a_whole_environment_stays(project: Path) -> None:
    for python in ([], [base_python()]):
        checked = check(project, *python)
        assert (checked.returncode, checked.stderr) == (0, "")
    assert (project / ".venv").exists()


def test_without_an_environment_there_is_nothing_to_check(tmp_path: Path) -> None:
    assert check(tmp_path).returncode == 0


def test_one_that_was_moved_is_deleted(project: Path) -> None:
    moved = check(project.rename(project.with_name("moved")))
    assert moved.stderr == "Deleting .venv: it was moved.\n"
    assert not (project.with_name("moved") / ".venv").exists()


def test_one_without_pip_or_python_is_deleted(project: Path) -> None:
    (project / ".venv" / "local").unlink()
    assert check(project).stderr == "Deleting .venv: it is incomplete.\n"
    (project / ".venv").mkdir()
    assert check(project).stderr == "Deleting .venv: it is incomplete.\n"
    assert not (project / ".venv").exists()


def test_one_of_another_python_is_deleted(project: Path) -> None:
    other = project / "python"
    other.write_text("#!/bin/sh\necho 3.99 /elsewhere\n")
    other.chmod(0o755)
    assert check(project, "./python").stderr == "Deleting .venv: it belongs to another Python.\n"
    assert not (project / ".venv").exists()


def test_a_python_that_cannot_be_run_is_named_and_nothing_is_deleted(project: Path) -> None:
    checked = check(project, "python9.9")
    assert (checked.returncode, checked.stderr) == (1, "PYTHON=python9.9 cannot be run\n")
    assert (project / ".venv").exists()


def test_clean_deletes_no_data(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for directory in (".depot/postgres", ".venv", "src", "tests", "bench", "migrations"):
        (tmp_path / directory).mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / ".depot" / "postgres").exists()
    assert not (tmp_path / ".venv").exists()


def test_help_lists_every_target() -> None:
    targets = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    assert {line.split()[0] for line in targets.stdout.splitlines()} == set(phony.split()[1:])
