"""The `depot` command.

Modules are imported where they are used: `--help` should not wait for a database driver.
"""

import signal
import sys

import rich_click as click
from rich.console import Console

from service.cli import client, data, keys, processes
from service.settings import StartError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="depot")
def depot() -> None:
    """Depot: inventory and orders as a REST service. Settings are environment variables; see the README."""


for command in (*processes.COMMANDS, *client.COMMANDS, *data.COMMANDS, keys.keys):
    depot.add_command(command)


def main() -> None:
    """Entry point: what stops the start is one line and a non-zero exit."""
    # Until a command has a handler of its own: what starts as process 1 of a container would not hear it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        depot()
    except StartError as error:
        Console(stderr=True).print(
            f"depot: {error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        sys.exit(1)
