"""A headless Chromium for the tests of the Spaces, driven over WebDriver (W3C) without another package."""

import base64
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions"]
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "ArrowRight": "\ue014", "Space": " "}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Page:
    """One browser window with its own cookies and storage."""

    def __init__(self, driver_url: str, profile: Path, width: int, height: int):
        arguments = [*ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        options = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        self._driver, self._session = driver_url, ""
        self._session = f"/session/{self.call('POST', '/session', capabilities={'alwaysMatch': options})['sessionId']}"
        self.resize(width, height)

    def call(self, method: str, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self._driver + self._session + path, data, method=method)  # noqa: S310  chromedriver on 127.0.0.1
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  as above
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, url: str):
        self.call("POST", "/url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a JavaScript function body; `arguments` are its arguments."""
        return self.call("POST", "/execute/sync", script=script, args=list(arguments))

    def wait(self, script: str, *arguments: Any, seconds: float = 60.0) -> Any:
        """Waits until the script's value is truthy."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.run(script, *arguments)
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"still false after {seconds} s: {script}")

    def find(self, selector: str) -> str:
        return self.call("POST", "/element", using="css selector", value=selector)[ELEMENT]

    def click(self, selector: str):
        self.run("arguments[0].scrollIntoView({block: 'center'})", {ELEMENT: self.find(selector)})
        self.call("POST", f"/element/{self.find(selector)}/click")

    def type(self, selector: str, text: str):
        """Replaces the text of a field, key by key."""
        self.run("arguments[0].scrollIntoView({block: 'center'})", {ELEMENT: self.find(selector)})
        self.call("POST", f"/element/{self.find(selector)}/clear")
        self.call("POST", f"/element/{self.find(selector)}/value", text=text)

    def press(self, key: str):
        """Presses a key at whatever has the focus."""
        strokes = [{"type": kind, "value": KEYS[key]} for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    def resize(self, width: int, height: int):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("POST", "/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=metrics)

    def screenshot(self) -> bytes:
        return base64.b64decode(self.call("GET", "/screenshot"))

    def console(self) -> list[dict]:
        """Messages of the console since the last call."""
        return self.call("POST", "/se/log", type="browser")

    def close(self):
        self.call("DELETE", "")


@pytest.fixture(scope="session")
def new_page(needs, tmp_path_factory) -> Iterator[Callable[..., Page]]:
    """Opens browser windows: `new_page(width=1280, height=800)`."""
    needs("chromium", "chromedriver")
    url = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        ["chromedriver", f"--port={url.rpartition(':')[2]}", "--log-level=OFF"], stdout=subprocess.DEVNULL
    )
    pages: list[Page] = []

    def open_page(width: int = 1280, height: int = 800) -> Page:
        pages.append(Page(url, tmp_path_factory.mktemp("profile"), width, height))
        return pages[-1]

    try:
        _wait_for(f"{url}/status", process)
        yield open_page
    finally:
        for page in pages:
            page.close()
        process.terminate()
        process.wait(timeout=20)


def _wait_for(url: str, process: subprocess.Popen):
    for _ in range(200):
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310  as above
                return
        except OSError:
            assert process.poll() is None, "chromedriver has ended"
            time.sleep(0.05)
    raise AssertionError(f"no answer from {url}")


@pytest.fixture(scope="session")
def oam_url() -> Iterator[str]:
    """The OAM link simulator on a loopback port."""
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'mimo-hf[spaces]'")
    from mimo_hf.hub import spaces

    demo = spaces.load("oam").build_demo()
    options = {**spaces.load("oam").LAUNCH, "prevent_thread_lock": True, "quiet": True}
    _, url, _ = demo.launch(server_name="127.0.0.1", server_port=free_port(), **options)
    yield url
    demo.close()
