"""JupyterLab in headless Chromium: a notebook with the five pages is run, each page's slider is moved by the keyboard, and its picture and sentence change with it."""
import os
import time
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from widget_pages import MOVED, pages

for package in ("jupyterlab", "jupyterlab_widgets", "ipywidgets", "websocket"):
    pytest.importorskip(package, reason="not run: JupyterLab with ipywidgets is not installed (make setup installs it)")
if not CHROMIUM:
    pytest.skip("not run: there is no Chromium here", allow_module_level=True)

from lab import Lab  # noqa: E402

PATIENCE = 300.0  # seconds for any one thing: the machine may be busy with other tests
BEGIN = """import os, sys
from pathlib import Path
Path("kernel").write_text(str(os.getpid()))
sys.path.insert(0, {tests!r})
from widget_pages import pages
made = pages()"""
PAGE = "[...document.querySelectorAll('.jp-Notebook .jp-CodeCell')][{number}]"
SLIDER = "[...{page}.querySelectorAll('.widget-slider')].find(one => one.querySelector('.widget-label').textContent === '{label}')"


def run_all(browser: Browser, address: str) -> None:
    """Open a notebook, wait for its kernel, run its cells and wait until each but the first shows a picture."""
    browser.open(address)
    browser.wait(f"!!window.jupyterapp && document.querySelectorAll('.jp-Notebook .jp-CodeCell').length === {1 + len(MOVED)}")
    browser.wait("jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")
    browser.value("void jupyterapp.commands.execute('notebook:run-all-cells')")
    browser.wait(f"document.querySelectorAll('.jp-OutputArea figure img').length === {len(MOVED)} || !!document.querySelector('.jp-OutputArea [data-mime-type=\"application/vnd.jupyter.error\"]')")
    assert browser.value("document.querySelector('[data-mime-type=\"application/vnd.jupyter.error\"]')?.innerText ?? ''") == ""


def shown(browser: Browser, page: str) -> tuple[str, str]:
    """The picture and the sentence that a page shows."""
    return tuple(browser.value(f"[{page}.querySelector('figure img').src, {page}.querySelector('figcaption').textContent]"))


def until(ready, what: str):
    """Wait until something is true."""
    end = time.monotonic() + PATIENCE
    while not (found := ready()):
        assert time.monotonic() < end, f"still waiting for {what}"
        time.sleep(0.2)
    return found


def move(browser: Browser, number: int, name: str, page) -> None:
    """One press of the right arrow on a page's slider, and what must follow."""
    cell = PAGE.format(number=number)
    slider = SLIDER.format(page=cell, label=MOVED[name].replace("_", " "))
    readout = f"Number({slider}.querySelector('.widget-readout').textContent)"
    before, began = shown(browser, cell), browser.value(readout)
    assert before[0] and browser.value(f"{cell}.querySelector('figure img').naturalWidth") > 100 and browser.value(f"{cell}.querySelector('figure img').alt") == page.alt
    browser.value(f"void {slider}.querySelector('.noUi-handle').focus()")
    browser.press("ArrowRight", 39)
    until(lambda: browser.value(readout) > began, f"the slider of {name} to move")
    wanted = page.says(**{MOVED[name]: browser.value(readout)})
    until(lambda: shown(browser, cell)[1] == wanted, f"the page {name} to say: {wanted}")
    assert wanted != before[1] and shown(browser, cell)[0] != before[0], f"the picture of {name} does not change"


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] == "Z"


@pytest.mark.slow
def test_pages_answer_their_sliders_in_jupyterlab():
    made = pages()
    with Lab(PATIENCE) as lab:
        address = lab.notebook("pages.ipynb", BEGIN.format(tests=str(Path(__file__).resolve().parent)), *(f"made[{name!r}].live()" for name in MOVED))
        with Browser(PATIENCE) as browser:
            run_all(browser, address)
            for number, name in enumerate(MOVED, 1):
                move(browser, number, name, made[name])
            assert not [asked for asked in browser.asked if not asked.startswith((lab.url, "data:", "blob:"))], "nothing from a network"
        kernel = int((lab.folder / "kernel").read_text())
        assert not gone(kernel)
    assert lab.process.poll() is not None and gone(kernel), "the server and its kernel are ended"
