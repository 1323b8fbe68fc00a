"""Tiny random models of today's families, each with its real processor: no files, no network, no torchvision.

`build_vlm(key)` returns the plain Hugging Face module, its processor and the chat format. The tests' picture becomes
20 to 30 visual tokens, of several tiles where the family cuts tiles. Weights are random but scaled by their fan-in, and
SEEDS are chosen so that the answer is decided and depends on the picture and on the question.
"""

from unittest import mock

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AyaVisionConfig,
    AyaVisionProcessor,
    Cohere2Config,
    Gemma3Config,
    Gemma3Processor,
    Gemma3TextConfig,
    Idefics3Config,
    Idefics3Processor,
    InternVLConfig,
    InternVLProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionProcessor,
    Mistral3Config,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLProcessor,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMProcessor,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.pixtral import image_processing_pil_pixtral
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from benchmarks.without_torchvision import pixtral_processor, square
from interventions.models.processors import without_videos

CORPUS = (
    "user: The capital of this country is Lima. Sri Lanka, New Zealand and Peru assistant: Colombo",
    "user: Name a country that borders this country and starts with B assistant: Brazil Bolivia",
    "this building is located in Paris, France; the director of this movie in year 2006",
)
LAYERS, HIDDEN = 5, 32

# Family -> (start of the user's turn, image, question and what is between, end of the turn and start of the answer),
# as the chat templates of its checkpoints write them.
CHATML = "<|im_start|>user\n", "<image>\n{question}", "<|im_end|>\n<|im_start|>assistant\n"
QWEN_VL = CHATML[0], "<|vision_start|><image><|vision_end|>{question}", CHATML[2]
SMOL = "<|im_start|>User:", "<image>{question}", "<end_of_utterance>\nAssistant:"
MISTRAL = "[INST]", "<image>{question}", "[/INST]"
FORMATS = {
    "llava_onevision": ("<|im_start|>user ", "<image>\n{question}", "<|im_end|><|im_start|>assistant\n"),
    "llava_next_mistral": ("[INST] ", "<image>\n{question}", " [/INST]"),
    "llava_next_qwen2": CHATML,
    "qwen2_vl": QWEN_VL,
    "qwen2_5_vl": QWEN_VL,
    "qwen3_vl": QWEN_VL,
    "smolvlm": SMOL,
    "idefics3": SMOL,
    "internvl": CHATML,
    "internvl_qwen3": CHATML,
    "gemma3": ("<start_of_turn>user\n", "<image>{question}", "<end_of_turn>\n<start_of_turn>model\n"),
    "pixtral": MISTRAL,
    "mistral3": MISTRAL,
    "aya_vision": (
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
        "<image>{question}",
        "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
}

# Special tokens: the bos, if the family writes one; those that the processor asks for by name; all others.
CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]
QWEN_VL_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
SMOL_TOKENS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}
TILE_PLACES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
MISTRAL_TOKENS = ["[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]"]
TOKENS = {
    "llava_onevision": (None, {"image_token": "<image>", "video_token": "<video>"}, CHATML_TOKENS),
    "llava_next_mistral": ("<s>", {"image_token": "<image>"}, []),
    "llava_next_qwen2": (None, {"image_token": "<image>"}, CHATML_TOKENS),
    "qwen2_vl": (None, QWEN_VL_TOKENS, CHATML_TOKENS),
    "qwen2_5_vl": (None, QWEN_VL_TOKENS, CHATML_TOKENS),
    "qwen3_vl": (None, QWEN_VL_TOKENS, CHATML_TOKENS),
    "smolvlm": (None, SMOL_TOKENS, ["<|im_start|>", *TILE_PLACES]),
    "idefics3": (None, SMOL_TOKENS, ["<|im_start|>", *TILE_PLACES]),
    "internvl": (
        None,
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        CHATML_TOKENS,
    ),
    "gemma3": (
        "<bos>",
        {
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
        ["<start_of_turn>", "<end_of_turn>"],
    ),
    "pixtral": ("<s>", {}, MISTRAL_TOKENS),
    "mistral3": ("<s>", {}, MISTRAL_TOKENS),
    "aya_vision": (
        "<BOS_TOKEN>",
        {},
        [
            *("<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"),
            *("TILE_GLOBAL", "TILE_1", "TILE_2", "TILE_3", "TILE_4", "TILE_5", "TILE_6", "TILE"),
            *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        ],
    ),
    "qwen2": (None, {}, CHATML_TOKENS),
    "qwen3": (None, {}, CHATML_TOKENS),
    "mistral": ("<s>", {}, ["[INST]", "[/INST]"]),
    "gemma3_text": ("<bos>", {}, ["<start_of_turn>", "<end_of_turn>"]),
}
TOKENS["internvl_qwen3"], TOKENS["cohere2"] = TOKENS["internvl"], TOKENS["aya_vision"]

# Family -> the seed whose random weights give clear effects for the tests' picture and question.
SEEDS = {
    "llava_onevision": 43,
    "llava_next_mistral": 7,
    "llava_next_qwen2": 20,
    "qwen2_vl": 22,
    "qwen2_5_vl": 21,
    "qwen3_vl": 44,
    "smolvlm": 56,
    "idefics3": 56,
    "internvl": 115,
    "internvl_qwen3": 76,
    "gemma3": 112,
    "pixtral": 52,
    "mistral3": 78,
    "aya_vision": 27,
}

# Text-only counterpart -> its seed, and the family whose chat format it has.
TEXT_SEEDS = {"qwen2": 18, "qwen3": 5, "mistral": 19, "gemma3_text": 112, "cohere2": 73}
TEXT_FORMATS = {
    "qwen2": CHATML,
    "qwen3": CHATML,
    "mistral": MISTRAL,
    "gemma3_text": FORMATS["gemma3"],
    "cohere2": FORMATS["aya_vision"],
}


def tokenizer(key: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the family's special tokens, and with its bos in front if it writes one."""
    bos, named, others = TOKENS[key]
    special = ["<pad>", bos or "<s>", "</s>", *named.values(), *others]
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=370 + len(special),
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in special],
        show_progress=False,
        initial_alphabet=alphabet,
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    if bos:
        ids = [(bos, backend.token_to_id(bos))]
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token=bos,
        eos_token="</s>",
        extra_special_tokens=named,
    )


