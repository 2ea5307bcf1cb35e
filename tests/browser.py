"""A headless Chromium for tests, spoken to over its own protocol (with websocket-client, which JupyterLab brings; Playwright would bring a browser of its own)."""
from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0", "--remote-allow-origins=*", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1280,900")


class Browser:
    """One Chromium with one page; `errors` and `asked` hold what the page complained of and which addresses it asked for."""

    def __init__(self, patience: float = 60.0):  # seconds to wait for anything
        self.patience, self.numbers, self.errors, self.asked = patience, itertools.count(1), [], []
        self.folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self.process = subprocess.Popen([CHROMIUM, *FLAGS, f"--user-data-dir={self.folder.name}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.socket = None
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        from websocket import create_connection
        told = Path(self.folder.name, "DevToolsActivePort")
        port, path = self._until(lambda: told.exists() and len(lines := told.read_text().split()) == 2 and lines, "Chromium did not start")
        self.socket, self.session = create_connection(f"ws://127.0.0.1:{port}{path}", timeout=self.patience, suppress_origin=True), None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        if self.socket:
            self.socket.close()
        self.process.terminate()
        self.process.wait(20)
        self.folder.cleanup()

    def _until(self, ready, complaint: str):
        end = time.monotonic() + self.patience
        while not (found := ready()):
            if time.monotonic() > end:
                raise TimeoutError(complaint)
            time.sleep(0.05)
        return found

    def _note(self, message: dict) -> None:
        """Keep what the page complains of and asks for."""
        kind, told = message.get("method", ""), message.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"].get("exception", {}).get("description") or told["exceptionDetails"]["text"])
        elif kind == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in told["args"]))
        elif kind == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif kind == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])

    def _read(self) -> dict:
        message = json.loads(self.socket.recv())
        self._note(message)
        return message

    def call(self, method: str, **params) -> dict:
        """A command of the DevTools protocol, and its result."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})))
        while (message := self._read()).get("id") != number:
            pass
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return message["result"]

    def open(self, address: str) -> None:
        """Open a page and wait until it is loaded."""
        self.errors, self.asked = [], []
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, script: str):
        """What a JavaScript expression gives, as Python."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", "") + f" in {script}")
        return found["result"].get("value")

    def wait(self, script: str):
        """Wait until a JavaScript expression is true, and return it."""
        return self._until(lambda: self.value(script), f"still waiting for {script}; the page said: {self.errors}")

    def press(self, key: str, code: int) -> None:
        """Press a key such as ("Tab", 9)."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, path: Path | str, width: int = 1280, height: int = 900) -> None:
        """Save what is seen as PNG."""
        import base64
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
