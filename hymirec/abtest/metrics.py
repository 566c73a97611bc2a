"""What is measured of an experiment, by name.

A metric is a mean over users or a ratio of two sums over users, of columns that
`features.logs.outcomes` counts for each user of an experiment from the first exposure on. Some
count items instead (`hymirec.abtest.catalogue`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

USER, VARIANT, FIRST = "user_id", "variant", "first_exposure"
REQUESTS, LISTS, SHOWN, SEEN = "requests", "lists", "shown", "seen"
CLICKS, CONVERSIONS, VALUE = "clicks", "conversions", "value"
CONVERTED, CLICKED = "converted", "clicked"
ERRORS, FALLBACKS, DEGRADED, SLOW, LATENCY = "errors", "fallbacks", "degraded", "slow", "latency_ms"
DISTINCT, INTERESTS = "distinct", "interests"
COLD_SHOWN, COLD_CLICKS = "cold_shown", "cold_clicks"
FIRST_REQUEST, FIRST_ERROR, FIRST_FALLBACK, FIRST_SLOW, FIRST_LATENCY = (
    "first_request",
    "first_error",
    "first_fallback",
    "first_slow",
    "first_latency_ms",
)
CLICKS_BEFORE, CONVERSIONS_BEFORE, VALUE_BEFORE = (
    "clicks_before",
    "conversions_before",
    "value_before",
)
HISTORY = "history"
COLUMNS = {
    USER: "the user",
    VARIANT: "what the user was shown",
    FIRST: "time of the first list that counts, seconds since 1970 UTC",
    REQUESTS: "requests while assigned, answered or not",
    LISTS: "lists that count as exposures",
    SHOWN: "items on those lists",
    SEEN: "of them, items with an impression",
    CLICKS: "of them, items with a click",
    CONVERSIONS: "of them, items with a conversion",
    VALUE: "sum of the values of clicks and conversions on them, such as seconds watched",
    CLICKED: "1 with any click, or 0",
    CONVERTED: "1 with any conversion, or 0",
    ERRORS: "requests that the variant's model did not answer",
    FALLBACKS: "requests that something else answered in its place",
    DEGRADED: "lists made from stale features",
    SLOW: "answers that took longer than 100 ms",
    LATENCY: "sum of the milliseconds of all requests",
    FIRST_REQUEST: "time of the first request while assigned, seconds since 1970 UTC",
    FIRST_ERROR: "1 if the variant's model did not answer that one, or 0",
    FIRST_FALLBACK: "1 if something else answered it, or 0",
    FIRST_SLOW: "1 if it took longer than 100 ms, or 0",
    FIRST_LATENCY: "milliseconds to its answer",
    DISTINCT: "different items on the lists",
    INTERESTS: "sum over the lists of different interests on a list",
    COLD_SHOWN: "items on the lists that were new",
    COLD_CLICKS: "of them, items with a click",
    CLICKS_BEFORE: "clicks in the days before the experiment began",
    CONVERSIONS_BEFORE: "conversions, likewise",
    VALUE_BEFORE: "value, likewise",
    HISTORY: "clicks on record before the first exposure",
}
"""The columns of a table of users, and what is in them."""


Way = Literal["up", "down"]


@dataclass(frozen=True)
class Metric:
    """Something to measure.

    Attributes:
        name: as experiments call it.
        says: in words.
        numerator: column that is summed; empty of a metric that counts items.
        denominator: column it is divided by; empty for a mean over users.
        better: which way is good.
        before: column that foretells the numerator, from before the experiment (CUPED).
        of_assigned: whether users count from their assignment on, shown a list or not: what breaks
            answers must not hide behind the answers it broke.
        at_first: column that has the same of a user's first request (`hymirec.abtest.early`).
    """

    name: str
    says: str
    numerator: str
    denominator: str = ""
    better: Way = "up"
    before: str = ""
    of_assigned: bool = False
    at_first: str = ""

    @property
    def counts_items(self) -> bool:
        """Whether the unit is an item, not a user."""
        return not self.numerator

    @property
    def columns(self) -> list[str]:
        """Columns of the table of users that it reads."""
        return [one for one in (self.numerator, self.denominator, self.before) if one]


def _operational(
    name: str, says: str, numerator: str, at_first: str = "", denominator: str = REQUESTS,
    better: Way = "down",
) -> Metric:  # fmt: skip
    return Metric(name, says, numerator, denominator, better, of_assigned=True, at_first=at_first)


_ALL = (
    Metric("click_through", "clicks for each item shown", CLICKS, SHOWN, before=CLICKS_BEFORE),
    Metric("clicks_per_user", "clicks of a user", CLICKS, before=CLICKS_BEFORE),
    Metric("clickers", "share of users who click", CLICKED, before=CLICKS_BEFORE),
    Metric("conversions_per_user", "conversions of a user", CONVERSIONS, before=CONVERSIONS_BEFORE),
    Metric("converters", "share of users who convert", CONVERTED, before=CONVERSIONS_BEFORE),
    Metric(
        "value_per_user", "value of a user, such as seconds watched", VALUE, before=VALUE_BEFORE
    ),
    Metric("value_per_click", "value for each click", VALUE, CLICKS),
    Metric("pass_through", "share of items on lists that are seen", SEEN, SHOWN),
    Metric("diversity_shown", "different items for each item shown", DISTINCT, SHOWN),
    Metric("interests_per_list", "different interests on a list", INTERESTS, LISTS),
    Metric("cold_share", "share of items shown that are new", COLD_SHOWN, SHOWN),
    Metric("cold_click_through", "clicks for each new item shown", COLD_CLICKS, COLD_SHOWN),
    Metric("degraded_rate", "share of lists from stale features", DEGRADED, LISTS, better="down"),
    _operational("requests_per_user", "requests of a user", REQUESTS, "", "", "up"),
    _operational("error_rate", "share of requests the model fails", ERRORS, FIRST_ERROR),
    _operational(
        "fallback_rate", "share of requests answered by something else", FALLBACKS, FIRST_FALLBACK
    ),
    _operational("latency_ms", "milliseconds to an answer", LATENCY, FIRST_LATENCY),
    _operational("slow_rate", "share of answers past 100 ms", SLOW, FIRST_SLOW),
    Metric("coverage", "share of the catalogue that is shown", ""),
    Metric("item_cold_start", "share of new items that become known", ""),
    Metric("active_publishers", "publishers with a new item that becomes known", ""),
)
METRICS = {metric.name: metric for metric in _ALL}
"""By name."""
