"""One real server for all tests of this folder, see `server.py`; each test says with which kind of key it asks."""

import os
from pathlib import Path

import pytest
from server import ROOT, Server

import interventions
from interventions.remote import http as ndif

PORT = int(os.environ.get("NDIF_TEST_PORT", 18401))  # not that of `make ndif`, which may be running
ENVIRONMENT = Path(os.environ.get("NDIF_ENVIRONMENT", ROOT / ".venv-ndif"))


@pytest.fixture(scope="session")
def server():
    """Its logs stay, until the next one starts. Its limit for a job is not reached on a slow machine either: in ndif
    0.1.2 an actor whose sandboxed job is stopped by the limit takes no more jobs."""
    server = Server(ROOT / f".ndif-{PORT}", ENVIRONMENT, PORT, limit=300)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def hasty_server(monkeypatch):
    """One that gives a job five seconds."""
    server = Server(ROOT / f".ndif-{PORT + 500}", ENVIRONMENT, PORT + 500, limit=5)
    server.start()
    monkeypatch.setenv("NDIF_HOST", server.host)
    monkeypatch.setenv("NDIF_API_KEY", server.keys["trusted"])
    yield server
    server.stop()


@pytest.fixture
def ask_as(server, monkeypatch):
    """`ask_as("trusted" | "sandboxed")`: from now on, requests go to the server with that key."""
    def choose(kind: str) -> None:
        monkeypatch.setenv("NDIF_HOST", server.host)
        monkeypatch.setenv("NDIF_API_KEY", server.keys[kind])
    return choose


@pytest.fixture(params=["trusted", "sandboxed"])
def kind(request, ask_as):
    ask_as(request.param)
    return request.param


@pytest.fixture
def trusted(ask_as):
    ask_as("trusted")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Repetitions come soon, and nothing is waited for longer than a test may take."""
    monkeypatch.setattr(ndif, "BACK_OFF", 0.2)
    monkeypatch.setenv("NDIF_PATIENCE", "60")


@pytest.fixture(scope="session")
def here():
    """`mini` in this process."""
    return interventions.load_model("mini")
