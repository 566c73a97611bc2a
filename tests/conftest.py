"""How the tests share the machine."""

import gc
import os

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Before torch is imported. By spinning, as OpenMP has it, a small product takes up to forty times
# as long when another process works on the same cores; tests then run into their time limit.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same inputs every time, so that a run is green or red for what was changed;
# HYPOTHESIS_PROFILE=search looks for others, for as long as one likes to wait.
# A busy machine is slow, which is nothing against an input.
PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", max_examples=40, database=None, derandomize=True, **PATIENT)
settings.register_profile("search", max_examples=5000, **PATIENT)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

END_TO_END = "tests/end_to_end"


def pytest_collection_finish() -> None:
    """Look no more at what was imported: every training collects garbage, seconds among so much."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Of several workers, one takes a whole file, and one all that shares the pipeline's run."""
    # By name, not the files with most tests first: what shares the run is long, and would end last.
    config.option.loadscopereorder = False
    return ByWhatIsShared(config, log)


class ByWhatIsShared(LoadScopeScheduling):
    """Keeps together what shares fixtures. (pytest 9.2 has no ear for groups that xdist names.)"""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return END_TO_END if path.startswith(f"{END_TO_END}/") else path
