"""A real JupyterLab on loopback, and a real browser: chromium of the system, driven by Playwright."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from notebook_runs import ROOT
from playwright.sync_api import sync_playwright

from interventions.testbed import Item, load_testbed, save_testbed

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync
""".split()


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM:
        pytest.exit("No browser found: apt-get install chromium, or name one in CHROMIUM.", returncode=1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def bed(tmp_path):
    """Twenty questions of the embedded test bed, a folder of its own: some with two constraints, one that is odd."""
    embedded = load_testbed("embedded")
    chosen = [item for part in embedded.parts for kind, n in (("single", 5), ("multi", 2))
              for item in embedded.select(part, kind, limit=n)][:19]
    odd = Item(
        "okvqa/odd", "okvqa", 'Who drew the <b>logo</b> of this old operating system\'s window in "1984"?',
        chosen[0].image, "this old", "Windows 3", answers=("nobody",),
    )
    items = []
    for item in (*chosen, odd):
        image = tmp_path / "bed" / "images" / item.image.parent.name / item.image.name
        image.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(item.image, image)
        items.append(replace(item, image=image))
    save_testbed(items, tmp_path / "bed")
    return tmp_path / "bed"


@pytest.fixture
def lab(tmp_path, bed):
    """JupyterLab in the test's folder: its address, token and process."""
    settings = tmp_path / ".settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex()
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "JUPYTER_PREFER_ENV_PATH": "1", "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / ".settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / ".workspaces"), "JUPYTER_RUNTIME_DIR": str(tmp_path / ".runtime"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / ".config"), "JUPYTER_TOKEN": token,
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
               "--ServerApp.port_retries=0", f"--ServerApp.root_dir={tmp_path}"]
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api?token={token}").close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "lab.log").read_text()
                time.sleep(0.5)

        yield SimpleNamespace(address=address, token=token, directory=tmp_path, process=psutil.Process(server.pid))
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def screenshots(tmp_path):
    """A folder for pictures to look at: SCREENSHOTS, or the test's own."""
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
