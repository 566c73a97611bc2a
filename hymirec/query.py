"""What is asked of a recommender for one user, beside who it is.

The gateway reads it from a request, MLflow's signature carries it as text in one column, and the
package answers it: one class, so that the three mean the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

MAX_K = 1000
MAX_RECENT = 1000
MAX_EXCLUDED = 10_000
MAX_AVAILABLE = 100_000
MAX_CATEGORIES = 200


def _whole(value: Any) -> Any:
    """In JSON 3.0 is the integer 3; a text or a truth value is none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# The limits are in here since around a validator they would stand in the schema as no schema says.
Count = Annotated[int, Field(strict=True, ge=1, le=MAX_K), BeforeValidator(_whole)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
"""An item's id, or a category."""


class Filters(BaseModel):
    """Which items may be listed at all; they hold before the list is cut to k."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    categories: list[Name] | None = Field(
        default=None, min_length=1, max_length=MAX_CATEGORIES,
        description="Only items with one of these, whatever the case of their letters.",
    )  # fmt: skip
    exclude_categories: list[Name] = Field(
        default=[], max_length=MAX_CATEGORIES, description="No item with one of these."
    )
    exclude_items: list[Name] = Field(
        default=[], max_length=MAX_EXCLUDED, description="None of these; unknown ids do no harm."
    )
    available_items: list[Name] | None = Field(
        default=None, max_length=MAX_AVAILABLE,
        description="Only these, such as what is in stock; unknown ids do no harm.",
    )  # fmt: skip

    @property
    def any(self) -> bool:
        """Whether they leave anything out."""
        return (
            self.categories is not None
            or self.available_items is not None
            or bool(self.exclude_categories or self.exclude_items)
        )


class Query(BaseModel):
    """How many items to recommend, out of which, and how unlike each other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: Count = Field(default=10, description="Number of items.")
    exclude_seen: bool = Field(
        default=True, strict=True, description="Leave out items of the user's history."
    )
    recent_items: list[Name] = Field(
        default=[], max_length=MAX_RECENT,
        description="What the user has just looked at, the latest last: for visitors and for users "
        "without a history, and added to the history of those with one.",
    )  # fmt: skip
    filters: Filters = Field(default_factory=Filters)
    diversity: float = Field(
        default=0.0, ge=0, le=1, allow_inf_nan=False,
        description="0 ranks by score alone; towards 1, items unlike those above them come first.",
    )  # fmt: skip
    max_per_category: Count | None = Field(
        default=None, description="At most so many items of any one category."
    )
    explain: bool = Field(
        default=False, strict=True,
        description="Name the items of the history nearest to each item's interest.",
    )  # fmt: skip

    def with_settings(self, **settings: object) -> Self:
        """The same with other settings, checked."""
        return self.model_validate(self.model_dump() | settings)
