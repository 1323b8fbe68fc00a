"""Where does a multimodal language model store a fact, and how does it reach the answer?

Causal tracing, attention contributions and model edits for LLaVA-like models, after Basu et al.,
"Understanding Information Storage and Transfer in Multi-modal Large Language Models" (NeurIPS 2024).

A question about an image becomes a prompt with known token positions; an intervention runs on it inside an
nnsight context; its result is one small table; a notebook draws the table.
"""

import warnings
from importlib import import_module

__version__ = "0.1.0"

# Reports are notebooks without widgets; tqdm's advice to install some would head every one of them.
warnings.filterwarnings("ignore", message="IProgress not found")

_NAMES = {  # module -> the names it exports; a module is imported when one of its names is used
    "attention.contributions": "AttentionContributions attention_contributions",
    "attention.knockout": "AttentionKnockout attention_knockout",
    "editing.closed_form": "closed_form_update",
    "editing.edit": "Edit apply_edits export_peft load_edit merged",
    "editing.multedit": "edit_facts",
    "editing.optimized_value": "optimize_value",
    "engine.windows": "Execution",
    "errors": "AttentionError EditError InterventionsError JobFailed ModelError NDIFError PromptError RequestRefused"
    " ServerUnreachable TestBedError TraceError",
    "models.loading": "load_model",
    "models.model": "VisionLanguageModel",
    "prompts.corruption": "CorruptedPrompt corrupt noise",
    "prompts.prompt": "Prompt build_prompt",
    "testbed": "Item TestBed load_testbed",
    "tracing.causal_trace": "CausalTrace Scoring trace",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
