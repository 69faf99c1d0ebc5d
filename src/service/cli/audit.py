"""Commands of the audit trail: verify, head, export, prune, accept."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from service.cli.environment import (
    CommandError,
    administrative_settings,
    report_file_errors,
    run_with_database,
)

if TYPE_CHECKING:
    from service.audit.sealing_state import Head
    from service.database.database import Database


@click.group()
def audit() -> None:
    """Work with the audit trail."""


def _parse_anchor(_: click.Context, __: click.Parameter, text: str | None) -> "Head | None":
    from service.audit.sealing_state import Head

    try:
        return None if text is None else Head.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@audit.command("verify")
@click.option(
    "--anchor",
    metavar="N:HASH",
    callback=_parse_anchor,
    help="An earlier head, stored elsewhere; reveals a chain that was truncated or rewritten.",
)
def audit_verify(anchor: "Head | None") -> None:
    """Find events that were edited, deleted, reordered or inserted. Exit status 1 if there are any."""
    from service.audit.verify import AnchorPruned, verify

    try:
        with administrative_settings() as settings:
            found = run_with_database(settings, lambda database: verify(database, settings, anchor))
    except AnchorPruned as error:
        raise CommandError(
            f"--anchor: that seal was pruned; the oldest anchor that can be compared is {error.oldest}"
        ) from None
    for finding in found.findings:
        click.echo(finding)
    click.echo(f"{found.head.position} sealed events, {found.unsealed} not sealed yet, head {found.head}")
    if found.findings:
        raise CommandError(f"the journal was tampered with, in {len(found.findings)} places")


@audit.command("head")
def audit_head() -> None:
    """Print the head of the chain. Stored elsewhere, it is an anchor for `depot audit verify --anchor`.

    Exit status 1 if seals were deleted or changed.
    """
    from service.audit.chain import read_authentic_head
    from service.audit.sealing_state import StateProblem

    try:
        with administrative_settings() as settings:
            head = run_with_database(settings, lambda database: read_authentic_head(database, settings))
    except StateProblem as error:
        raise CommandError(str(error)) from None
    click.echo(head)


@audit.command("export")
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
def audit_export(path: Path) -> None:
    """Write the whole audit trail to a file: one JSON object per line, oldest first, each with its seal.

    An existing file is replaced once the export is complete.
    """
    from service.audit.export import encode_line, exported_entries

    async def export(database: "Database") -> int:
        count = 0
        with _replaced_file(path) as write:
            async for entry in exported_entries(database):
                write(encode_line(entry))
                count += 1
        return count

    with administrative_settings() as settings:
        count = run_with_database(settings, export)
    click.echo(f"{count} events exported")


def _parse_before(_: click.Context, __: click.Parameter, text: str) -> datetime:
    from service.times import parse_time

    try:
        return parse_time(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@audit.command("prune")
@click.option(
    "--before",
    metavar="DATE",
    required=True,
    callback=_parse_before,
    help="Prune the events before this date or RFC 3339 time.",
)
@click.option(
    "--exported",
    metavar="FILE",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File written by `depot audit export`, which must hold every pruned event.",
)
def audit_prune(before: datetime, exported: Path) -> None:
    """Delete old events, their seals and their deliveries, and print where the chain begins.

    Every pruned event must be sealed and in the exported file, exactly as it is stored; otherwise nothing is
    pruned. Users' actions are events too. Requests with older cursors get 410 CURSOR_EXPIRED.
    """
    from service.audit.prune import PruneRejected, delete_pruned, prune
    from service.jobs.maintenance import sweep_deliveries

    async def prune_and_delete(database: "Database") -> "tuple[Head, int]":
        with exported.open("rb") as lines:
            pruned = await prune(database, settings, before, lines)
        deleted = await delete_pruned(database, settings)
        await sweep_deliveries(database, settings)
        return pruned.anchor, deleted

    try:
        with administrative_settings() as settings:
            first, deleted = run_with_database(settings, prune_and_delete)
    except PruneRejected as error:
        raise CommandError(f"nothing was pruned: {error}") from None
    click.echo(f"{deleted} events pruned, the chain begins at {first}")


@contextmanager
def _replaced_file(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yield the `write` of a file that takes the place of `path` when the block ends without an error."""
    partial = path.with_name(f"{path.name}.partial")
    with report_file_errors(path):
        file = partial.open("wb")

    def write(line: bytes) -> None:
        with report_file_errors(path):
            file.write(line)

    try:
        yield write
        with report_file_errors(path):
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
    finally:
        with suppress(OSError):  # a full disk, which `write` or `flush` has reported
            file.close()
        partial.unlink(missing_ok=True)


@audit.command("accept")
def audit_accept() -> None:
    """Accept the present chain as genuine, and print its head.

    This is needed once after an upgrade from 0.1, after a change of DEPOT_SECRET without
    DEPOT_SECRET_PREVIOUS, or if the first worker starts a day after the first event. Run `depot audit verify
    --anchor` first; restart the workers afterwards.
    """
    from service.audit.chain import accept

    with administrative_settings() as settings:
        click.echo(run_with_database(settings, lambda database: accept(database, settings)))
