"""The console in a real browser: a phone's width and a keyboard."""

import threading
import time
from urllib.parse import urlsplit

import pytest
import uvicorn

from serving.gateway import create_app
from serving.server import free_port
from serving.tokens import ENV_TOKENS, Tokens

from . import webdriver
from .console_desk import OPERATE, PAGES, READ, TEXT


@pytest.fixture
def address(home, make_fleet, desk, monkeypatch):
    """The console at a real address, for those who sign in with a token."""
    monkeypatch.setenv(ENV_TOKENS, f"{READ} read anna; {OPERATE} operate bea")
    app = create_app(home, make_fleet(), tokens=Tokens.from_environment(), desk=desk)
    port = free_port("127.0.0.1")
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.mark.skipif(not webdriver.is_there(), reason="needs chromium and chromedriver")
def test_an_owner_works_with_a_phones_width_and_a_keyboard(address, store):
    with webdriver.Browser(width=360, height=740) as browser:
        browser.open(f"{address}/console/experiments/new")
        browser.is_at("/console/sign-in")
        # The field has the focus: no mouse is needed.
        browser.write("#token", OPERATE + webdriver.ENTER)
        browser.is_at("/console/experiments/new")
        browser.press(webdriver.TAB)
        assert browser.run("return document.activeElement.innerText") == "Skip to the content"
        browser.press(webdriver.ENTER)
        assert browser.run("return document.activeElement.id") == "main"
        browser.run("document.getElementById('text').value = arguments[0]", TEXT)
        browser.click("button[value=check]")
        browser.sees("It can be created")
        browser.click("button[value=create]")
        browser.is_at("/console/experiments/longer")
        browser.follow("Start")
        browser.is_at("/console/experiments/longer/start")
        browser.write("#reason", "try it" + webdriver.ENTER)
        browser.is_at("/console/experiments/longer")
        assert store.get("longer").state == "running"
        browser.follow("Kill switch")
        browser.is_at("/console/experiments/longer/kill")
        assert store.get("longer").state == "running"  # it asks first
        browser.click("button.danger")
        browser.is_at("/console/experiments/longer")
        browser.sees("killed")
        assert store.get("longer").state == "stopped"
        for path in PAGES:
            if path.endswith("/kill"):
                continue
            browser.open(f"{address}/console{path}")
            wide = browser.run("return document.scrollingElement.scrollWidth")
            assert wide <= 360, (path, wide)
            loaded = browser.run(
                "return performance.getEntriesByType('resource').map(one => one.name)"
            )
            assert {urlsplit(one).netloc for one in loaded} <= {urlsplit(address).netloc}
        assert browser.complaints() == []
