"""How the tests share the machine."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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

END_TO_END = Path(__file__).parent / "end_to_end"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Of several workers, one takes a whole file, and one all that shares the pipeline's run.

    Said as each test is found: by the time all are, xdist has looked for groups.
    """
    group = END_TO_END if item.path.is_relative_to(END_TO_END) else item.path
    item.add_marker(pytest.mark.xdist_group(group.name))
