"""Before anything else: how torch's threads wait for each other."""

import os

# By spinning, as OpenMP has it, a small product takes up to forty times as long when another
# process works on the same cores; tests then run into their time limit.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
