"""How does a test look at a page? With headless Chromium, which is told what to do in Chrome's DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Self

from websocket import WebSocket, WebSocketTimeoutException, create_connection

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 60.0
OPTIONS = (
    "--headless", "--remote-debugging-port=0", "--no-first-run", "--no-sandbox", "--disable-gpu", "--disable-sync",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-extensions",
    # nothing but this machine can be reached
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)  # fmt: skip


def find_chromium() -> str | None:
    """Path of Chromium or Chrome; None if neither is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def wait_until(done: Callable[[], Any], what: str) -> Any:
    """The first value of `done` that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if value := done():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")


class Chromium:
    """A browser of its own profile, without tabs to begin with; closed at the end of the ``with``."""

    def __init__(self, program: str, folder: Path) -> None:
        command = [program, *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        nowhere, home = subprocess.DEVNULL, {**os.environ, "HOME": str(folder)}
        self._process = subprocess.Popen(command, env=home, stdout=nowhere, stderr=nowhere)
        record = folder / "DevToolsActivePort"
        wait_until(lambda: record.is_file() and record.read_text().count("\n"), "Chromium starts")
        port, path = record.read_text().split("\n")[:2]
        self._address = f"ws://127.0.0.1:{port}"
        self._socket = connect(f"{self._address}{path}")
        self._n_calls, self._open = 0, list[tuple[Page, str]]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with closing(self._socket):
            self.call("Browser.close")
        self._process.wait(PATIENCE_S)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._n_calls += 1
        return converse(self._socket, self._n_calls, method, params, [])

    def close_pages(self) -> None:
        """End all windows, and what they have stored."""
        for page, context in self._open:
            page.close()
            self.call("Target.disposeBrowserContext", browserContextId=context)
        self._open.clear()

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        """A page in a new window that shares nothing with the others (no storage, no cache)."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        page = Page(connect(f"{self._address}/devtools/page/{target}"))
        self._open.append((page, context))
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.go(url)
        return page


class Page:
    """One window. `events` is what it has told so far: requests, console, exceptions."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket, self._n_calls = socket, 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._n_calls += 1
        return converse(self._socket, self._n_calls, method, params, self.events)

    def close(self) -> None:
        self._socket.close()

    def go(self, url: str) -> None:
        """Load an address."""
        n_before = self._loads()
        self.call("Page.navigate", url=url)
        wait_until(lambda: self.run("0") == 0 and self._loads() > n_before, f"{url} is loaded")

    def _loads(self) -> int:
        return sum(event["method"] == "Page.loadEventFired" for event in self.events)

    def run(self, script: str) -> Any:
        """Value of a script's expression, or of its promise."""
        reply = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait for an expression to be true of a page that has been loaded."""
        return wait_until(lambda: self.run(f"document.readyState === 'complete' && Boolean({script})"), script)

    def shown(self, selector: str) -> str:
        """Expression of an element, once it can be seen."""
        box = f"document.querySelector({json.dumps(selector)})"
        self.until(f"{box} && {box}.getClientRects().length")
        return box

    def point(self, selector: str, *, press: bool = True) -> None:
        """Move the mouse onto an element, and press it."""
        box = self.shown(selector)
        self.run(f"{box}.scrollIntoView({{block: 'center'}})")
        x, y = self.run(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({box}.getClientRects()[0])")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased")[: 3 if press else 1]:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, selector: str, text: str) -> None:
        """Replace what stands in a field by what is typed."""
        self.run(f"(field => {{ field.focus(); field.select() }})({self.shown(selector)})")
        self.call("Input.insertText", text=text)

    def text(self, selector: str) -> str:
        """What a person reads in an element, once it can be seen."""
        return str(self.run(f"{self.shown(selector)}.innerText"))

    def complaints(self) -> list[str]:
        """What went to the console: errors, breaches of the policy, exceptions."""
        self.run("0")
        events = [event for event in self.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
        return [json.dumps(event["params"]) for event in events]

    def requests(self) -> list[str]:
        """Addresses that it asked for."""
        self.run("0")
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [str(params["request"]["url"]) for params in sent]

    def picture(self, path: Path) -> Path:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path


def connect(address: str) -> WebSocket:
    # an Origin, which the client would send, makes Chromium refuse it
    return create_connection(address, timeout=PATIENCE_S, suppress_origin=True, http_no_proxy=["127.0.0.1"])


def converse(socket: WebSocket, number: int, method: str, params: Any, events: list[dict[str, Any]]) -> dict[str, Any]:
    """Send one command and wait for its answer; what is told meanwhile goes to `events`."""
    socket.send(json.dumps({"id": number, "method": method, "params": params}))
    while True:
        try:
            told = json.loads(socket.recv())
        except WebSocketTimeoutException:
            raise AssertionError(f"Chromium does not answer {method}") from None
        if told.get("id") == number:
            assert "error" not in told, f"{method}: {told['error']}"
            return dict(told["result"])
        events.append(told)
