"""`hymirec clean`: room on the disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from hymirec.commands.options import DEFAULT_HOME, HomeOption, JsonOption, existing
from hymirec.display import out
from hymirec.errors import HymirecError


def clean(
    unused_for: Annotated[
        float, typer.Option(help="Days for which nothing has needed it.", min=1)
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Free the disk of what can be made or fetched again and has not been used for long."""
    place = existing(home)
    from flows.clean import clear, find_unused

    found = find_unused(place, unused_for)
    title = f"unused for {unused_for:g} days in {escape(str(place.root))}"
    table = Table("last used", "MB", title=title)
    table.add_column("in the home", overflow="fold")
    cleared = []
    for one in found:
        try:
            if not dry_run and not clear(one):
                continue
        except OSError as error:
            raise HymirecError(f"{one.path} cannot be cleared: {error.strerror}") from error
        cleared.append(one)
        used = datetime.fromtimestamp(one.last_used, UTC).date().isoformat()
        where = str(one.path.relative_to(place.root))
        table.add_row(used, f"{one.bytes / 1e6:.1f}", escape(where))
    if cleared:
        out.print(table)
    total = sum(one.bytes for one in cleared)
    done = "would be freed" if dry_run else "freed"
    out.print(f"{total / 1e6:.1f} MB {done} (results: {len(cleared)})", soft_wrap=True)
    if as_json:
        rows = [asdict(one) | {"path": str(one.path)} for one in cleared]
        print(json.dumps({"cleared": rows, "bytes": total, "dry_run": dry_run}))