def text_config(kind, words, **own):
    return kind(
        **{
            "vocab_size": len(words),
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
        }
        | own
    )


def gemma3_text(words):
    """Layers with a window larger than the tests' prompts between layers without one."""
    kinds = ["sliding_attention", "full_attention"] * LAYERS
    return text_config(
        Gemma3TextConfig,
        words,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=128,
        layer_types=kinds[:LAYERS],
    )


def mistral(words):
    return text_config(MistralConfig, words, head_dim=8, sliding_window=None)


def mrope(**own):
    """Positions in three dimensions, for heads of 8."""
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]} | own


def siglip(side: int, patch: int):
    return SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=patch,
        vision_use_head=False,
    )


# One function per family: words -> (configuration, processor).


def llava_onevision(words):
    grids = [[24, 48], [48, 24]]
    config = LlavaOnevisionConfig(
        text_config=text_config(Qwen2Config, words),
        vision_config=siglip(24, 8),
        image_token_index=words.image_token_id,
        video_token_index=words.video_token_id,
        image_grid_pinpoints=grids,
    )
    images = LlavaOnevisionImageProcessorPil(size=square(24), image_grid_pinpoints=grids)
    kind = without_videos(LlavaOnevisionProcessor)
    return config, kind(images, words, None, num_image_tokens=9, vision_feature_select_strategy="full")


