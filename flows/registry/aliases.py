"""The aliases that say which version answers: moved here, and every move in the audit log.

`champion` answers; `previous` is what `rollback` goes back to, and keeps its codebook from being
dropped; `challenger` passed and waits. A move by other means, such as MLflow's page, is recorded
when it is next seen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from features.logs.audit_log import (
    MOVES,
    NOTICED,
    PROMOTION,
    REFUSAL,
    ROLLBACK,
    VERDICT,
    AuditLog,
    Entry,
    alias_subject,
)
from flows.registry.versions import pages, refusal
from flows.runtime.settings import CHALLENGER, CHAMPION, CODEBOOK_TAG, MODEL_NAME
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home

log = logging.getLogger(__name__)

PREVIOUS = "previous"
GATE_TAG = "gate"
"""Of a version: its last verdict, `passed: …`, `failed: …` or `inconclusive: …`."""
REPORT_TAG = "gate_report"
"""Of a version: the page of its last passage through the gate."""
_PAGE = 1000


def subject_of(alias: str) -> str:
    """How the audit log calls an alias."""
    return alias_subject(MODEL_NAME, alias)


class Aliases:
    """The aliases of one home's model, and their history."""

    def __init__(self, home: Home) -> None:
        """Open registry and audit log.

        Raises:
            UsageError: the home has no registered version.
            HymirecError: the audit log cannot be used.
        """
        if not home.has_mlflow:  # a client would create it
            raise UsageError(f"no version is registered in {home.root}: run `hymirec pipeline`")
        self.home = home
        self.client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
        self.log = AuditLog(home)

    def close(self) -> None:
        """Close the audit log."""
        self.log.close()

    def all(self) -> dict[str, str]:
        """Versions by alias.

        Raises:
            UsageError: the home has no registered version.
            HymirecError: the registry cannot be read.
        """
        try:
            found = self.client.get_registered_model(MODEL_NAME).aliases
        except MlflowException as error:
            missing = f"no version is registered in {self.home.root}: run `hymirec pipeline`"
            raise refusal(error, missing) from error
        return {alias: str(version) for alias, version in found.items()}

    def get(self, alias: str) -> str:
        """The version that an alias names; empty where none."""
        return self.all().get(alias, "")

    def find(self, name: str) -> ModelVersion:
        """Find a version by number or alias.

        Raises:
            UsageError: there is none; the message says which there are.
        """
        number = self.all().get(name, name)
        versions = {str(one.version): one for one in self.versions()}
        if number not in versions:
            known = ", ".join([*versions, *self.all()])
            raise UsageError(f"no version of {MODEL_NAME} is {name!r}; there are {known}")
        return versions[number]

    def versions(self) -> list[ModelVersion]:
        """All versions, the oldest first."""
        found = pages(self.client.search_model_versions, filter_string=f"name = '{MODEL_NAME}'")
        return sorted(found, key=lambda one: int(one.version))

    def notice(self) -> Entry | None:
        """Record that the champion was changed by other means, if it was."""
        entry = self.log.notice(subject_of(CHAMPION), lambda: self.get(CHAMPION))
        if entry and entry.before:
            log.warning(
                "%s was moved from version %s to %s by other means",
                CHAMPION, entry.before, entry.after or "none",
            )  # fmt: skip
        return entry

    def move(
        self, alias: str, version: str, kind: str, *, reason: str,
        evidence: Mapping[str, Any] | None = None, expected: str | None = None, actor: str = "",
    ) -> Entry:  # fmt: skip
        """Let an alias name a version, and record it.

        Args:
            alias: which.
            version: the one it is to name.
            kind: of the entry.
            reason: as of the entry.
            evidence: as of the entry.
            expected: the version that it must name until then; by default any.
            actor: who does it, by default who runs this.

        Raises:
            UsageError: the alias names another version than expected by now.
            HymirecError: the log cannot be written; the alias is as it was.
        """
        if alias == CHAMPION:
            self.notice()
        with self.log.moving():
            before = self.all()
            here = before.get(alias, "")
            if expected is not None:
                _refuse_another(alias, here, expected)
            self.client.set_registered_model_alias(MODEL_NAME, alias, version)
            try:
                entry = self.log.record(
                    kind, subject_of(alias), before=here, after=version, reason=reason,
                    evidence=evidence, actor=actor,
                )  # fmt: skip
            except BaseException:
                self._set(alias, here)
                raise
            if alias == CHAMPION:
                self._bring_along(version, before)
        return entry

    def _bring_along(self, champion: str, before: Mapping[str, str]) -> None:
        """Set the aliases that follow from a new champion; it is that whether this works or not."""
        try:
            self._set(PREVIOUS, self._goes_back_to())
            if before.get(CHALLENGER) == champion:
                self._set(CHALLENGER, "")
        except (HymirecError, MlflowException) as error:
            log.error(
                "version %s is %s, but %s and %s could not be brought up to date: %s",
                champion, CHAMPION, PREVIOUS, CHALLENGER, str(error).partition("\n")[0],
            )  # fmt: skip

    def refuse_another_champion(self, expected: str) -> None:
        """Refuse to go on where the champion is no longer what it was.

        Raises:
            UsageError: it is another.
        """
        _refuse_another(CHAMPION, self.get(CHAMPION), expected)

    def refuse(
        self, alias: str, version: str, *, reason: str, evidence: Mapping[str, Any] | None = None
    ) -> Entry:
        """Record that an alias was not given to a version."""
        return self.log.record(
            REFUSAL, subject_of(alias), before=self.get(alias), after=version, reason=reason,
            evidence=evidence,
        )  # fmt: skip

    def note_verdict(
        self, alias: str, version: str, *, reason: str, evidence: Mapping[str, Any]
    ) -> Entry:
        """Record that a version passed the gate without being given the alias."""
        return self.log.record(
            VERDICT, subject_of(alias), before=self.get(alias), after=version, reason=reason,
            evidence=evidence,
        )  # fmt: skip

    def verdict_on(self, version: str, champion: str) -> Entry | None:
        """The gate's last verdict on a version beside a champion; None where it never judged.

        Its evidence has the `verdict`, the `run` and the `report`.
        """
        before = None
        while page := self.log.read(limit=_PAGE, before=before, newest_first=True):
            for one in page:
                asked = one.evidence.get("gate"), one.evidence.get("compared_with")
                if one.after == version and asked == ("champion", champion):
                    return one
            before = page[-1].position
        return None

    def history(
        self, *, version: str = "", limit: int = 20, before: int | None = None
    ) -> list[Entry]:
        """What was decided about aliases and versions, the newest first.

        Args:
            version: only entries from or to it.
            limit: entries, at most.
            before: position that they have to be below.
        """
        found: list[Entry] = []
        while len(found) < limit:
            page = self.log.read(limit=_PAGE, before=before, newest_first=True)
            found += [
                one
                for one in page
                if one.subject.startswith(f"{MODEL_NAME}@")
                and (not version or version in (one.before, one.after))
            ]
            if len(page) < _PAGE:
                break
            before = page[-1].position
        return found[:limit]

    def champion_at(self, moment: datetime) -> Entry | None:
        """The entry by which a version was champion at a time with its zone; None before all."""
        return self.log.as_of(subject_of(CHAMPION), moment)

    def rollback(self, reason: str, *, actor: str = "") -> Entry:
        """Let `champion` name the version that passed and answered last before this one.

        Raises:
            UsageError: there is none, or its codebook's features are no longer there.
        """
        self.notice()
        here = self.get(CHAMPION)
        version = self._goes_back_to()
        if not version:
            raise UsageError(
                f"there is nothing to go back to from version {here or 'none'}: no version that "
                "passed the gate was champion before it; `hymirec models history` lists what was"
            )
        self.refuse_without_features(version)
        return self.move(
            CHAMPION, version, ROLLBACK, reason=reason, expected=here, actor=actor,
            evidence={"codebook_id": self._codebook(version)},
        )  # fmt: skip

    def refuse_without_features(self, version: str) -> None:
        """Refuse a version that could not answer.

        Raises:
            UsageError: its codebook is not published.
        """
        # Imported here since Feast takes seconds, which most moves need not wait for.
        from features.online import list_codebooks

        codebook_id = self._codebook(version)
        if codebook_id not in list_codebooks(self.home):
            raise UsageError(
                f"version {version} reads codebook {codebook_id}, which is no longer in the "
                "feature store: publish it again with `hymirec pipeline` on the version's data "
                "and recipe, or promote another version"
            )

    def _goes_back_to(self) -> str:
        """The version that `rollback` would choose; empty where there is none."""
        moves = self._moves()
        if not (standing := went_before(moves)):
            return ""
        *below, here = standing
        promoted = {one.after for one in moves if one.kind == PROMOTION}
        versions = {str(one.version): one for one in self.versions()}
        for entry in reversed(below):
            version = versions.get(entry.after)
            if version is None or entry.after == here.after:
                continue
            by_tag = version.tags.get(GATE_TAG, "").startswith("passed")
            # One that was forced has to have passed some time; of others the tag is believed.
            if entry.after in promoted or (entry.kind == NOTICED and by_tag):
                return entry.after
        return ""

    def _moves(self) -> list[Entry]:
        found: list[Entry] = []
        while page := self.log.read(
            subject=subject_of(CHAMPION), kinds=MOVES, limit=_PAGE,
            after=found[-1].position if found else 0,
        ):  # fmt: skip
            found += page
        return found

    def _codebook(self, version: str) -> str:
        return self.find(version).tags.get(CODEBOOK_TAG, "")

    def _set(self, alias: str, version: str) -> None:
        if version:
            self.client.set_registered_model_alias(MODEL_NAME, alias, version)
        elif self.get(alias):
            self.client.delete_registered_model_alias(MODEL_NAME, alias)


def _refuse_another(alias: str, here: str, expected: str) -> None:
    if here != expected:
        raise UsageError(
            f"{alias} has become version {here or 'none'} meanwhile, it was "
            f"{expected or 'none'}: nothing was changed"
        )


def went_before(moves: Sequence[Entry]) -> list[Entry]:
    """The moves that led to the present state without those that were rolled back.

    Args:
        moves: of one alias, the oldest first.

    Returns:
        The entries by which each version came, the present one last.
    """
    stack: list[Entry] = []
    for move in moves:
        if move.kind == ROLLBACK and any(one.after == move.after for one in stack):
            while stack[-1].after != move.after:
                stack.pop()
        elif not stack or stack[-1].after != move.after:
            stack.append(move)
    return stack
