"""The `depot` command.

Commands import modules where they use them, so that `--help` does not wait for a database driver.
"""

import os
import signal
import sys

import rich_click as click
from rich.console import Console

from service.cli import audit, client, data, keys, processes
from service.cli.report import report
from service.settings import StartupError
from service.version import VERSION

EXIT_TERMINATED = 128 + signal.SIGTERM
FORCED_EXIT_SECONDS = 3
"""Time after SIGTERM at which the process exits, whatever still runs."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="depot")
def depot() -> None:
    """Depot: inventory and orders as a REST service. Settings are environment variables, which
    docs/configuration.md lists. Commands exit with 0 on success, 1 on an error and 2 on wrong usage."""


for command in (*processes.COMMANDS, *client.COMMANDS, *data.COMMANDS, audit.audit, keys.keys, report):
    depot.add_command(command)


def terminate(*_: object) -> None:
    """Exit on SIGTERM until the command has a handler. Process 1 of a container has no default handler.

    The exception can be lost, or leave an event loop waiting forever, so an alarm forces the exit.
    """
    signal.signal(signal.SIGALRM, lambda *_: os._exit(EXIT_TERMINATED))
    signal.alarm(FORCED_EXIT_SECONDS)
    sys.exit(EXIT_TERMINATED)


def main() -> None:
    """Run the command. An error that prevents the start is one line and exit status 1."""
    signal.signal(signal.SIGTERM, terminate)
    try:
        depot(prog_name="depot")
    except StartupError as error:
        Console(stderr=True).print(
            f"depot: {error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        sys.exit(1)
