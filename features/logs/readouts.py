"""Reading out an experiment: from the logs of a home to everything that is known of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from features.logs.event_log import EventLog
from features.logs.exposures import ExposureLog
from features.logs.outcomes import DAYS_BEFORE, Outcomes, events_of, outcomes
from features.logs.standing import StoredExperiment
from features.online import FeatureReader, list_codebooks
from hymirec.abtest.catalogue import ItemEstimate, NewItems, compare_items
from hymirec.abtest.definition import Experiment, Variant
from hymirec.abtest.interleaving import CONTROL, TREATMENT, preference
from hymirec.abtest.metrics import METRICS
from hymirec.abtest.planning import Plan, plan
from hymirec.abtest.readout import Readout, read_out
from hymirec.abtest.shadow import summarise
from hymirec.additions import new_items, publications
from hymirec.errors import DataError, HymirecError
from hymirec.home import Home
from hymirec.schema import ITEM_ID

log = logging.getLogger(__name__)

NEW_SECONDS = 7 * 86_400.0
"""For how long after its publication an item is new."""
KNOWN_IMPRESSIONS = 100
"""Times a new item has to be shown to have become known, if one variant were shown to everybody."""
PUBLISHERS, PUBLISHER = "publishers.csv", "publisher"
"""In a home's catalogue, who published which item: columns `item_id` and `publisher`."""
USERS_PER_READ = 5000
BASELINE_DAYS = 14
BASELINE_LISTS = 200_000


