"""Take the pictures of the pages again: `docs/images`, all but that of the data report.

    hymirec simulate --scenario better --keep practice
    python docs/pictures.py --practice practice --home .hymirec --user u0003

`--home` is one with two versions of one data set, both served because an experiment runs, and
`--user` is somebody in it. Needs chromium and chromedriver. Gateways are started and ended again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "serving")]
import webdriver  # noqa: E402

from serving.server import free_port  # noqa: E402

IMAGES = Path(__file__).parent / "images"
WIDE, PHONE = 1100, 380
COLOURS = 128
READY_SECONDS = 900
QUIET = {"GIT_PYTHON_REFRESH": "quiet"}


def main() -> None:
    """Take all of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--practice", type=Path, help="A home that a simulation has kept.")
    parser.add_argument("--home", type=Path, help="One with two versions of one data set.")
    parser.add_argument("--user", default="u0003", help="Somebody who is known there.")
    asked = parser.parse_args()
    if asked.practice:
        with gateway(asked.practice) as address:
            take(f"{address}/console/experiments", "console-experiments", height=480)
            place = f"{address}/console/experiments/simulated"
            take(place, "console-experiment", height=1480)
            take(place, "console-phone", width=PHONE, height=760)
    if asked.home:
        with gateway(asked.home) as address:
            take(f"{address}/console/versions", "console-versions", height=620)
            take(f"{address}/console/users?user_id={asked.user}", "console-user", height=1000)
            take(f"{address}/docs", "api", height=900)
        with compared(asked.home) as page:
            take(page.as_uri(), "compare", height=1000)


@contextlib.contextmanager
def gateway(home: Path):
    """Its address, once two versions are ready, as pages of both need."""
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "hymirec", "serve", "--home", home, "--port", str(port)]
    process = subprocess.Popen(
        [*map(str, command), "--replicas", "1", "--no-standby"], cwd=ROOT, env=os.environ | QUIET,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + READY_SECONDS
    try:
        while not is_ready(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the gateway of {home} does not start: hymirec serve says why")
            time.sleep(1)
        yield address
    finally:
        process.terminate()
        process.wait()


def is_ready(address: str) -> bool:
    """Whether two versions, and all that it is to serve, answer."""
    try:
        found = requests.get(f"{address}/version", timeout=5).json()
    except requests.RequestException:
        return False
    served = [one["servers"] for one in found["versions"]]
    return len(served) > 1 and all(served)


@contextlib.contextmanager
def compared(home: Path):
    """The page that puts the runs of the two newest versions side by side."""
    command = [sys.executable, "-m", "hymirec", "models", "list", "--home", str(home), "--json"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    versions = json.loads(told.splitlines()[-1])["versions"]
    runs = [one["run_id"] for one in versions[-2:]]
    with tempfile.TemporaryDirectory() as directory:
        page = Path(directory) / "comparison.html"
        command = [sys.executable, "-m", "hymirec", "compare", *runs, "--home", str(home)]
        subprocess.run([*command, "--out", str(page)], cwd=ROOT, capture_output=True, check=True)
        yield page


def take(address: str, name: str, *, width: int = WIDE, height: int) -> None:
    """Open a page in a browser and keep what its window shows, in few colours."""
    with webdriver.Browser(width=width, height=height) as browser:
        browser.open(address)
        browser.until("document.readyState == 'complete'")
        time.sleep(2)  # what a page draws after it has loaded
        picture = Image.open(io.BytesIO(browser.picture())).convert("RGB")
    path = IMAGES / f"{name}.png"
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
