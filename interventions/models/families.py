"""The table of model families: module names, chat format and image handling.

No other module depends on the family. nnsight's `rename` gives every family the same paths inside a trace:

    layers[i]               decoder layer i
    layers[i].mlp           its MLP;             layers[i].mlp.down_proj      W_proj of the paper's section 5
    layers[i].self_attn     its self-attention;  layers[i].self_attn.o_proj   W_o
                                                 layers[i].attention_norm     the norm behind it, in families with one
    embed_tokens            the token embeddings
    final_norm              the norm before the language-model head
"""

from dataclasses import dataclass
from typing import Any

IMAGE = "<image>"  # how a chat format names the picture, whatever the tokenizer calls it

DEEPSTACK = "deepstack_visual_embeds"  # of Qwen3-VL and those that follow it

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
        attention_norm: likewise, of an RMS norm behind the attention; empty if its output is added as it is.
        pads: whether the original code pads pictures to a square (`protocol="authors"`).
        wrapper: what its chat formats write before and after the picture; not there without a picture.
        image_block: whether visual tokens see each other both ways. Then only tokens behind the image can change.
        deepstack: the decoder's argument with features of the image, which its first layers add to the visual tokens.
    """

    name: str
    model_type: str
    text_type: str
    prompt: str = ""
    language_model: str = "model.language_model"
    final_norm: str = "norm"
    w_proj: str = "down_proj"
    w_o: str = "o_proj"
    attention_norm: str = ""
    pads: bool = False
    wrapper: tuple[str, str] = ("", "")
    image_block: bool = False
    deepstack: str = ""

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
            self.attention_norm: "attention_norm",
        }
        return {native: uniform for native, uniform in paths.items() if native and native != uniform}


_QWEN = ("<|vision_start|>", "<|vision_end|>")
GEMMA_NORM = "post_attention_layernorm"
_PHI: dict[str, Any] = {"final_norm": "final_layernorm", "w_proj": "fc2", "w_o": "dense"}

FAMILIES = (
    # LLaVA-1.5 (CLIP + Vicuna) and every LLaVA over a Llama, grouped-query attention or not.
    Family("llava-llama", "llava", "llama", VICUNA, pads=True),
    # Bunny (SigLIP + Phi-2), converted to a native LLaVA.
    Family("llava-phi", "llava", "phi", BUNNY, pads=True, **_PHI),
    # LLaVA over Qwen2, such as LLaVA-Interleave.
    Family("llava-qwen2", "llava", "qwen2"),
    # Pixtral: rows of patches with breaks between them.
    Family("pixtral", "llava", "mistral"),
    # LLaVA-NeXT (1.6) over Vicuna, Mistral and Qwen2, and LLaVA-OneVision: an image is cut into tiles.
    Family("llava-next-llama", "llava_next", "llama"),
    Family("llava-next-mistral", "llava_next", "mistral"),
    Family("llava-next-qwen2", "llava_next", "qwen2"),
    Family("llava-onevision", "llava_onevision", "qwen2"),
    # Qwen-VL: as many visual tokens as the image is large, with positions in three dimensions.
    Family("qwen2-vl", "qwen2_vl", "qwen2_vl_text", wrapper=_QWEN),
    Family("qwen2.5-vl", "qwen2_5_vl", "qwen2_5_vl_text", wrapper=_QWEN),
    Family("qwen3-vl", "qwen3_vl", "qwen3_vl_text", wrapper=_QWEN, deepstack=DEEPSTACK),
    # SmolVLM, and Idefics 3, which it comes from: tiles, each in a wrapper.
    Family("smolvlm", "smolvlm", "llama", language_model="model.text_model"),
    Family("idefics3", "idefics3", "llama", language_model="model.text_model"),
    # InternVL 3 and 3.5 as converted for transformers ("-hf").
    Family("internvl-qwen2", "internvl", "qwen2"),
    Family("internvl-qwen3", "internvl", "qwen3"),
    # Gemma 3: visual tokens see each other both ways, and norms stand before and behind the attention.
    Family("gemma3", "gemma3", "gemma3_text", attention_norm=GEMMA_NORM, image_block=True),
    # Mistral Small 3.1 and later.
    Family("mistral3", "mistral3", "mistral"),
    Family("aya-vision", "aya_vision", "cohere2"),
    # The text-only counterparts.
    Family("llama", "llama", "llama", VICUNA, language_model="model"),
    Family("phi", "phi", "phi", BUNNY, language_model="model", **_PHI),
    Family("qwen2", "qwen2", "qwen2", language_model="model"),
    Family("qwen3", "qwen3", "qwen3", language_model="model"),
    Family("mistral", "mistral", "mistral", language_model="model"),
    Family("gemma3-text", "gemma3_text", "gemma3_text", language_model="model", attention_norm=GEMMA_NORM),
    Family("cohere2", "cohere2", "cohere2", language_model="model"),
)


# Type of layers with a sliding window -> the setting of its size. Without `layer_types`, all layers have the window.
WINDOWED = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
BIDIRECTIONAL = ("paligemma",)  # over the whole prompt, although its configuration does not say so


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
        return "tokens of its prompts see each other both ways, where the intervened runs take attention for causal"
    others = set(getattr(text, "layer_types", None) or ()) - {"full_attention", *WINDOWED}
    if others:
        return f"some of its layers are {min(others)!r}, where the intervened runs expect self-attention in all"
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