class ReadoutMaker:
    """Reads out the experiments of one home."""

    def __init__(self, home: Home, url: str | None = None) -> None:
        """Open the logs; arguments as `EventLog`.

        Raises:
            UsageError: the address is of no database that can hold them.
            HymirecError: the database cannot be used.
        """
        self.home = home
        self.events = EventLog(home, url)
        self.exposures = ExposureLog(home, url)

    def read(self, stored: StoredExperiment, now: float | None = None) -> Readout:
        """Read out an experiment that has started.

        Args:
            stored: which.
            now: seconds since 1970 UTC; by default the time.

        Raises:
            HymirecError: a log or a store cannot be read.
        """
        experiment = stored.experiment
        now = time.time() if now is None else now
        started = stored.started if stored.started is not None else now
        rows = self.exposures.of_experiment(experiment.name)
        published = self._publication_times(set(rows["codebook_id"]), started)
        found = self._outcomes(experiment, rows, started, published)
        readout = read_out(
            experiment, found.users, time=now, share=stored.share, crossovers=found.crossovers
        )
        if experiment.mode == "shadow":
            return replace(readout, shadow=summarise(self.exposures.shadows(experiment.name)))
        if experiment.mode == "interleaving":
            clicks = [_clicks_of(found, team) for team in (CONTROL, TREATMENT)]
            asked = preference(
                *clicks, alpha=experiment.alpha, planned=experiment.planned_users / 2
            )
            return replace(readout, preference=asked, primary=[], segments=[])
        return replace(readout, items=self._items(stored, found, published))

    def plan(self, experiment: Experiment, now: float | None = None) -> Plan | str:
        """What an A/B test needs, from what was served of late; or in a line why that is not it."""
        if experiment.mode == "shadow":
            return "shadow mode shows its answers to nobody: it needs no number of users"
        now = time.time() if now is None else now
        since = now - BASELINE_DAYS * 86_400
        served = self.exposures.since(since, BASELINE_LISTS)
        # A user of experiments in several layers has a row of each for every list.
        served = served[served["user_id"] != ""].drop_duplicates(["request_id", "user_id"])
        if served.empty:
            return "nothing has been served yet that could tell how many users it needs"
        baseline = served.assign(variant=experiment.control.name, is_override=False)
        events = events_of(self.events, sorted(set(baseline["user_id"])), since)
        first = float(baseline["time"].iloc[0])
        users = outcomes(experiment, baseline, events, started=first).users
        metric = METRICS[experiment.primary]
        values = users[metric.numerator].to_numpy(dtype=float)
        if metric.denominator:
            below = users[metric.denominator].to_numpy(dtype=float)
            mean = values.sum() / below.sum() if below.sum() else 0.0
            values = mean + (values - mean * below) / (below.mean() or 1.0)
        days = max((now - first) / 86_400, 1e-6)
        share = experiment.traffic.end - experiment.traffic.begin
        if len(values) < 2 or not values.mean() or not values.std() > 0:
            return f"{metric.name} has not been seen yet, which could tell how many users it needs"
        found = plan(
            float(values.mean()), float(values.std(ddof=1)), experiment.minimum_lift,
            alpha=experiment.alpha, power=experiment.power,
            users_per_day=len(values) / days * share * experiment.ramp[-1].share,
        )  # fmt: skip
        if experiment.mode == "interleaving":
            return (
                f"an A/B test would need {found.users_per_variant} users of each variant to see "
                f"{experiment.minimum_lift:.1%} in {metric.name}; interleaving needs several times "
                "fewer"
            )
        return found

    def close(self) -> None:
        """Close all connections."""
        self.events.close()
        self.exposures.close()

    def _outcomes(
        self, experiment: Experiment, rows: pd.DataFrame, started: float, new: Collection[str]
    ) -> Outcomes:
        user_ids = sorted(set(rows["user_id"]))
        events = events_of(self.events, user_ids, started - DAYS_BEFORE * 86_400)
        return outcomes(
            experiment, rows, events, started=started, new_items=new,
            published=self._published(set(rows["codebook_id"]), user_ids),
        )  # fmt: skip

    def _publication_times(self, codebook_ids: Collection[str], started: float) -> dict[str, float]:
        """When items were published that were new after the experiment began."""
        found: dict[str, float] = {}
        for codebook_id in sorted(codebook_ids):
            for path in publications(self.home.catalogue / codebook_id):
                published = path.stat().st_mtime
                if published < started - NEW_SECONDS:
                    continue
                try:
                    item_ids = new_items(path)
                except DataError as error:  # as with publishers
                    log.warning("its items do not count as new: %s", error)
                    continue
                for item_id in item_ids:
                    found[item_id] = min(published, found.get(item_id, published))
        return found

    def _published(
        self, codebook_ids: Collection[str], user_ids: list[str]
    ) -> dict[str, NDArray[np.int64]]:
        """Times of users' histories in the feature store, from any codebook that is there."""
        there = sorted(set(list_codebooks(self.home)) & set(codebook_ids))
        if not there:
            return {}
        try:
            reader = FeatureReader(self.home, there[0])
            found: dict[str, NDArray[np.int64]] = {}
            for start in range(0, len(user_ids), USERS_PER_READ):
                rows = reader.read_users(user_ids[start : start + USERS_PER_READ])
                found |= {user: row.history.times for user, row in rows.items()}
        except HymirecError:
            return {}  # only segments are the poorer for it
        return found

    def _items(
        self, stored: StoredExperiment, found: Outcomes, published: Mapping[str, float]
    ) -> list[ItemEstimate]:
        experiment, shown = stored.experiment, found.shown
        asked = [name for name in experiment.secondary if METRICS[name].counts_items]
        if not asked or shown.empty:
            return []
        items = np.array(sorted({*shown["item_id"], *published}), dtype=str)
        # Of the step, also where the experiment is paused or over and has no share any more.
        share = experiment.ramp[stored.step].share
        traffic = (experiment.traffic.end - experiment.traffic.begin) * share
        new = NewItems(
            np.isin(items, list(published)),
            needed=max(1.0, KNOWN_IMPRESSIONS * traffic * experiment.weights[0]),
            publisher=self._publishers(items),
        )
        until = shown["item_id"].map(published).astype(float) + NEW_SECONDS
        early = shown[shown["time"] <= until]
        tables = {
            variant.name: [_counts(part[part["variant"] == variant.name], shown, variant, items)
                           for part in (shown, early)]
            for variant in experiment.variants
        }  # fmt: skip
        control = tables[experiment.control.name]
        estimates: list[ItemEstimate] = []
        for variant in experiment.treatments:
            treatment = tables[variant.name]
            estimates += compare_items(
                control[0], treatment[0], variant.name, new=new, early_control=control[1],
                early_treatment=treatment[1], alpha=experiment.alpha,
            )  # fmt: skip
        return [one for one in estimates if one.metric in asked]

    def _publishers(self, items: NDArray[np.str_]) -> NDArray[np.int64] | None:
        """Numbers of the items' publishers; None where nobody says, or not so that it is clear."""
        path = self.home.catalogue / PUBLISHERS
        if not path.is_file():
            return None
        try:
            table = pd.read_csv(path, dtype=str)[[ITEM_ID, PUBLISHER]].drop_duplicates()
        except (OSError, ValueError, KeyError) as error:
            problem = f"columns {ITEM_ID} and {PUBLISHER} cannot be read: {error}"
        else:
            by_item = table.set_index(ITEM_ID)[PUBLISHER]
            if by_item.index.is_unique:
                return pd.factorize(by_item.reindex(items))[0].astype(np.int64)
            problem = f"item {by_item.index[by_item.index.duplicated()][0]!r} has two publishers"
        # One metric is the poorer for it: guardrails must not wait until somebody mends the file.
        log.warning("%s: %s: publishers are not counted", path, problem)
        return None


def _clicks_of(found: Outcomes, team: int) -> NDArray[np.float64]:
    """Clicks of each user on items of a team, users in the order of `users`."""
    shown = found.shown[found.shown["clicked"] & (found.shown["team"] == team)]
    counts = shown.groupby("user_id").size()
    by_user = counts.reindex(found.users["user_id"], fill_value=0)
    return by_user.to_numpy().astype(np.float64)


def _counts(
    part: pd.DataFrame, shown: pd.DataFrame, variant: Variant, items: NDArray[np.str_]
) -> csr_array:
    """Times each user of a variant was shown each item, users in alphabetical order."""
    users = np.unique(shown.loc[shown["variant"] == variant.name, "user_id"].to_numpy(dtype=str))
    rows = np.searchsorted(users, part["user_id"].to_numpy(dtype=str))
    columns = np.searchsorted(items, part["item_id"].to_numpy(dtype=str))
    return csr_array((np.ones(len(part)), (rows, columns)), shape=(len(users), len(items)))
