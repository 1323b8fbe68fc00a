"""A request as a server sees it: run by a process that does not have the package, from nothing but what was sent.

nnsight's remote="local" runs the original functions after all; this runs only what was pickled.
"""

import subprocess
import sys

import numpy as np
from nnsight.schema.request import RequestModel

SERVER = """
import sys

sys.modules["interventions"] = None  # not installed here: to import it is an error
import numpy, torch
from nnsight.modeling.transformers import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.tracing.tracer import dec, inc
from transformers import AutoProcessor

path = sys.argv[1]
processor = AutoProcessor.from_pretrained(path)
task, dtype = "image-text-to-text", torch.float32
model = TransformersModel(path, task=task, processor=processor, dispatch=True, dtype=dtype)
request = open(path + "/request", "rb").read()
tracer = RequestModel.deserialize(request, model._remoteable_persistent_objects())
inc()
tracer.execute(tracer.info.code)
dec()
result = tracer.info.frame.f_locals["result"]
numpy.savez(path + "/result.npz", **{name: value.numpy() for name, value in result.items() if torch.is_tensor(value)})
"""


def both(model, directory, monkeypatch, call):
    """(what `call()` returns, which must use remote="local"; the tensors of its request's result elsewhere, by name)"""
    model.module.save_pretrained(directory)
    model.processor.save_pretrained(directory)

    class Keep:
        def __init__(self, model, verbose=False):
            pass

        def __call__(self, tracer):
            (directory / "request").write_bytes(RequestModel.serialize(tracer))
            tracer.execute(tracer.info.code)

    monkeypatch.setattr("nnsight.intervention.backends.local.LocalSimulationBackend", Keep)
    here = call()
    subprocess.run([sys.executable, "-I", "-c", SERVER, str(directory)], check=True, cwd=directory, timeout=300)
    return here, dict(np.load(directory / "result.npz"))
