"""What all tests share: kernels that find the package, the tiny models that notebooks are run on, and an endpoint."""

import os

import pytest
from annotating import KEY
from notebook_runs import ROOT, save_models
from openai_server import OpenAIServer, good


@pytest.fixture(scope="session", autouse=True)
def findable():
    """Kernels find the package, and the kernel of this interpreter, wherever the tests are started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
        patch.delenv("MPLBACKEND", raising=False)
        yield


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory):
    """The directory of `notebook_runs.save_models`, made once and only read: who changes something copies it."""
    return save_models(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def openai_key(monkeypatch):
    """The environment of who annotates; repetitions come soon."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("interventions.testbed.annotation.endpoint.READ_PAUSE", 0.01)


@pytest.fixture
def serve(monkeypatch):
    """serve(answer) -> a server that OPENAI_BASE_URL names."""
    servers = []

    def start(answer=good):
        server = OpenAIServer(answer)
        servers.append(server.__enter__())
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        return server

    yield start
    for server in servers:
        server.__exit__()
