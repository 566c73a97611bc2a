"""What the console's tests declare, open and ask: made-up versions behind a desk of their own."""

import threading

from hymirec.errors import UsageError

TEXT = """
name: longer
hypothesis: Version 2 reads <b>longer</b> histories.
owner: recommendations
variants:
  - {name: control, model: champion}
  - {name: new, model: 2}
guardrails:
  - {metric: error_rate, absolute: 0.05}
ramp:
  - {share: 0.5, min_users: 40}
  - {share: 1.0, min_users: 400}
horizon: {days: 7}
"""
VERSIONS = {"control": 1, "new": 2}
READ, OPERATE = "read-token-of-anna-00", "operate-token-of-bea-00"
PAGES = ["/experiments", "/experiments/new", "/experiments/longer", "/experiments/longer?now=1",
         "/experiments/longer/kill", "/versions", "/versions/1", "/versions/champion",
         "/versions/compare?a=1&b=2", "/versions/roll-back", "/health", "/users",
         "/users?user_id=u1", "/kill-all"]  # fmt: skip


class FakeDesk:
    """What flows would say of two versions."""

    def __init__(self, store):
        self.store = store
        self.rolled_back = []
        self.refuses = ""
        self.judged = threading.Event()
        self.judged.set()

    def _version(self, number):
        return {
            "version": str(number), "aliases": ["champion"] if number == 1 else [],
            "registered": "2026-01-02T03:04:05+00:00", "recipe": "small", "data_digest": "d",
            "codebook_id": "book", "feature_service": "f", "features_online": number == 1,
            "run_id": f"run{number}", "gate": "passed: better", "gate_report": "",
            "metrics": {"R@10": 0.1 * number}, "card": "# Card", "params": {"seed": str(number)},
        }  # fmt: skip

    def versions(self):
        return [self._version(2), self._version(1)]

    def version(self, name):
        number = {"champion": "1"}.get(name, name)
        if number not in ("1", "2"):
            raise UsageError(f"no version of hymirec is {name!r}")
        return self._version(int(number))

    def history(self, *, version="", limit=20):
        return self.store.log.read(limit=limit)

    def roll_back(self, *, reason, actor):
        self.rolled_back.append((reason, actor))

    def resolve(self, experiment):
        if any(one.model == 9 for one in experiment.variants):
            raise UsageError("no version of hymirec is '9'")
        return VERSIONS

    def start(self, name, *, reason, actor):
        return self.store.start(name, VERSIONS, reason=reason, actor=actor)

    def conclude(self, name, winner, *, reason, actor, promote, force):
        assert self.judged.wait(10)
        if promote and not force and winner == "new" and self.refuses:
            raise UsageError(self.refuses)
        return self.store.end(name, "concluded", reason=reason, winner=winner, actor=actor)

    def gate_says(self, version):
        return "it is champion" if version == 1 else "the gate has not compared it yet"

    def monitoring(self):
        return [
            {"metric": "served/hit_rate", "what": "hits", "limit": 0.1, "side": "below",
             "points": [(1e9, 0.3), (1e9 + 60, 0.05)], "is_crossed": True}
        ]  # fmt: skip