def llava_next(text, words):
    grids = [[24, 48], [48, 24]]
    config = LlavaNextConfig(
        text_config=text,
        vision_config=siglip(24, 8),
        image_token_index=words.image_token_id,
        image_grid_pinpoints=grids,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    images = LlavaNextImageProcessorPil(size={"shortest_edge": 24}, crop_size=square(24), image_grid_pinpoints=grids)
    return config, LlavaNextProcessor(images, words, patch_size=8, vision_feature_select_strategy="full")


def llava_next_mistral(words):
    return llava_next(mistral(words), words)


def llava_next_qwen2(words):
    return llava_next(text_config(Qwen2Config, words), words)


def qwen_vl(config, kind, words, vision, **text):
    config = config(
        text_config=text_config(dict, words, rope_parameters=mrope()) | text,
        vision_config={"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2} | vision,
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        vision_start_token_id=words.vision_start_token_id,
        vision_end_token_id=words.vision_end_token_id,
    )
    size = {"shortest_edge": 64, "longest_edge": 1600}
    images = Qwen2VLImageProcessorPil(size=size, patch_size=4, merge_size=2, temporal_patch_size=2)
    return config, without_videos(kind)(images, words, None)


def qwen2_vl(words):
    return qwen_vl(Qwen2VLConfig, Qwen2VLProcessor, words, {"embed_dim": 16, "hidden_size": HIDDEN, "mlp_ratio": 2})


def qwen2_5_vl(words):
    own = {"window_size": 16, "fullatt_block_indexes": [1]}
    vision = {"hidden_size": 16, "out_hidden_size": HIDDEN, "intermediate_size": 32} | own
    return qwen_vl(Qwen2_5_VLConfig, Qwen2_5_VLProcessor, words, vision)


def qwen3_vl(words):
    own = {"depth": 3, "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 1]}
    vision = {"hidden_size": 16, "out_hidden_size": HIDDEN, "intermediate_size": 32} | own
    rope = {"rope_parameters": mrope(mrope_interleaved=True)}
    return qwen_vl(Qwen3VLConfig, Qwen3VLProcessor, words, vision, head_dim=8, **rope)


def idefics(config, words):
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
    }
    return config(
        text_config=text_config(LlamaConfig, words),
        vision_config=vision,
        image_token_id=words.image_token_id,
        pad_token_id=0,
        scale_factor=2,
    )


def smolvlm(words):
    images = SmolVLMImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    with mock.patch.object(processing_smolvlm, "num2words", str):  # a package that it needs for videos only
        return idefics(SmolVLMConfig, words), without_videos(SmolVLMProcessor)(images, words, None, image_seq_len=4)


def idefics3(words):
    images = Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    return idefics(Idefics3Config, words), Idefics3Processor(images, words, image_seq_len=4)


def internvl(words, text=Qwen2Config, **own):
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": [16, 16],
        "patch_size": [4, 4],
    }
    config = InternVLConfig(
        text_config=text_config(text, words, **own),
        vision_config=vision,
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    images = GotOcr2ImageProcessorPil(size=square(16), crop_to_patches=True, min_patches=1, max_patches=4)
    return config, without_videos(InternVLProcessor)(images, words, None, image_seq_length=4)


def gemma3(words):
    config = Gemma3Config(
        text_config=gemma3_text(words),
        vision_config=siglip(32, 4),
        mm_tokens_per_image=16,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
        tie_word_embeddings=False,
    )
    images = Gemma3ImageProcessorPil(size=square(32))
    return config, Gemma3Processor(images, words, image_seq_length=16)


def pixtral_tower(patch: int):
    return PixtralVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=patch,
    )


def pixtral(words):
    config = LlavaConfig(
        text_config=mistral(words),
        vision_config=pixtral_tower(8),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        multimodal_projector_bias=True,
    )
    images = image_processing_pil_pixtral.PixtralImageProcessorPil(size={"longest_edge": 40}, patch_size=square(8))
    return config, pixtral_processor()(images, words, patch_size=8)


def mistral3(words):
    config = Mistral3Config(
        text_config=mistral(words),
        vision_config=pixtral_tower(4),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    images = image_processing_pil_pixtral.PixtralImageProcessorPil(size={"longest_edge": 40}, patch_size=square(4))
    return config, pixtral_processor()(images, words, patch_size=4, spatial_merge_size=2)


def cohere2(words):
    kinds = ["sliding_attention", "full_attention"] * LAYERS
    return text_config(Cohere2Config, words, sliding_window=256, layer_types=kinds[:LAYERS], logit_scale=2.0)


def aya_vision(words):
    text = cohere2(words)
    config = AyaVisionConfig(
        text_config=text,
        vision_config=siglip(16, 4),
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        tie_word_embeddings=False,
    )
    images = GotOcr2ImageProcessorPil(size=square(16), crop_to_patches=True, min_patches=1, max_patches=4)
    return config, AyaVisionProcessor(images, words, patch_size=4, img_size=16, downsample_factor=2)


FAMILIES = {
    "llava_onevision": llava_onevision,
    "llava_next_mistral": llava_next_mistral,
    "llava_next_qwen2": llava_next_qwen2,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "smolvlm": smolvlm,
    "idefics3": idefics3,
    "internvl": internvl,
    "internvl_qwen3": lambda words: internvl(words, Qwen3Config, head_dim=8),
    "gemma3": gemma3,
    "pixtral": pixtral,
    "mistral3": mistral3,
    "aya_vision": aya_vision,
}
TEXTS = {
    "qwen2": lambda words: text_config(Qwen2Config, words),
    "qwen3": lambda words: text_config(Qwen3Config, words, head_dim=8),
    "mistral": mistral,
    "gemma3_text": gemma3_text,
    "cohere2": cohere2,
}


def build_vlm(key: str, attention: str = "sdpa"):
    """Return the module, its processor, and the chat format with `<image>` and `{question}`. key: one of FAMILIES."""
    words = tokenizer(key)
    config, processor = FAMILIES[key](words)
    processor.chat_template = chat_template(FORMATS[key], processor.image_token)
    torch.manual_seed(0)
    module = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
    sharpen(module, SEEDS[key])
    return module.eval(), processor, "".join(FORMATS[key])


def build_text(key: str, attention: str = "sdpa"):
    """Return a text-only module, its tokenizer, and the chat format with `{question}`. key: one of TEXTS."""
    words = tokenizer(key)
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(TEXTS[key](words), attn_implementation=attention)
    sharpen(module, TEXT_SEEDS[key])
    before, _, after = TEXT_FORMATS[key]
    words.chat_template = (
        "{% for message in messages %}{% if message.role == 'user' %}"
        f"{{{{ {before!r} }}}}{{{{ message.content }}}}{{{{ {after!r} }}}}"
        "{% else %}{{ message.content }}{% endif %}{% endfor %}"
    )
    return module.eval(), words, f"{before}{{question}}{after}"


def chat_template(parts, image: str) -> str:
    """Return a Jinja template that writes a user's turn with an image and a text, and an assistant's with a text."""
    before, turn, after = (repr(part.replace("<image>", image)) for part in parts)
    user = f"{{{{ {before} }}}}{{{{ {turn}.replace('{{question}}', message.content[1].text) }}}}{{{{ {after} }}}}"
    return (
        "{% for message in messages %}{% if message.role == 'user' %}"
        + user
        + "{% else %}{{ message.content[0].text }}{% endif %}{% endfor %}"
    )


@torch.no_grad()
def sharpen(module, seed: int):
    """Draw all weights anew, scaled by their fan-in: attention that picks, and logits that decide."""
    torch.manual_seed(seed)
    for name, weight in module.named_parameters():
        if weight.dim() < 2:
            continue
        fan_in = weight[0].numel()
        if name == "lm_head.weight" or ("embed" in name and "patch" not in name):
            scale = module.get_input_embeddings().weight.shape[1] ** -0.5 if "gemma" in module.config.model_type else 1
            weight.normal_(0, scale if "embed" in name else 1)  # Gemma scales its embeddings up itself
        else:
            tower = any(part in name for part in ("vision", "visual"))
            weight.normal_(0, (1.0 if tower else 1.3) / fan_in**0.5)


def read_processor(folder):
    """Load a processor from a checkpoint's folder as AutoProcessor does, without torchvision and num2words."""
    options = ProcessorMixin.get_processor_dict(folder)[0]
    name = options.get("processor_class")
    if name == "PixtralProcessor":
        kind = pixtral_processor()
    else:
        kind = processor_class_from_name(name) if name else PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(folder))]
    with mock.patch.object(processing_smolvlm, "num2words", str):
        return (without_videos(kind) if "video_processor" in kind.get_attributes() else kind).from_pretrained(folder)
