"""Pages of experiments: the list, one, a new one, and what can be done with it."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request, Response

from features.logs.experiments import ExperimentStore
from features.logs.standing import StoredExperiment
from hymirec.abtest.definition import example, parse, to_yaml
from hymirec.abtest.metrics import METRICS
from hymirec.errors import HymirecError, UsageError
from serving.console import experiments as views
from serving.console.experiments import ACTIONS, WORDS, Action
from serving.console.site import ROOT, FormOf, Site, SiteOf, UnknownError, go_to

DECISIONS_SHOWN = 50
EXAMPLE_VERSION = r"\b8\b"
"""The treatment's in the example, where it is named twice."""


def add_pages(router: APIRouter) -> None:
    """Add them; those that change something come as a question first."""

    @router.get("/experiments")
    def experiments(request: Request, site: SiteOf) -> Response:
        rows = views.rows(site.experiments, site.readings)
        return site.page(request, "experiments.html", rows=rows)

    @router.get("/experiments/new")
    def new_page(request: Request, site: SiteOf) -> Response:
        site.refuse_readers(request)
        return _new_page(site, request, _example(site))

    @router.post("/experiments/new")
    def new(request: Request, site: SiteOf, fields: FormOf) -> Response:
        text = fields.get("text", "").replace("\r\n", "\n")
        replaces = fields.get("replaces", "")
        try:
            experiment = parse(text, "the declaration")
            if replaces and experiment.name != replaces:
                raise UsageError(f"name: this changes {replaces!r}; create another for another")
            site.experiments.refuse_used(experiment.name, replace_draft=bool(replaces))
            versions = site.desk.resolve(experiment)
            if fields.get("do") == "create":
                site.experiments.create(
                    experiment, actor=site.actor(request), replace_draft=bool(replaces)
                )
                return go_to(f"/experiments/{experiment.name}")
            plan = views.plan(site.home, experiment)
        except HymirecError as error:
            return _new_page(site, request, text, replaces=replaces, problem=str(error), status=422)
        checked = {"versions": versions, "plan": plan}
        return _new_page(site, request, text, replaces=replaces, checked=checked)

    @router.get("/kill-all")
    def kill_all_page(request: Request, site: SiteOf) -> Response:
        site.refuse_readers(request)
        names = ", ".join(one.name for one in site.experiments.active()) or "none"
        what = f"Everybody gets the champion within a second. These end for good: {names}."
        return site.page(
            request, "confirm.html", word="Kill all", subject="", what=what,
            problem="", action=f"{ROOT}/kill-all", back=f"{ROOT}/experiments", danger=True,
            winners=[], revision=None, reason="killed",
        )  # fmt: skip

    @router.post("/kill-all")
    def kill_all(request: Request, site: SiteOf, fields: FormOf) -> Response:
        reason = fields.get("reason") or "killed"
        site.experiments.kill_all(reason=reason, actor=site.actor(request))
        site.gateway.fleet.look_now()
        return go_to("/experiments")

    @router.get("/experiments/{name}")
    def experiment(request: Request, site: SiteOf, name: str, now: bool = False) -> Response:
        return _show(site, request, _get(site.experiments, name), is_live=now)

    @router.get("/experiments/{name}/change")
    def change_page(request: Request, site: SiteOf, name: str) -> Response:
        site.refuse_readers(request)
        stored = _get(site.experiments, name)
        if stored.state != "draft":
            raise UnknownError(f"{name} is {stored.state}: only a draft can be changed")
        return _new_page(site, request, to_yaml(stored.experiment), replaces=name)

    @router.get("/experiments/{name}/{action}")
    def confirm(request: Request, site: SiteOf, name: str, action: str) -> Response:
        site.refuse_readers(request)
        stored = _get(site.experiments, name)
        return _confirm(site, request, stored, _action(stored, action))

    @router.post("/experiments/{name}/{action}")
    def act(
        request: Request, site: SiteOf, name: str, action: str, fields: FormOf
    ) -> Response:  # fmt: skip
        stored = _get(site.experiments, name)
        asked = _action(stored, action)
        try:
            if asked != "kill" and fields.get("revision") != str(stored.revision):
                raise UsageError(
                    f"{name} has changed since you were asked: it is {stored.state}, "
                    f"{stored.reason}. Is this still what you want?"
                )
            _do(site, stored, asked, fields, site.actor(request))
        except UsageError as error:
            return _confirm(site, request, stored, asked, problem=str(error), status=422)
        return go_to(f"/experiments/{name}")


def _get(store: ExperimentStore, name: str) -> StoredExperiment:
    try:
        return store.get(name)
    except UsageError as error:
        raise UnknownError(f"no experiment is called {name!r}") from error


