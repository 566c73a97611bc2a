"""What the clients kept against what the system says, after the day: pure functions of both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.hostile_day.journal import Journal, Request, Sent

NOT_READY = "variant's version not ready"
TOO_SLOW = "model too slow"
SWITCH_SECONDS = 30.0
"""In which a new champion has to be the one that answers, on a busy machine."""
EXAMPLES = 3


@dataclass(frozen=True)
class Found:
    """What was found out about one promise.

    Attributes:
        promise: in a line.
        wrong: how often it was broken.
        looked_at: how many were looked at.
        examples: of what was wrong, the first few.
        may_be_none: whether it is kept too where there is nothing to look at.
    """

    promise: str
    wrong: int
    looked_at: int
    examples: tuple[str, ...] = ()
    may_be_none: bool = False

    @classmethod
    def of(
        cls, promise: str, looked_at: int, wrong: Sequence[str], *, may_be_none: bool = False
    ) -> Found:
        """Make it of what was wrong."""
        return cls(promise, len(wrong), looked_at, tuple(wrong[:EXAMPLES]), may_be_none)

    @property
    def green(self) -> bool:
        """Whether it was kept; a promise over nothing says nothing."""
        return not self.wrong and (self.looked_at > 0 or self.may_be_none)


@dataclass(frozen=True)
class Window:
    """A time in which something was broken, seconds since 1970."""

    name: str
    begun: float
    ended: float


def events_in_log(journal: Journal, logged: Sequence[Sent]) -> dict[str, Found]:
    """Whether the log holds each acknowledged event once, as it was sent, and no refused one.

    Args:
        journal: of the clients.
        logged: rows of the log.
    """
    rows = defaultdict(list)
    for one in logged:
        rows[one.event_id].append(one)
    acknowledged = journal.acknowledged()
    lost = [one.event_id for one in acknowledged if one.event_id not in rows]
    doubled = [name for name, its in rows.items() if len(its) > 1]
    altered = [
        one.event_id
        for one in acknowledged
        if one.event_id in rows and rows[one.event_id][0] != one
    ]
    strange = [name for name in rows if name not in journal.events]
    refused = sorted(journal.with_fate("refused") & rows.keys())
    count = len(acknowledged)
    return {
        "lost": Found.of("every acknowledged event is in the log", count, lost),
        "doubled": Found.of("no event is in the log twice", len(logged), doubled),
        "altered": Found.of("every event is in the log as it was sent first", count, altered),
        "strange": Found.of(
            "nothing is in the log that was refused or never sent", len(logged), strange + refused
        ),
    }


def events_in_rows(
    published: Mapping[str, Counter[tuple[str, int]]],
    clicks: Iterable[Sent],
    histories: Mapping[str, Sequence[tuple[str, int]]],
) -> tuple[list[str], list[str], list[str]]:
    """Hold the histories of one codebook against what was published and clicked.

    Args:
        published: item and second, by user, of the events of before the day.
        clicks: those of the log.
        histories: item and second in the row's order, by user.

    Returns:
        What is lost, what is doubled or came from nowhere, and users whose rows are out of order.
    """
    expected = {user: Counter(its) for user, its in published.items()}
    for one in clicks:
        expected.setdefault(one.user_id, Counter())[one.item_id, one.time] += 1
    lost, doubled, disordered = [], [], []
    for user in expected.keys() | histories.keys():
        row = histories.get(user, ())
        found, wanted = Counter(row), expected.get(user, Counter())
        lost += [f"{user} {item} {time}" for item, time in (wanted - found).elements()]
        doubled += [f"{user} {item} {time}" for item, time in (found - wanted).elements()]
        times = [time for _, time in row]
        if times != sorted(times):
            disordered.append(user)
    return sorted(lost), sorted(doubled), sorted(disordered)


def moved_users(
    requests: Iterable[Request], exposures: Iterable[tuple[str, str]], experiment: str
) -> Found:
    """Whether anybody was in two variants, as answers say or as the exposure log does.

    Args:
        requests: of the clients.
        exposures: user and variant of each row of the experiment.
        experiment: its name.
    """
    told: dict[str, set[str]] = defaultdict(set)
    for one in requests:
        if one.variant.startswith(f"{experiment}/"):
            told[one.user_id].add(one.variant.partition("/")[2])
    for user, variant in exposures:
        told[user].add(variant)
    moved = [f"{user}: {', '.join(sorted(its))}" for user, its in told.items() if len(its) > 1]
    return Found.of("nobody was ever in two variants", len(told), moved)


def wrong_versions(
    requests: Iterable[Request],
    moves: Sequence[tuple[float, str]],
    variants: Mapping[str, str],
    runs: Mapping[str, str],
    broken: Collection[str],
) -> Found:
    """Whether every answer is by the version that was to give it.

    Args:
        requests: of the clients.
        moves: of the champion as the audit log has them: seconds since 1970 and version.
        variants: version by `experiment/variant`.
        runs: run of each version, as the registry has it.
        broken: versions that cannot be loaded; while one is champion the one before answers.
    """
    able = [(when, version) for when, version in sorted(moves) if version not in broken]
    wrong, answered = [], 0
    for one in requests:
        if one.kind != "recommendations" or one.failed:
            continue
        answered += 1
        champions = _champions(able, one.begun - SWITCH_SECONDS, one.ended)
        by_variant = one.variant and one.degraded != NOT_READY
        allowed = {variants.get(one.variant, "")} if by_variant else champions
        if one.version not in allowed or runs.get(one.version) != one.run_id:
            rightly = " or ".join(sorted(allowed))
            wrong.append(f"{one.request_id}: version {one.version} in place of {rightly}")
    return Found.of("every answer is by the version it should be by", answered, wrong)


def exposures_of_answers(requests: Iterable[Request], logged: Iterable[str]) -> dict[str, Found]:
    """Whether each list that a user was shown is in the exposure log, once.

    Args:
        requests: of the clients.
        logged: request ids of all rows.
    """
    rows = Counter(logged)
    shown = [
        one for one in requests
        if one.kind == "recommendations" and not one.failed and one.user_id
    ]  # fmt: skip
    lost = [one.request_id for one in shown if one.request_id not in rows]
    doubled = [name for name, count in rows.items() if count > 1]
    return {
        "exposures_lost": Found.of("every list shown is in the exposure log", len(shown), lost),
        "exposures_doubled": Found.of("no list is there twice", len(rows), doubled),
    }


def unexplained(requests: Iterable[Request], windows: Sequence[Window]) -> Found:
    """Whether every failed request and every degraded answer fell into a time of trouble.

    But for answers that a busy machine did not give in time: the report counts them.
    """
    wrong, count = [], 0
    for one in requests:
        if one.failed or one.degraded:
            count += 1
            if one.degraded != TOO_SLOW and explanation(one, windows) is None:
                wrong.append(f"{one.request_id or 'events'}: {one.problem or one.degraded}")
    promise = "what failed or was degraded, failed while something was broken"
    return Found.of(promise, count, wrong, may_be_none=True)


def explanation(request: Request, windows: Sequence[Window]) -> Window | None:
    """The time of trouble that a request fell into, the latest of several; None if into none."""
    return next(
        (
            one for one in reversed(windows)
            if request.ended >= one.begun and request.begun <= one.ended
        ),
        None,
    )  # fmt: skip


def _champions(moves: Sequence[tuple[float, str]], begun: float, ended: float) -> set[str]:
    """Who was champion at any time between two."""
    before = [version for when, version in moves if when <= begun]
    return {version for when, version in moves if begun < when <= ended} | set(before[-1:])
