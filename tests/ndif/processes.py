"""Processes of a local NDIF: known by id and by a mark in their environment, and ended with all that they started."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from pathlib import Path

import psutil

MARK = "INTERVENTIONS_NDIF"
NOBODY = 65534


class ServerError(RuntimeError):
    """A server that does not start; the message says which step failed and where its log is."""


def stop(state: Path) -> list[int]:
    """End the services that `start` wrote down, and what they started; returns the process ids of the services."""
    state = state.resolve()
    file = state / "server.json"
    told = json.loads(file.read_text()) if file.exists() else {"processes": {}}
    services = [psutil.Process(one["pid"]) for one in told["processes"].values() if alive(one)]
    everything = {child for service in services for child in service.children(recursive=True)}
    everything |= {*services, *(process for process in psutil.process_iter() if marked(process, state))}
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        psutil.wait_procs(everything, timeout=5)
    file.unlink(missing_ok=True)
    return [service.pid for service in services]


def marked(process: psutil.Process, state: Path) -> bool:
    """Whether a process was started by the server of this folder, even if its parent is gone."""
    try:
        return process.environ().get(MARK) == str(state)
    except psutil.Error:  # of somebody else, or gone
        return False


def alive(process: dict) -> bool:
    """Whether a process that was written down still is that process, and not another one with its number."""
    try:
        found = psutil.Process(process["pid"])
        return abs(found.create_time() - process["created"]) < 1 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def as_nobody(directory: Path) -> list[str]:
    """What to put before a command that refuses to run as root, as Postgres does, and that owns this directory.

    In a user namespace of its own root is nobody, and still owns its files. Where there are none, it is really nobody.
    """
    if os.geteuid():
        return []
    if subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode == 0:
        return ["unshare", "--user"]
    os.chown(directory, NOBODY, NOBODY)
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def refuse_used_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise ServerError(f"port {port} is taken: stop what uses it, or start with another --port.") from None
