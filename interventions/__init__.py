"""Where does a multimodal language model store a fact, and how does it reach the answer?

Causal tracing, attention contributions and model edits for LLaVA-like models, after Basu et al.,
"Understanding Information Storage and Transfer in Multi-modal Large Language Models" (NeurIPS 2024).

A question about an image becomes a prompt with known token positions; an intervention runs on it inside an
nnsight context; its result is one small table; a notebook draws the table.
"""

import warnings

__version__ = "0.1.0"

# Reports are notebooks without widgets; tqdm's advice to install some would head every one of them.
warnings.filterwarnings("ignore", message="IProgress not found")

# After the filter above: these imports are what would warn.
from .attention import AttentionContributions, AttentionError, attention_contributions
from .causal_trace import CausalTrace, TraceError, trace
from .checkpoints import ModelError
from .closed_form import closed_form_update
from .corruption import CorruptedPrompt, corrupt, noise
from .edit import Edit, apply_edits, load_edit
from .edit_errors import EditError
from .edit_export import export_peft, merged
from .knockout import AttentionKnockout, attention_knockout
from .loading import load_model
from .model import VisionLanguageModel
from .multedit import edit_facts
from .ndif import JobFailed, NDIFError, RequestRefused, ServerUnreachable
from .optimized_value import optimize_value
from .prompt import Prompt, PromptError, build_prompt
from .testbed import Item, TestBed, TestBedError, load_testbed

__all__ = [
    "AttentionContributions", "AttentionError", "AttentionKnockout", "CausalTrace", "CorruptedPrompt", "Edit",
    "EditError", "Item", "JobFailed", "ModelError", "NDIFError", "Prompt", "PromptError", "RequestRefused",
    "ServerUnreachable", "TestBed", "TestBedError", "TraceError", "VisionLanguageModel", "apply_edits",
    "attention_contributions", "attention_knockout", "build_prompt", "closed_form_update", "corrupt", "edit_facts",
    "export_peft", "load_edit", "load_model", "load_testbed", "merged", "noise", "optimize_value", "trace",
]
