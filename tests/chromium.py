"""A real Chromium without a window, driven over its DevTools protocol: just what the tests of pages need."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from patience import PATIENCE_S, wait_for


def chromium() -> str | None:
    """Where Chromium is on this machine; None if it is not."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One process, and pages in it."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self.heard: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Ask, and wait for the answer; what the browser says meanwhile is kept in ``heard``."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        self._socket.send(json.dumps(message if session is None else {**message, "sessionId": session}))
        while True:
            said = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if said.get("id") == self._number:
                assert "error" not in said, f"{method}: {said['error']}"
                return dict(said["result"])
            self.heard.append(said)

    def page(self, url: str, *, width: int = 1280, height: int = 900, scripts: bool = True, dark: bool = False) -> Page:
        """Open an address in a page of its own."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 640)
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        if not scripts:
            page.call("Emulation.setScriptExecutionDisabled", value=True)
        page.call("Page.navigate", url=url)
        return page


class Page:
    """One page."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the page."""
        return self._browser.call(method, self._session, **params)

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        # While a page is loading there may be nothing to look at.
        tried = f"(() => {{ try {{ return !!({script}) }} catch {{ return false }} }})()"
        wait_for(script, lambda: bool(self.run(tried)))

    def elements(self) -> tuple[str, list[str]]:
        """The page's address and its elements' names, at one moment, also when scripts may not run in it."""
        root = self.call("DOM.getDocument", depth=-1)["root"]
        names, ahead = [], [root]
        while ahead:
            node = ahead.pop()
            names.append(str(node["nodeName"]).lower())
            ahead += node.get("children", [])
        return str(root["documentURL"]), names

    def key(self, name: str) -> None:
        """Press a key."""
        text = {"text": "\r"} if name == "Enter" else {"text": name} if len(name) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=name, code=name, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name, code=name)

    def errors(self) -> list[str]:
        """What scripts have failed with, and what the page's own policy has refused."""
        found = []
        for said in self._browser.heard:
            if said.get("sessionId") != self._session:
                continue
            if said["method"] == "Runtime.exceptionThrown":
                found.append(str(said["params"]["exceptionDetails"]))
            if said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                found.append(said["params"]["entry"]["text"] + " " + str(said["params"]["entry"].get("url", "")))
        return found

    def picture(self, path: Path) -> None:
        """Save the whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """Close it."""
        self._browser.call("Target.closeTarget", targetId=self._target)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A Chromium whose profile is in ``folder``."""
    program = chromium()
    assert program is not None
    command = [
        program, "--headless=new", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--no-first-run",
        "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
        "--no-proxy-server", "--force-color-profile=srgb", "about:blank",
    ]  # fmt: skip
    with open(folder.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        note = folder / "DevToolsActivePort"
        wait_for("Chromium to listen", lambda: note.is_file() and len(note.read_text().split()) == 2)
        port, path = note.read_text().split()
        # No pings: while nobody asks anything, nobody takes what the browser tells by itself, and answers wait behind that.
        address = f"ws://127.0.0.1:{port}{path}"
        with connect(address, max_size=None, proxy=None, open_timeout=PATIENCE_S, ping_interval=None) as socket:
            yield Browser(socket)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
