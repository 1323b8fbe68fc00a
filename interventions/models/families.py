"""The table of model families: module names, chat format and image handling.

No other module depends on the family. nnsight's `rename` gives every family the same paths inside a trace:

    layers[i]               decoder layer i
    layers[i].mlp           its MLP;             layers[i].mlp.down_proj      W_proj of the paper's section 5
    layers[i].self_attn     its self-attention;  layers[i].self_attn.o_proj   W_o
    embed_tokens            the token embeddings
    final_norm              the norm before the language-model head
"""

from dataclasses import dataclass
from typing import Any

IMAGE = "<image>"  # how a chat format names the picture, whatever the tokenizer calls it

# Chat formats. IMAGE stands for all visual tokens; without a picture it is left out, and all else stays (Fig. 1).
VICUNA = "USER: <image>\n{question} ASSISTANT:"
BUNNY = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. " + VICUNA
)
# The format of the authors' released scripts (`protocol="authors"`).
AUTHORS = "<image>\nUSER: {question}? Answer in a few words.\nASSISTANT:"


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        model_type, text_type: `config.model_type` of the model and of its language model; equal if text-only.
        prompt: the chat format of all its models; empty if each checkpoint's own chat template decides.
        language_model: path of the decoder inside the Hugging Face module.
        final_norm, w_proj, w_o: native names of the modules under the uniform names above.
        tiled: whether the model cuts images into tiles.
        pads: whether the original code pads pictures to a square (`protocol="authors"`).
    """

    name: str
    model_type: str
    text_type: str
    prompt: str = ""
    language_model: str = "model.language_model"
    final_norm: str = "norm"
    w_proj: str = "down_proj"
    w_o: str = "o_proj"
    tiled: bool = False
    pads: bool = False

    @property
    def is_multimodal(self) -> bool:
        return self.model_type != self.text_type

    @property
    def task(self) -> str:
        """The pipeline task for nnsight; part of the model's key on a server."""
        return "image-text-to-text" if self.is_multimodal else "text-generation"

    @property
    def rename(self) -> dict[str, str]:
        """nnsight aliases: native path -> uniform name (only those that differ)."""
        paths = {
            f"{self.language_model}.layers": "layers",
            f"{self.language_model}.embed_tokens": "embed_tokens",
            f"{self.language_model}.{self.final_norm}": "final_norm",
            self.w_proj: "down_proj",
            self.w_o: "o_proj",
        }
        return {native: uniform for native, uniform in paths.items() if native != uniform}


_PHI: dict[str, Any] = {"final_norm": "final_layernorm", "w_proj": "fc2", "w_o": "dense"}

FAMILIES = (
    # LLaVA-1.5 (CLIP + Vicuna) and every LLaVA over a Llama, grouped-query attention or not.
    Family("llava-llama", "llava", "llama", VICUNA, pads=True),
    # Bunny (SigLIP + Phi-2), converted to a native LLaVA.
    Family("llava-phi", "llava", "phi", BUNNY, pads=True, **_PHI),
    # LLaVA over Qwen2, such as LLaVA-Interleave.
    Family("llava-qwen2", "llava", "qwen2"),
    # LLaVA-NeXT (1.6) over Vicuna.
    Family("llava-next-llama", "llava_next", "llama", tiled=True),
    # The text-only counterparts.
    Family("llama", "llama", "llama", VICUNA, "model"),
    Family("phi", "phi", "phi", BUNNY, "model", **_PHI),
)


# Type of layers with a sliding window -> the setting of its size. Without `layer_types`, all layers have the window.
WINDOWED = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
BIDIRECTIONAL = ("paligemma", "gemma3")  # over image tokens, although their configurations do not say so


def family_of(config) -> Family | None:
    """Return the row for a Hugging Face configuration, or None if the table has none."""
    types = config.model_type, config.get_text_config().model_type
    return next((family for family in FAMILIES if (family.model_type, family.text_type) == types), None)


def why_unusable(config) -> str | None:
    """Return why interventions cannot run on this architecture, or None if they can."""
    text = config.get_text_config()
    if hasattr(config, "qformer_config"):
        return "a Q-Former condenses its image into query tokens, which stand for no place of the image"
    crossed = ("cross_attention_layers", "cross_layer_interval", "add_cross_attention")
    if any(getattr(part, name, None) for part in (config, text) for name in crossed):
        return "it reads the image by cross-attention, so that no visual tokens stand in its prompt"
    if config.is_encoder_decoder:
        return "it is an encoder and a decoder, not a decoder that reads image and question alike"
    if getattr(text, "use_bidirectional_attention", None) or config.model_type in BIDIRECTIONAL:
        return "tokens of the image see each other both ways, where the intervened runs take attention for causal"
    others = set(getattr(text, "layer_types", None) or ()) - {"full_attention", *WINDOWED}
    if others:
        return f"some of its layers are {min(others)!r}, where the intervened runs expect self-attention in all"
    if "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
        return "its visual tokens have positions in three dimensions, where the intervened runs count in one"
    return None


def attention_window(config) -> int | None:
    """Return the smallest window of any layer in tokens, or None. Intervened runs are exact up to this length."""
    text = config.get_text_config()
    types = set(getattr(text, "layer_types", None) or WINDOWED.keys())
    found = [getattr(text, name, None) for kind, name in WINDOWED.items() if kind in types]
    if getattr(text, "use_sliding_window", None) is False:
        found[:] = []
    if "local" in str(getattr(text, "attention_types", "")):  # GPT-Neo
        found.append(text.window_size)
    return min(filter(None, found), default=None)


def count_image_tokens(config) -> int:
    """Return the visual tokens per image or tile: patches, plus the class token if the encoder has and keeps one.

    576 for LLaVA-1.5 (CLIP, 336 px in patches of 14, class token dropped), 729 for Bunny (SigLIP, 384 px).
    """
    vision = config.vision_config
    n_patches = (vision.image_size // vision.patch_size) ** 2
    has_class_token = vision.model_type.startswith("clip")
    dropped = config.vision_feature_select_strategy == "default"
    return n_patches + int(has_class_token) - int(dropped)
