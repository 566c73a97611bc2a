"""A headless Chromium, told what to do over the WebDriver protocol (w3.org/TR/webdriver2)."""

import base64
import shutil
import socket
import subprocess
import time

import requests

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The protocol's own name of an element's reference."""
WAIT_SECONDS = 30
ENTER, TAB = "\ue007", "\ue004"


def is_there():
    return bool(shutil.which("chromedriver") and (
        shutil.which("chromium") or shutil.which("google-chrome")
    ))  # fmt: skip


class Browser:
    """One window; a context manager."""

    def __init__(self, width=1200, height=900):
        self._size = width, height

    def __enter__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._at = f"http://127.0.0.1:{port}"
        self._wait_for_driver()
        binary = shutil.which("chromium") or shutil.which("google-chrome")
        width, height = self._size
        options = {
            "binary": binary,
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                     f"--window-size={width},{height}"],
        }  # fmt: skip
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        body = {"capabilities": {"alwaysMatch": wanted}}
        found = requests.post(f"{self._at}/session", json=body, timeout=60).json()["value"]
        self._session = f"{self._at}/session/{found['sessionId']}"
        # A window cannot be made narrower than some 500 pixels, a screen can.
        self.call("goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params={
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
        })  # fmt: skip
        return self

    def __exit__(self, *_):
        requests.delete(self._session, timeout=30)
        self._driver.terminate()
        self._driver.wait()

    def _wait_for_driver(self):
        for _ in range(200):
            try:
                if requests.get(f"{self._at}/status", timeout=5).json()["value"]["ready"]:
                    return
            except requests.ConnectionError:
                time.sleep(0.1)
        raise TimeoutError("chromedriver does not start")

    def call(self, command, **body):
        answer = requests.post(f"{self._session}/{command}", json=body, timeout=60).json()
        value = answer["value"]
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{command}: {value['message']}")
        return value

    def open(self, url):
        self.call("url", url=url)

    def run(self, script, *args):
        return self.call("execute/sync", script=script, args=list(args))

    def find(self, css):
        return self.call("element", using="css selector", value=css)[ELEMENT]

    def click(self, css):
        self.call(f"element/{self.find(css)}/click")

    def follow(self, words):
        found = self.call("element", using="link text", value=words)[ELEMENT]
        self.call(f"element/{found}/click")

    def write(self, css, text):
        self.call(f"element/{self.find(css)}/value", text=text)

    def press(self, key):
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.call("actions", actions=[{"type": "key", "id": "keyboard", "actions": keys}])

    def complaints(self):
        """What the browser's own log says, such as of a policy that was broken."""
        return [one["message"] for one in self.call("se/log", type="browser")]

    def until(self, script):
        """Wait until a line of script is true: what a click begins may take a moment."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.run(f"return {script}"):
            if time.monotonic() > deadline:
                shown = self.run("return location.pathname + '\\n' + document.body.innerText")
                raise AssertionError(f"not so: {script}; there is {shown}")
            time.sleep(0.05)

    def sees(self, words):
        self.until(f"document.body.innerText.includes({words!r})")

    def is_at(self, place):
        self.until(f"document.readyState == 'complete' && location.pathname == {place!r}")

    def picture(self):
        found = requests.get(f"{self._session}/screenshot", timeout=60).json()["value"]
        return base64.b64decode(found)
