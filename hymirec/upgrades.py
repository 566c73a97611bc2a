"""A home of an earlier release is brought to today's layout; one of a later release is refused.

    <home>/home.json    {"layout": 1, "hymirec": "0.2.0"}

The layout counts the changes to what the files of a home are called and mean that a reader of the
old form could not make sense of. Each change adds one function to `MIGRATIONS`, which may be called
again after it was interrupted, and one line here:

    0   up to 0.1.0, which did not write its layout down
    1   the same files, with home.json

Formats with a version of their own are not counted: packed histories and codes
(`hymirec.history`), the databases of MLflow and Prefect, and registered models, which travel with
the code that reads them.
"""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Callable, Sequence

from hymirec.errors import UsageError
from hymirec.home import Home

log = logging.getLogger(__name__)


def _write_layout_down(home: Home) -> None:
    """What comes after every migration anyway is all that this one has to do."""


MIGRATIONS: Sequence[Callable[[Home], None]] = (_write_layout_down,)
"""The one at place i leads from layout i to layout i + 1."""


def bring_up_to_date(home: Home) -> None:
    """Migrate a home where it is of an earlier layout; does nothing where there is no home.

    Raises:
        UsageError: a later release made it, its home.json is damaged, or it cannot be written.
    """
    if not home.has_state() or _layout(home) == len(MIGRATIONS):
        return
    try:
        with (home.root / ".upgrade.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for layout in range(_layout(home), len(MIGRATIONS)):
                log.info("home %s: from layout %d to %d", home.root, layout, layout + 1)
                MIGRATIONS[layout](home)
                home.mark(layout + 1)
    except OSError as error:
        raise UsageError(f"home {home.root} cannot be upgraded: {error.strerror}") from error


def _layout(home: Home) -> int:
    path = home.layout_file
    try:
        found = json.loads(path.read_text())
        layout, made_by = found["layout"], found["hymirec"]
        if type(layout) is not int or layout < 0:
            raise ValueError(f"layout {layout!r}")
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is damaged; of a home of this release it reads "
            f'{{"layout": {len(MIGRATIONS)}, "hymirec": "…"}}'
        ) from error
    if layout > len(MIGRATIONS):
        raise UsageError(
            f"home {home.root} has layout {layout}, made by hymirec {made_by}; this release knows "
            f"layouts up to {len(MIGRATIONS)}: install hymirec {made_by} or later, or name another "
            "home"
        )
    return layout
