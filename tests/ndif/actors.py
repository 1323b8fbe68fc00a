"""NDIF 0.1.2's model actor and controller on a machine without CUDA, and what that version lacks for nnsight 0.8.1.

Selected by NDIF_MODEL_IMPORT_PATH and NDIF_CONTROLLER_IMPORT_PATH; this folder is on the PYTHONPATH of Ray's workers.
Everything that is not overridden here is NDIF's own: the queue, the sandbox, time-outs, results, errors.
"""

import inspect

import ray
import torch
from ndif.services.ray.deployments.controller.controller import _ControllerActor
from ndif.services.ray.sandbox.model import SandboxModelDeployment
from nnsight.modeling.huggingface import HuggingFaceModel
from nnsight.modeling.mixins.remotable import Remotable


def accept_trust_remote_code(name: str) -> None:
    """nnsight 0.8.1 reads this setting from the model's key and dropped the keyword, which NDIF 0.1.2 still passes."""
    original = getattr(Remotable, name).__func__
    if "trust_remote_code" not in inspect.signature(original).parameters:
        setattr(Remotable, name, classmethod(
            lambda cls, *arguments, trust_remote_code=False, **options: original(cls, *arguments, **options)
        ))


for name in ("describe_checkpoint", "max_tp_size"):
    accept_trust_remote_code(name)

if not torch.cuda.is_available():
    torch.cuda.synchronize = lambda *_: None  # called after every request


class CPUSandboxModelDeployment(SandboxModelDeployment):
    """The stock actor, whose weights stay in main memory."""

    CACHEABLE = False  # parking moves weights from the GPU to main memory, where they are already

    def __init__(self, *arguments, gpu_mem_bytes_by_id=None, **options):
        super().__init__(*arguments, gpu_mem_bytes_by_id={}, **options)

    def load_from_disk(self) -> HuggingFaceModel:
        # The stock one refuses weights that are not on a GPU.
        model = HuggingFaceModel.from_model_key(
            self.model_key, dispatch=True, dtype=self.dtype_name, device="cpu", **self.kwargs
        )
        model._module.requires_grad_(False)
        return model


class Controller(_ControllerActor):
    """Ray pickles an actor class by value, but its bases by reference: so the controller imports this module."""


@ray.remote(num_cpus=1, num_gpus=0, max_restarts=-1, resources={"head": 1})
class CPUControllerActor(Controller):
    pass


@ray.remote(num_cpus=1, max_restarts=-1)
class CPUSandboxModelActor(CPUSandboxModelDeployment):
    pass
