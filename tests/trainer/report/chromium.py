"""Drives an installed Chromium over its debugging pipe: opens a page as a reader has it and says what went wrong.

No driver, no port and no package: the DevTools protocol is JSON, NUL-terminated, on file descriptors 3 and 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
ANSWER_SECONDS = 60


def path_or_none() -> str | None:
    """The browser on this machine, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Visit:
    """What opening one page brought: requests other than the page itself, and messages on the console."""

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


class Browser:
    """One headless browser. Use as a context manager; `open` first, then ask about the page."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = [str(path_or_none()), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        shell = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "chromium", *command]
        self._process = subprocess.Popen(
            shell, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self._pending, self._number, self._events = b"", 0, []
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable", self._session)

    _session: str
    _events: list[dict[str, Any]]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call("Browser.close")
        finally:
            os.close(self._write)
            os.close(self._read)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def open(self, page: Path, *, width: int, scheme: str, media: str = "screen") -> Visit:
        """Opens a file at this width in this colour scheme (`light`, `dark`) and waits until it is loaded."""
        self._events.clear()
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", self._session, **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", self._session, media=media, features=features)
        self._call("Page.navigate", self._session, url=page.as_uri())
        self._wait_for("Page.loadEventFired")
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self._visit(page.as_uri())

    def _visit(self, own: str) -> Visit:
        visit = Visit()
        for event in self._events:
            name, facts = event.get("method"), event.get("params", {})
            if name == "Network.requestWillBeSent" and (url := facts["request"]["url"]) != own:
                visit.requests.append(url)
            elif name == "Runtime.exceptionThrown":
                visit.complaints.append(json.dumps(facts["exceptionDetails"])[:500])
            elif name == "Runtime.consoleAPICalled":
                visit.complaints.append(json.dumps(facts["args"])[:500])
            elif name == "Log.entryAdded":
                visit.complaints.append(facts["entry"]["text"])
        return visit

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page. Works although the page itself may run no script."""
        answer = self._call(
            "Runtime.evaluate", self._session, expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def screenshot(self, target: Path) -> None:
        """The whole page, not only what fits the window."""
        shot = self._call("Page.captureScreenshot", self._session, captureBeyondViewport=True, format="png")
        target.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            answer = self._next(end)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self._events.append(answer)

    def _wait_for(self, method: str) -> None:
        end = time.monotonic() + ANSWER_SECONDS
        while not any(event.get("method") == method for event in self._events):
            self._events.append(self._next(end))

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._read], [], [], max(end - time.monotonic(), 0))
            if not ready:
                raise TimeoutError("the browser did not answer")
            block = os.read(self._read, 1 << 16)
            if not block:
                raise ConnectionError("the browser ended")
            self._pending += block
        message, self._pending = self._pending.split(b"\0", 1)
        return dict(json.loads(message))
