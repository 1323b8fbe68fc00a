"""The one table of architectures: everything that differs between the model families is a row of it.

The paper's models are all of one shape: a vision encoder, a projection layer and a decoder-only language
model. They differ in module names (Llama's `down_proj` is Phi's `fc2`), in the chat format they were tuned on
and in how many visual tokens an image becomes. A row names these; no other module of the package asks which
family it deals with. nnsight's `rename` gives every family the same paths inside a trace:

    layers[i]               decoder layer i
    layers[i].mlp           its MLP;             layers[i].mlp.down_proj      W_proj of the paper's section 5
    layers[i].self_attn     its self-attention;  layers[i].self_attn.o_proj   W_o
    final_norm              the norm before the language-model head
"""

from dataclasses import dataclass

# Chat formats. `{question}` is where the question goes; `<image>` stands for all visual tokens.
VICUNA = "USER: <image>\n{question} ASSISTANT:"
# The text-only counterpart keeps everything but the image, so that positions of the two can be compared (Fig.
# 1).
VICUNA_TEXT = "USER: \n{question} ASSISTANT:"
_BUNNY_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
BUNNY, BUNNY_TEXT = _BUNNY_SYSTEM + VICUNA, _BUNNY_SYSTEM + VICUNA_TEXT
# The format of the authors' released scripts (`protocol="authors"`): one question mark, a short answer asked
# for.
AUTHORS = "<image>\nUSER: {question}? Answer in a few words.\nASSISTANT:"


@dataclass(frozen=True)
class Family:
    """One architecture.

    model_type, text_type: `config.model_type` of the whole model and of its language model (equal if
    text-only).
    language_model: path of the decoder inside the Hugging Face module.
    final_norm, w_proj, w_o: native names of the modules that the uniform names above stand for.
    templates: protocol -> chat format with an image; text_templates: the same without one.
    """

    name: str
    model_type: str
    text_type: str
    language_model: str
    final_norm: str
    w_proj: str
    w_o: str
    templates: dict[str, str]
    text_templates: dict[str, str]

    @property
    def is_multimodal(self) -> bool:
        return self.model_type != self.text_type

    @property
    def task(self) -> str:
        """The pipeline task nnsight loads the model for; part of the model's identity on a remote server."""
        return "image-text-to-text" if self.is_multimodal else "text-generation"

    @property
    def rename(self) -> dict[str, str]:
        """nnsight aliases: native path -> uniform name (only those that differ)."""
        paths = {
            f"{self.language_model}.layers": "layers",
            f"{self.language_model}.{self.final_norm}": "final_norm",
            self.w_proj: "down_proj",
            self.w_o: "o_proj",
        }
        return {native: uniform for native, uniform in paths.items() if native != uniform}


_VICUNA = {"paper": VICUNA, "authors": AUTHORS}
_VICUNA_TEXT = {"paper": VICUNA_TEXT, "authors": AUTHORS.replace("<image>", "")}
_BUNNY = {"paper": BUNNY, "authors": AUTHORS}
_BUNNY_TEXT = {"paper": BUNNY_TEXT, "authors": AUTHORS.replace("<image>", "")}

FAMILIES = (
    # LLaVA-1.5 (CLIP + Vicuna) and every LLaVA over a Llama, grouped-query attention or not.
    Family(
        "llava-llama",
        "llava",
        "llama",
        "model.language_model",
        "norm",
        "down_proj",
        "o_proj",
        _VICUNA,
        _VICUNA_TEXT,
    ),
    # Bunny (SigLIP + Phi-2), converted to a native LLaVA.
    Family(
        "llava-phi",
        "llava",
        "phi",
        "model.language_model",
        "final_layernorm",
        "fc2",
        "dense",
        _BUNNY,
        _BUNNY_TEXT,
    ),
    # The text-only counterparts.
    Family("llama", "llama", "llama", "model", "norm", "down_proj", "o_proj", {}, _VICUNA_TEXT),
    Family("phi", "phi", "phi", "model", "final_layernorm", "fc2", "dense", {}, _BUNNY_TEXT),
)


def family_of(config) -> Family | None:
    """The row for a Hugging Face configuration, or None if the table has none."""
    text_type = config.get_text_config().model_type
    for family in FAMILIES:
        if (family.model_type, family.text_type) == (config.model_type, text_type):
            return family
    return None


def count_image_tokens(config) -> int:
    """Visual tokens that an image becomes: patches, plus the class token where the encoder has one and it is
    kept.

    576 for LLaVA-1.5 (CLIP, 336 px in patches of 14, class token dropped), 729 for Bunny (SigLIP, 384 px).
    """
    vision = config.vision_config
    n_patches = (vision.image_size // vision.patch_size) ** 2
    has_class_token = vision.model_type.startswith("clip")
    dropped = config.vision_feature_select_strategy == "default"
    return n_patches + int(has_class_token) - int(dropped)
