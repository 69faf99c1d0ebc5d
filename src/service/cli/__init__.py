"""The `depot` command.

Modules are imported where they are used: `--help` should not wait for a database driver.
"""

import os
import signal
import sys

import rich_click as click
from rich.console import Console

from service.cli import client, data, keys, processes
from service.settings import StartupError

EXIT_TERMINATED = 128 + signal.SIGTERM
FORCED_EXIT_SECONDS = 3
"""Whatever is still running then is ended without a word."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="depot")
def depot() -> None:
    """Depot: inventory and orders as a REST service. Settings are environment variables; see the README."""


for command in (*processes.COMMANDS, *client.COMMANDS, *data.COMMANDS, keys.keys):
    depot.add_command(command)


def terminate(*_: object) -> None:
    """What SIGTERM does until a command has a handler of its own. Process 1 of a container has no default.

    An exception out of nowhere can be lost, or leave an event loop waiting for ever: so not only that.
    """
    signal.signal(signal.SIGALRM, lambda *_: os._exit(EXIT_TERMINATED))
    signal.alarm(FORCED_EXIT_SECONDS)
    sys.exit(EXIT_TERMINATED)


def main() -> None:
    """Entry point: what stops the start is one line and a non-zero exit."""
    signal.signal(signal.SIGTERM, terminate)
    try:
        depot()
    except StartupError as error:
        Console(stderr=True).print(
            f"depot: {error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        sys.exit(1)
