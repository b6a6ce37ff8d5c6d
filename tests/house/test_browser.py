"""The lab as a reader sees it: a real browser opens JupyterLab with the token, and runs notebooks to their end."""

import contextlib
import json
import os
import posixpath
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import pytest

from tests.helpers import BARE, REPO, need

CHROMIUM = shutil.which("chromium")
SWITCHES = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)
TOKEN = "a-token-of-this-test"
PATIENCE = 240  # seconds for a whole notebook on a busy machine

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the notebooks need root"),
    pytest.mark.xfail(bool(BARE), reason="the guest has no browser", run=False),
]


def answer(url):
    """The status of an HTTP request, or nothing if nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=20) as reply:
            return reply.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return None


@pytest.fixture
def lab(tmp_path):
    """JupyterLab as `make lab` starts it, on copies of its own: its address, and the directory of the copies."""
    work, runtime = tmp_path / "work", tempfile.mkdtemp(prefix="lab-")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "HOME": str(tmp_path), "JUPYTER_RUNTIME_DIR": runtime, "JUPYTER_TOKEN": TOKEN}
    env["MINIDOCKER_WORK"] = str(work)
    command = [sys.executable, "-m", "tools.learner.desk", f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--LabApp.expose_app_in_browser=True"]
    with (
        open(tmp_path / "log", "wb") as log,
        subprocess.Popen(command, cwd=REPO, env=env, stdout=log, stderr=log) as server,
    ):
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
        while answer(f"{url}/api?token={TOKEN}") != 200:
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.2)
        try:
            yield url, work
        finally:
            server.terminate()
            server.wait(60)
            shutil.rmtree(runtime)


@contextlib.contextmanager
def page(directory):
    """A tab of a browser that has never run before."""
    need(CHROMIUM, "needs a browser: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(directory),
            executable_path=CHROMIUM,
            args=SWITCHES.split(),
            headless=True,
            viewport={"width": 1400, "height": 1000},
        )
        try:
            yield context.pages[0]
        finally:
            context.close()


# JupyterLab's own objects in the page: whether the kernel is there and waits; and of each code cell its count, and the
# errors among its outputs.
READY = "() => window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel?.status == 'idle'"
STATE = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type == "code").map(
    cell => [cell.executionCount, cell.outputs.toJSON().filter(output => output.output_type == "error")])"""


def run_all(tab):
    """Menu: Run, Run All Cells. Wait until every cell has run, or one has failed; then save. The errors."""
    tab.locator(".jp-NotebookPanel .jp-Notebook").wait_for(timeout=PATIENCE * 1000)
    tab.wait_for_function(READY, timeout=PATIENCE * 1000)
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    until = time.monotonic() + PATIENCE
    while True:
        state = tab.evaluate(STATE)
        errors = [error for _, found in state for error in found]
        if errors or all(count for count, _ in state):
            break
        assert time.monotonic() < until, f"it did not come to its end: {[count for count, _ in state]}"
        tab.wait_for_timeout(500)
    tab.wait_for_timeout(1000)  # for the last cell's output
    tab.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    return errors


def cells(path):
    """The code cells of a notebook as it is on the disk."""
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def empty(path):
    """The notebook without its stored outputs: what is there afterwards is of this run."""
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    path.write_text(json.dumps(notebook))


@pytest.mark.parametrize("name", ["00_process", "03_cgroups"])
def test_a_notebook_runs_in_a_browser_and_shows_its_plots(lab, name, tmp_path):
    url, work = lab
    path = work / f"{name}.ipynb"
    expected = sum("image/png" in output.get("data", {}) for cell in cells(path) for output in cell["outputs"])
    empty(path)
    with page(tmp_path / "profile") as tab:
        tab.goto(f"{url}/lab/tree/work/{name}.ipynb?token={TOKEN}")
        assert run_all(tab) == []
        ran = cells(path)
        assert [cell["execution_count"] for cell in ran] == [*range(1, len(ran) + 1)]
        pictures = sum("image/png" in output.get("data", {}) for cell in ran for output in cell["outputs"])
        assert pictures == expected > 0
        picture = tab.locator(".jp-RenderedImage img").first
        picture.scroll_into_view_if_needed()
        assert picture.is_visible()
        assert picture.evaluate("image => image.naturalWidth") > 100


def test_the_links_of_the_notebooks_lead_to_their_chapters(lab):
    url, work = lab
    links = {
        posixpath.normpath(f"work/{link}")
        for path in work.glob("*.ipynb")
        for link in re.findall(r"\]\((\.\./[^)#]*)", path.read_text())
    }
    assert len(links) >= 9
    for link in sorted(links):
        assert answer(f"{url}/api/contents/{link}?token={TOKEN}&content=0") == 200, link


def test_a_click_on_a_link_opens_the_text(lab, tmp_path):
    """In each lab, the first link to its chapter; what opens is a page that one reads, not its source."""
    url, work = lab
    with page(tmp_path / "profile") as tab:
        for path in sorted(work.glob("*.ipynb")):
            tab.goto(f"{url}/lab/tree/work/{path.name}?token={TOKEN}&reset")
            link = tab.locator(".jp-NotebookPanel .jp-RenderedMarkdown a", has_text="chapter").first
            link.click(timeout=PATIENCE * 1000)
            opened = tab.locator(".jp-MarkdownViewer h1").first
            opened.wait_for(timeout=PATIENCE * 1000)
            assert f"Chapter {int(path.name[:2])}" in opened.inner_text()


def test_without_the_token_there_is_nothing(lab, tmp_path):
    url, _ = lab
    assert answer(f"{url}/api/contents?token={TOKEN}") == 200
    assert answer(f"{url}/api/contents") == 403
    assert answer(f"{url}/api/contents?token=wrong") == 403
    with page(tmp_path / "profile") as tab:
        tab.goto(f"{url}/lab/tree/work/00_process.ipynb")
        assert "/login" in tab.url
        assert "hostname" not in tab.content()


def test_from_another_host_nothing_answers(lab):
    """A network namespace with a cable to this one is another host."""
    url, _ = lab
    port = int(url.rpartition(":")[2])
    command = f"""set -e
        ip link add labtest0 type veth peer name labtest1 netns $$
        ip address add 192.0.2.129/30 dev labtest1; ip link set labtest1 up
        echo ready; read answer
        exec {sys.executable} -I -S -c '
import socket
for port in (int({port}), int({port}) + 1):
    try:
        socket.create_connection(("192.0.2.130", port), 10)
        print("open")
    except OSError as refused:
        print(refused.errno)'
    """
    other = ["unshare", "--net", "sh", "-c", command.replace("ip link add labtest0", "ip link add labtest0 netns 1", 1)]
    with (
        socket.socket() as control,
        subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        control.bind(("0.0.0.0", port + 1))  # what listens on all addresses is reached: the cable is plugged in
        control.listen()
        assert process.stdout.readline() == "ready\n"
        subprocess.run(["ip", "address", "add", "192.0.2.130/30", "dev", "labtest0"], check=True)
        subprocess.run(["ip", "link", "set", "labtest0", "up"], check=True)
        process.stdin.write("go\n")
        process.stdin.flush()
        lines = process.stdout.read().split()
    assert lines == ["111", "open"]  # connection refused (ECONNREFUSED), and the control
