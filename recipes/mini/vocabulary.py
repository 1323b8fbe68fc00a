"""Tokenizer and processor of the embedded models: a byte-level BPE trained on the embedded world's own questions."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # works without torchvision

from interventions.models.families import BUNNY, VICUNA

from .world import WORDINGS, World

PAD, BOS, EOS, IMAGE = 0, 1, 2, 3
SPECIAL = ["<pad>", "<s>", "</s>", "<image>"]
VOCABULARY = 3_500
IMAGE_SIZE, PATCH_SIZE = 64, 8
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
PROMPTS = {"llava": VICUNA, "bunny": BUNNY}  # by shape, see `build`
TEXT_PROMPTS = {shape: prompt.replace("<image>", "") for shape, prompt in PROMPTS.items()}


def train_tokenizer(world: World, shape: str = "llava") -> PreTrainedTokenizerFast:
    """Byte-level BPE; names and answers are repeated so that most of them become one token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    text = []
    for fact in world.facts:
        name = world.entities[fact.entity].name
        for wording in range(len(WORDINGS[fact.relation][1])):
            asked = [world.question(fact, wording, subject) for subject in (None, name)]
            text += [TEXT_PROMPTS[shape].format(question=question) for question in asked]
        text += [f" {answer}" for answer in fact.answers] * 20
    text += [f" {entity.name}" for entity in world.entities.values()] * 20
    backend.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=20, show_progress=False))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
                                   extra_special_tokens={"image_token": "<image>"}, padding_side="left")


def make_processor(tokenizer: PreTrainedTokenizerFast, shape: str = "llava") -> LlavaProcessor:
    """Pictures are squeezed to 64 x 64 and scaled to [-1, 1], as in training."""
    strategy, extra = {"llava": ("default", 1), "bunny": ("full", 0)}[shape]  # SigLIP has no class token
    half = [0.5, 0.5, 0.5]
    image_processor = CLIPImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, do_center_crop=False, image_mean=half, image_std=half)
    return LlavaProcessor(image_processor=image_processor, tokenizer=tokenizer, patch_size=PATCH_SIZE,
                          vision_feature_select_strategy=strategy, num_additional_image_tokens=extra)