def _action(stored: StoredExperiment, name: str) -> Action:
    for one in ACTIONS.get(stored.state, []):
        if one == name:
            return one
    known = ", ".join(ACTIONS.get(stored.state, [])) or "nothing"
    state = stored.state.replace("_", " ")
    raise UnknownError(f"{stored.name} is {state}: what can be done with it is {known}")


def _do(
    site: Site, stored: StoredExperiment, action: Action, fields: dict[str, str], actor: str
) -> None:
    name, store = stored.name, site.experiments
    reason = fields.get("reason", "").strip()
    if not reason:
        raise UsageError("a reason is needed: it is what the log will tell")
    if action == "start":
        site.desk.start(name, reason=reason, actor=actor)
    elif action == "ramp":
        store.ramp(name, reason=reason, actor=actor)
    elif action == "pause":
        store.pause(name, reason=reason, actor=actor)
    elif action == "resume":
        store.resume(name, reason=reason, actor=actor)
    elif action == "stop":
        store.end(name, "stopped", reason=reason, actor=actor)
    elif action == "conclude":
        _conclude(site, name, fields, reason, actor)
    else:
        store.kill(name, reason=reason, actor=actor)
    site.gateway.fleet.look_now()


def _conclude(site: Site, name: str, fields: dict[str, str], reason: str, actor: str) -> None:
    winner = fields.get("winner", "")

    def work() -> None:
        site.desk.conclude(
            name, winner, reason=reason, actor=actor,
            promote=fields.get("promote") == "yes", force=fields.get("force") == "yes",
        )  # fmt: skip
        site.gateway.fleet.look_now()

    site.conclusions.make(name, winner, work)


def _confirm(
    site: Site, request: Request, stored: StoredExperiment, action: Action, problem: str = "",
    status: int = 200,
) -> Response:  # fmt: skip
    word, what = WORDS[action]
    if action == "ramp" and stored.step + 1 < len(stored.experiment.ramp):
        shares = [stored.experiment.ramp[step].share for step in (stored.step, stored.step + 1)]
        what = f"From {100 * shares[0]:.3g} % to {100 * shares[1]:.3g} % of the traffic. {what}"
    winners = []
    if action == "conclude":
        versions = [(one.name, stored.versions[one.name]) for one in stored.experiment.variants]
        winners = [(name, number, site.desk.gate_says(number)) for name, number in versions]
        readings = site.readings.of_experiment(stored.name, limit=1)
        said = f"{readings[0].action}: {readings[0].reason}" if readings else "never"
        what = f"{what} Last readout: {said}."
    address = f"{ROOT}/experiments/{stored.name}"
    return site.page(
        request, "confirm.html", status, word=word, subject=stored.name, what=what,
        problem=problem, action=f"{address}/{action}", back=address,
        danger=action in ("kill", "stop"), winners=winners,
        revision=stored.revision, reason="killed" if action == "kill" else "",
    )  # fmt: skip


def _show(site: Site, request: Request, stored: StoredExperiment, *, is_live: bool) -> Response:
    readings = site.readings.of_experiment(stored.name, limit=views.READINGS_SHOWN)
    reading = readings[-1] if readings else None
    readout = reading.readout if reading else None
    is_live = is_live and stored.started is not None
    if is_live:
        readout = views.read_now(site.home, stored)
    served = site.gateway.fleet.served
    waits_for = [one for one in sorted({*stored.versions.values()}) if served(one) is None]
    actions = [(one, WORDS[one][0]) for one in ACTIONS.get(stored.state, [])]
    if stored.step + 1 == len(stored.experiment.ramp):
        actions = [one for one in actions if one[0] != "ramp"]
    return site.page(
        request, "experiment.html", stored=stored, actions=actions, reading=reading,
        readout=readout, is_live=is_live, charts=views.charts(stored, readings),
        estimates=views.estimates(readout) if readout else [],
        decisions=readings[::-1][:DECISIONS_SHOWN],
        history=site.experiments.history(stored.name), declaration=to_yaml(stored.experiment),
        waits_for=waits_for if stored.state == "running" else [],
        conclusion=site.conclusions.of(stored.name),
        plan=views.plan(site.home, stored.experiment) if stored.state == "draft" else None,
    )  # fmt: skip


def _new_page(
    site: Site, request: Request, text: str, *, replaces: str = "", problem: str = "",
    checked: dict[str, Any] | None = None, status: int = 200,
) -> Response:  # fmt: skip
    return site.page(
        request, "new_experiment.html", status, text=text, replaces=replaces, problem=problem,
        checked=checked, metrics=METRICS.values(),
    )  # fmt: skip


def _example(site: Site) -> str:
    """A declaration to begin with, of versions that are there."""
    text = example()
    others = [one for one in site.desk.versions() if "champion" not in one["aliases"]]
    return re.sub(EXAMPLE_VERSION, str(others[0]["version"]), text) if others else text
