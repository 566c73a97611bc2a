"""What differs between two registered versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PARTS = ("recipe", "data_digest", "codebook_id", "feature_service", "features_online", "run_id",
         "registered", "gate")  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One thing of two versions, and by how much numbers differ."""

    name: str
    first: str
    second: str
    change: str = ""

    @property
    def is_one(self) -> bool:
        """Whether they differ at all."""
        return self.first != self.second


def differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, list[Difference]]:
    """Compare two versions as `Desk.version` gives them.

    Returns:
        By heading: what they are of, their test metrics, and settings that are not the same.
    """
    parts = [Difference(_words(name), _text(first[name]), _text(second[name])) for name in PARTS]
    metrics = [
        _of_metric(name, first["metrics"].get(name), second["metrics"].get(name))
        for name in sorted(first["metrics"].keys() | second["metrics"].keys())
    ]
    params = [
        Difference(name, _text(first["params"].get(name)), _text(second["params"].get(name)))
        for name in sorted(first["params"].keys() | second["params"].keys())
    ]
    return {
        "What they are of": parts,
        "Test metrics": metrics,
        "Settings that differ": [one for one in params if one.is_one],
    }


def _of_metric(name: str, first: float | None, second: float | None) -> Difference:
    change = ""
    if first is not None and second is not None:
        change = f"{second - first:+.4f}"
        if first:
            change += f" ({second / first - 1:+.1%})"
    return Difference(name, _text(first), _text(second), change)


def _text(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
