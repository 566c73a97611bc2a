"""What the system says of the day, read past the code that wrote it where that can be."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg

from benchmarks.hostile_day.journal import Journal, Sent
from benchmarks.hostile_day.proof import (
    Found,
    Window,
    events_in_log,
    events_in_rows,
    exposures_of_answers,
    moved_users,
    unexplained,
    wrong_versions,
)
from benchmarks.hostile_day.stage import CONTROL, EXPERIMENT, TREATMENT, Stage

CHAMPION = "hymirec@champion"


def gather(stage: Stage, journal: Journal, windows: list[Window]) -> dict[str, Found]:
    """Hold everything that was promised against everything that is there."""
    logged = _logged_events(stage)
    found = events_in_log(journal, logged)
    found |= _rows(stage, journal, logged)
    exposures = _query(
        stage, "SELECT request_id, user_id, variant, experiment FROM exposures ORDER BY position"
    )
    ours = [(user, variant) for _, user, variant, name in exposures if name == EXPERIMENT]
    found["moved_users"] = moved_users(journal.requests, ours, EXPERIMENT)
    runs = {
        str(one.version): one.run_id
        for one in stage.client.search_model_versions("name = 'hymirec'")
    }
    variants = {f"{EXPERIMENT}/{CONTROL}": "1", f"{EXPERIMENT}/{TREATMENT}": "2"}
    broken = {stage.damaged_version} - {""}
    found["wrong_version"] = wrong_versions(journal.requests, _moves(stage), variants, runs, broken)
    found |= exposures_of_answers(journal.requests, (request for request, *_ in exposures))
    found["unexplained"] = unexplained(journal.requests, windows)
    return found


def _rows(stage: Stage, journal: Journal, logged: list[Sent]) -> dict[str, Found]:
    """Histories of every published codebook against what was published and what was clicked."""
    from features.online import FeatureReader, list_codebooks

    world = stage.world.dataset.interactions
    seconds = world["timestamp"].astype("int64") // 10**9
    published: dict[str, Counter[tuple[str, int]]] = {}
    for user, item, second in zip(world["user_id"], world["item_id"], seconds, strict=True):
        published.setdefault(user, Counter())[item, int(second)] += 1
    clicks = [one for one in logged if one.kind == "click"]
    users = sorted(published.keys() | {one.user_id for one in journal.events.values()})
    codebooks = list_codebooks(stage.home)
    lost, doubled, disordered = [], [], []
    for codebook in codebooks:
        rows = FeatureReader(stage.home, codebook).read_users(users)
        histories = {
            user: list(zip(row.history.item_ids, row.history.times.tolist(), strict=True))
            for user, row in rows.items()
        }
        its = events_in_rows(published, clicks, histories)
        for all_of, of_codebook in zip((lost, doubled, disordered), its, strict=True):
            all_of += [f"{codebook} {one}" for one in of_codebook]
    count = len(codebooks) * len(clicks)
    where = f"in the feature rows of all {len(codebooks)} codebooks"
    return {
        "rows_lost": Found.of(f"every click of the log is {where}", count, lost),
        "rows_doubled": Found.of(f"nothing else is {where}, nor twice", count, doubled),
        "rows_disordered": Found.of(f"events are in order of time {where}",
                                    len(codebooks) * len(users), disordered),
    }  # fmt: skip


def _logged_events(stage: Stage) -> list[Sent]:
    columns = "event_id, user_id, item_id, kind, time"
    return [Sent(*row) for row in _query(stage, f"SELECT {columns} FROM events")]


def _moves(stage: Stage) -> list[tuple[float, str]]:
    """Of the champion, as the audit log has them; refusals move nothing."""
    rows = _query(
        stage,
        "SELECT microseconds, after FROM audit WHERE subject = %s AND kind <> 'refusal' "
        "ORDER BY position",
        CHAMPION,
    )
    return [(microseconds / 1e6, after) for microseconds, after in rows]


def _query(stage: Stage, query: Any, *values: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(stage.event_log) as connection:
        return connection.execute(query, values).fetchall()
