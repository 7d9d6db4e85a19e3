"""A headless Chromium for tests of pages: `with Browser() as browser: page = browser.open(file)`.

It is driven by its DevTools protocol over two pipes, so that no package and no port is needed.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium here (apt-get install chromium)"
)

# No page of ours takes this long; a machine that is shared by other tests may.
_PATIENCE = 60.0
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # which does not work as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    " ": 32,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}


class Browser:
    """Starts Chromium with a profile of its own, and ends it."""

    def __enter__(self) -> Browser:
        assert CHROMIUM is not None
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        # Chromium reads descriptor 3 and writes to 4, which may be in use in this process.
        given = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
        redirect = f'exec "$@" 3<&{given[0]} 4>&{given[1]}'
        options = [*_OPTIONS, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", CHROMIUM, *options],
            pass_fds=given,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (commands, answers, *given):
            os.close(end)
        self._numbers, self._unread = itertools.count(1), b""
        self.pages: dict[str, Page] = {}
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._process.poll() is None:
                self.call("Browser.close")
            self._process.wait(10)
        except (OSError, EOFError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._commands)
            os.close(self._answers)
            self._profile.cleanup()

    def open(
        self, place: Path | str, size: tuple[int, int] = (1280, 900), mobile: bool = False
    ) -> Page:
        """Open a file, or an address with ``://``, in a window of (width, height) pixels."""
        url = place if isinstance(place, str) and "://" in place else Path(place).resolve().as_uri()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            page.call(f"{domain}.enable")
        page.resize(size, mobile)
        page.call("Page.navigate", url=url)
        page.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page

    def call(self, method: str, session: str | None = None, **arguments: Any) -> dict[str, Any]:
        """Call a method of the protocol, of the browser or of a page, and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": arguments}
        if session is not None:
            message["sessionId"] = session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._commands, content) :]
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            if answer.get("sessionId") in self.pages:
                self.pages[answer["sessionId"]].note(answer["method"], answer["params"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            if not select.select([self._answers], [], [], _PATIENCE)[0]:
                raise TimeoutError(f"Chromium has not answered for {_PATIENCE:g} s")
            part = os.read(self._answers, 2**20)
            if not part:
                raise EOFError("Chromium has ended")
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


class Page:
    """An open page.

    Attributes:
        errors: what its console and its scripts complained of, and failed requests.
        requests: addresses that it asked for, itself among them, but those of data inside of it.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.errors: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        return self._browser.call(method, self._session, **arguments)

    def note(self, event: str, content: dict[str, Any]) -> None:
        """Keep what is told of the page in between."""
        if event == "Runtime.exceptionThrown":
            details = content["exceptionDetails"]
            self.errors.append(details.get("exception", details).get("description", str(details)))
        elif event == "Runtime.consoleAPICalled" and content["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value")) for a in content["args"]))
        elif event == "Log.entryAdded" and content["entry"]["level"] == "error":
            self.errors.append(f"{content['entry']['text']} {content['entry'].get('url', '')}")
        elif event == "Network.requestWillBeSent":
            url = content["request"]["url"]
            self.requests += [url] if not url.startswith(("data:", "blob:")) else []

    def resize(self, size: tuple[int, int], mobile: bool = False) -> None:
        """Give the window another (width, height) in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression; of a promise, what it becomes."""
        done = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        details = done.get("exceptionDetails")
        assert details is None, f"{script}: {details}"
        return done["result"].get("value")

    def wait_for(self, condition: str, seconds: float = _PATIENCE) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never came true: {condition}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """Return the text that is shown in the first element of a CSS selector."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def hover(self, selector: str) -> tuple[float, float]:
        """Move the mouse to the middle of an element, scrolled into view; returns the place."""
        x, y = self.evaluate(
            f"(() => {{ const element = document.querySelector({json.dumps(selector)});"
            "element.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});"
            "const box = element.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        return x, y

    def click(self, selector: str) -> None:
        """Click into the middle of an element as a mouse does: what covers it gets the click."""
        x, y = self.hover(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key, such as "Tab", "ArrowRight" or "a", where the focus is."""
        code = _KEYS.get(key, ord(key[0].upper()))
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        more = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", **more)

    def screenshot(self, path: Path, whole: bool = True) -> Path:
        """Write a PNG of the whole page, or of what the window shows."""
        done = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(done["data"]))
        return path

    def unnamed_controls(self) -> list[str]:
        """Return the roles of the controls and pictures that a screen reader has no name for."""
        wanted = {"button", "checkbox", "combobox", "image", "img", "link", "radio", "slider"}
        wanted |= {"spinbutton", "tab", "textbox", "table", "region"}
        return [
            node["role"]["value"]
            for node in self.call("Accessibility.getFullAXTree")["nodes"]
            if not node.get("ignored")
            and node["role"]["value"] in wanted
            and not node.get("name", {}).get("value", "").strip()
        ]
