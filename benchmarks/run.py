"""Runs the benchmarks one after the other, keeps what they print, and writes docs/performance.md.

    python benchmarks/run.py                 all of them, in full (two to three hours)
    python benchmarks/run.py --quick         the same, small
    python benchmarks/run.py dmil features   some of them
    python benchmarks/run.py --table         only the page, from the results there are

    benchmarks/results/<name>.json    benchmark, command, quick, exit status, date, seconds,
                                      machine, load, versions, commit, and as `result` what it
                                      printed

Full results and quick ones are kept apart: `<name>.quick.json`. One that fails is named at the end;
what it has printed is kept all the same, with its exit status, so that the page shows what is red.
One that printed nothing leaves its earlier result as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from figures import BENCHMARKS, Benchmark
from page import page

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
PAGE = REPOSITORY / "docs" / "performance.md"
PACKAGES = ("hymirec", "torch", "transformers", "numpy", "faiss-cpu", "feast", "mlflow", "pyarrow")


def measure(benchmark: Benchmark, *, quick: bool, peer_python: Path | None) -> dict[str, Any]:
    """Run one benchmark in a process of its own; what is kept of it.

    Raises:
        RuntimeError: what it printed last is no JSON object.
    """
    options = ["--quick"] if quick and benchmark.has_quick else list(benchmark.options)
    if benchmark.has_peer and peer_python is not None:
        options += ["--peer-python", str(peer_python)]
    command = [sys.executable, f"benchmarks/{benchmark.name}.py", *options]
    print(f"{benchmark.name}: {' '.join(command[1:])}", file=sys.stderr, flush=True)
    load, started = os.getloadavg()[0], time.monotonic()
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    seconds = time.monotonic() - started
    try:
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        result = None
    if not isinstance(result, dict):
        how = f"ended with {done.returncode}" if done.returncode else "printed no JSON"
        raise RuntimeError(f"{benchmark.name} {how}")
    return {
        "benchmark": benchmark.name,
        # As anybody would type it: where the peer's interpreter lies is this machine's affair.
        "command": " ".join(["python", *command[1:]]).replace(str(peer_python), "PYTHON"),
        "quick": quick,
        "status": done.returncode,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "machine": machine(),
        "load": {"before": round(load, 1), "after": round(os.getloadavg()[0], 1)},
        "versions": versions(),
        "commit": commit(),
        "result": result,
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": processor(),
        "cores": cores,
        "memory_gib": round(memory, 1),
        "system": platform.platform(terse=True),
    }


def processor() -> str:
    """Its name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Python's, and those of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Of the checkout, `+` behind it where files have changed since; '' outside of one."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], check=True,
                              capture_output=True, text=True).stdout.strip()  # fmt: skip
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "hymirec", "features",
                                  "flows", "serving", "benchmarks/*.py"]).returncode  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed else "")


def results() -> dict[str, dict[str, Any]]:
    """What is kept of each benchmark: its full result where there is one, else the quick one."""
    found = {}
    for benchmark in BENCHMARKS:
        for name in (f"{benchmark.name}.json", f"{benchmark.name}.quick.json"):
            if benchmark.name not in found and (RESULTS / name).exists():
                found[benchmark.name] = json.loads((RESULTS / name).read_text())
    return found


def main() -> None:
    """Run what was asked for, then write the page."""
    names = [one.name for one in BENCHMARKS]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--table", action="store_true", help="write the page and run nothing")
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has RecTools")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(names)):
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(names)}")
    failures = []
    chosen = [one for one in BENCHMARKS if one.name in arguments.names or not arguments.names]
    for benchmark in [] if arguments.table else chosen:
        if not arguments.names and arguments.quick and not benchmark.has_quick:
            print(f"{benchmark.name}: has no quick form, left out", file=sys.stderr)
            continue
        try:
            found = measure(benchmark, quick=arguments.quick, peer_python=arguments.peer_python)
        except RuntimeError as error:
            failures.append(str(error))
            continue
        if found["status"]:
            failures.append(f"{benchmark.name} ended with {found['status']}")
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{benchmark.name}{'.quick' if arguments.quick else ''}.json"
        path.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(results()))
    print(f"written: {PAGE.relative_to(REPOSITORY)}", file=sys.stderr)
    if failures:
        sys.exit(f"failed: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
