"""Check an NDIF server before a run: address, key, versions, model, precision, and how it runs code."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from dataclasses import dataclass, field

import torch
from nnsight.modeling.quantization import QUANTIZATIONS

from ..engine.forward import in_sandbox, in_session, run
from ..errors import KeyRefused, ModelError, NDIFError, NotServed, RequestRefused
from ..remote import http as ndif
from ..remote import jobs as remote

COMPARED = ("nnsight", "torch", "transformers")


@dataclass(frozen=True)
class Server:
    """A server that is ready for a model.

    Attributes:
        host: the server's address.
        sandboxed: whether this key's code runs in a process without weights and gradients.
        dtype, device, attention: how the server holds the model.
        quantization: the format of quantized weights, or None.
        versions: versions of Python and of the packages in COMPARED on the server.
        answers: one sentence per check.
    """

    host: str
    sandboxed: bool
    dtype: torch.dtype
    device: str
    attention: str
    quantization: str | None
    versions: dict[str, str]
    answers: tuple[str, ...] = field(repr=False)

    def as_dict(self) -> dict:
        """Return the fields that a record holds."""
        return {name: getattr(self, name) for name in ("host", "sandboxed", "quantization", "versions")}


def preflight(lm, name: str) -> Server:
    """Check that the server accepts this key and answers for nnsight's model `lm`, called `name` in messages.

    Raises ModelError in one sentence with the fix.
    """
    if not ndif.api_key():
        raise ModelError(
            "NDIF_API_KEY is not set in the environment: export it before the notebook starts (a server without "
            "accounts takes any text)."
        )
    try:
        _get_json("/connected")
        versions, state, began = _server_versions(), _state(_deployments(lm)), time.monotonic()
        found = in_session(lm, probe, {"token": 0}, True)
        took, deployed = time.monotonic() - began, _deployments(lm)
    except NDIFError as error:
        raise ModelError(_message(error, name)) from error
    held = {entry["dtype"] for entry in deployed if entry.get("dtype") in QUANTIZATIONS}
    quantization = sorted(held)[0] if held else None
    host, dtype = ndif.shown(ndif.host()), getattr(torch, found["dtype"])
    differing = [f"{package} is {local} here and {versions.get(package, 'unknown')} there"
                 for package, local in _local_versions().items() if versions.get(package) != local]
    answers = (
        f"Server: {host} answers, and its cluster is connected.",
        "Key: accepted.",
        f"Versions: {'; '.join(differing)} (results may differ)." if differing
        else f"Versions: the same there, {', '.join(f'{name} {value}' for name, value in _local_versions().items())}.",
        f"Model: {name!r} {state}, and answered in {took:.1f} s; {found['dtype']} on {found['device']}"
        f"{f', from {quantization} weights' if quantization else ''}.",
        "Code: runs in a sandbox, without gradients: everything but finding an edit's value works, and takes longer."
        if found["sandboxed"] else "Code: runs beside the model; gradients are there.",
    )
    return Server(host, found["sandboxed"], dtype, found["device"], found["attention"], quantization, versions, answers)


def probe(lm, request: dict) -> dict:
    """Return how the server runs code and holds the model, from a forward of one token; runs on the server."""
    with torch.no_grad():
        hidden = run(lm, {"input_ids": torch.tensor([[request["token"]]])}, keep=[0], stop=1)["output"]
    return {
        "sandboxed": in_sandbox(lm), "dtype": str(hidden.dtype).removeprefix("torch."), "device": hidden.device.type,
        "attention": lm._module.config.get_text_config()._attn_implementation,
    }


def _get_json(path: str) -> dict:
    """Return the server's JSON at a path. Raises NDIFError, also if the host is no NDIF server."""
    try:
        return dict(ndif.get(path).json())
    except (ValueError, TypeError):
        raise RequestRefused(ndif.no_ndif()) from None


def _server_versions() -> dict[str, str]:
    """Return the server's versions of Python and of COMPARED; "?" if the server does not say."""
    env = _get_json("/env")
    packages = env.get("packages", {})
    return {"python": str(env.get("python_version", "?")).split()[0]} | {
        name: str(packages.get(name, "?")).partition("+")[0] for name in COMPARED
    }


def _local_versions() -> dict[str, str]:
    """Return the local versions without the build: "2.13.0+cpu" counts as 2.13.0."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name).partition("+")[0] for name in COMPARED
    }


def _deployments(lm) -> list[dict]:
    """Return the server's entries for its replicas of the model."""
    key = json.loads(remote.model_key(lm).partition(":")[2])
    return [entry for entry in _all_deployments() if entry.get("model_key")
            and json.loads(entry["model_key"].partition(":")[2]) == key]


def _all_deployments() -> list[dict]:
    return list(_get_json("/status").get("deployments", {}).values())


def _state(deployments: list[dict]) -> str:
    states = {entry.get("application_state", "unknown") for entry in deployments}
    if "RUNNING" in states:
        return "was running"
    return f"was {sorted(states)[0].lower()}" if states else "was not running"


def _message(error: NDIFError, name: str) -> str:
    """Return the error's sentence with the fix."""
    text = str(error).rstrip(".")
    if isinstance(error, KeyRefused):
        return f"{text}: export the key of your account on that server."
    if isinstance(error, NotServed):
        return f"{text}. Name a model that it serves ({_served()}), or ask its operator to deploy {name!r}."
    return f"{text}."


def _served() -> str:
    try:
        entries = _all_deployments()
    except NDIFError:
        return "nnsight.status() lists them"
    return ", ".join(sorted({str(entry["repo_id"]) for entry in entries if entry.get("repo_id")})[:5]) or "none now"
