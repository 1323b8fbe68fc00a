"""What is asked of an NDIF server before the first question, each with an answer of one sentence.

A run of thousands of questions should not find out at the first one that the key is misspelt, or at the last one that
the server computed in another precision than the record says.
"""

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

    host: its address; sandboxed: whether this key's code runs in a process without weights and gradients; dtype,
    device, attention: how it holds the model; quantization: the name of the format where its weights are in fewer bits;
    versions: of Python and of COMPARED there; answers: a sentence a check.
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
        """What a record says of it."""
        told = ("host", "sandboxed", "quantization", "versions")
        return {name: getattr(self, name) for name in told}


def preflight(lm, name: str) -> Server:
    """Check that a server takes this key's requests for nnsight's model `lm`; the server deploys it if need be.

    name: what the model is called here. Raises ModelError in one sentence that names the remedy.
    """
    if not ndif.api_key():
        raise ModelError(
            "NDIF_API_KEY is not set in the environment: export it before the notebook starts (a server without "
            "accounts takes any text)."
        )
    try:
        _told("/connected")
        versions, state, began = _versions(), _state(_deployments(lm)), time.monotonic()
        found = in_session(lm, probe, {"token": 0}, True)
        took, deployed = time.monotonic() - began, _deployments(lm)
    except NDIFError as error:
        raise ModelError(_remedy(error, name)) from error
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
    """How a server runs code and holds the model, by a forward of one token; runs there."""
    with torch.no_grad():
        hidden = run(lm, {"input_ids": torch.tensor([[request["token"]]])}, keep=[0], stop=1)["output"]
    return {
        "sandboxed": in_sandbox(lm), "dtype": str(hidden.dtype).removeprefix("torch."), "device": hidden.device.type,
        "attention": lm._module.config.get_text_config()._attn_implementation,
    }


def _told(path: str) -> dict:
    """What the server says at a path. Raises NDIFError, also where something else than an NDIF answers."""
    try:
        return dict(ndif.get(path).json())
    except (ValueError, TypeError):
        raise RequestRefused(ndif.no_ndif()) from None


def _versions() -> dict[str, str]:
    """Of Python and of COMPARED there, by name; "?" where the server does not say."""
    told = _told("/env")
    packages = told.get("packages", {})
    return {"python": str(told.get("python_version", "?")).split()[0]} | {
        name: str(packages.get(name, "?")).partition("+")[0] for name in COMPARED
    }


def _local_versions() -> dict[str, str]:
    """The same here; "2.13.0+cpu" is another build of 2.13.0, which a server may have."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name).partition("+")[0] for name in COMPARED
    }


def _deployments(lm) -> list[dict]:
    """What the server says of its replicas of the model."""
    key = json.loads(remote.model_key(lm).partition(":")[2])
    return [entry for entry in _all_deployments() if entry.get("model_key")
            and json.loads(entry["model_key"].partition(":")[2]) == key]


def _all_deployments() -> list[dict]:
    return list(_told("/status").get("deployments", {}).values())


def _state(deployments: list[dict]) -> str:
    """What the server has of the model before it is asked for."""
    states = {entry.get("application_state", "unknown") for entry in deployments}
    if "RUNNING" in states:
        return "was running"
    return f"was {sorted(states)[0].lower()}" if states else "was not running"


def _remedy(error: NDIFError, name: str) -> str:
    """The error as a sentence about the parameter that can change it."""
    said = str(error).rstrip(".")
    if isinstance(error, KeyRefused):
        return f"{said}: export the key of your account on that server."
    if isinstance(error, NotServed):
        return f"{said}. Name a model that it serves ({_served()}), or ask its operator to deploy {name!r}."
    return f"{said}."


def _served() -> str:
    try:
        told = _all_deployments()
    except NDIFError:
        return "nnsight.status() lists them"
    return ", ".join(sorted({str(entry["repo_id"]) for entry in told if entry.get("repo_id")})[:5]) or "none now"
