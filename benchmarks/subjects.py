"""The questions that are timed: LLaVA-1.5's token shape on random weights, and the embedded model."""

from dataclasses import dataclass

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from interventions.engine.windows import Execution
from interventions.models.loading import load_model
from interventions.models.model import VisionLanguageModel
from interventions.prompts.corruption import CorruptedPrompt, corrupt
from interventions.prompts.prompt import Prompt, build_prompt
from interventions.testbed import load_testbed
from interventions.tracing.causal_trace import KINDS, CausalTrace, Scoring, trace

# One word is one token. The constraint is the second and third of them, so that 23 positions can be traced.
QUESTION = (
    "In this country many people of every age know the name of the old city that the government chose "
    "long ago as"
)
TOKENS = (5, 576, 25)  # before the image, of the image, after it: LLaVA-1.5's prompt
PATCH = 14  # pixels along its side
GAIN = 1.6  # standard deviation of what a random layer writes, for inputs of standard deviation 1
READOUT = 500  # the token that answers
WINDOW = 3  # layers that are restored together, in every benchmark


@dataclass(frozen=True)
class Subject:
    """A model and a question to trace, at every position from the first corrupted one on."""

    name: str
    model: VisionLanguageModel
    prompt: Prompt
    corrupted: CorruptedPrompt

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(range(self.corrupted.first_corrupted, len(self.prompt)))

    @property
    def layout(self) -> tuple[int, int, int]:
        """Tokens before, of and after the image."""
        visual = self.prompt.visual
        return visual[0], len(visual), self.prompt.last - visual[-1]

    @property
    def decoder(self) -> torch.nn.Module:
        """The language model without its head, as PyTorch sees it."""
        return self.model.module.get_submodule(self.model.family.language_model)

    def trace(self, positions, kinds=KINDS, method: str = "packed") -> CausalTrace:
        """The trace that is measured; the answer is the clean run's top token, as in the other ways."""
        return trace(
            self.model, self.prompt, self.corrupted, window=WINDOW, positions=positions, kinds=kinds,
            scoring=Scoring(max_answer_tokens=1), execution=Execution(method=method),
        )


def load_subject(name: str) -> Subject:
    """By name: "llava_shape" or "mini"."""
    return {"llava_shape": llava_shape, "mini": mini}[name]()


def mini() -> Subject:
    """The first `known` question of the test bed whose replacement has as many tokens as the constraint.

    (The authors' protocol runs clean and corrupted prompts in one batch, so their lengths must agree.)
    """
    return mini_questions(1)[0]


def mini_questions(n: int) -> list[Subject]:
    """The first n of them."""
    model, found = load_model("mini"), []
    for item in load_testbed("embedded").select(part="known", constraints="single"):
        prompt = build_prompt(model, item.question, item.image, visual_constraint=item.visual_constraint)
        corrupted = corrupt(model, prompt, visual_replacement=item.visual_replacement)
        if len(corrupted.input_ids) == len(prompt):
            found.append(Subject("mini", model, prompt, corrupted))
        if len(found) == n:
            return found
    raise ValueError(f"only {len(found)} questions of the test bed have a replacement of equal length")


def llava_shape() -> Subject:
    """LLaVA-1.5's prompt and vocabulary on random weights; an eighth of its width, a quarter of its depth.

    5 + 576 + 25 tokens, the first corrupted one the third of the 25, so 23 positions x 8 layers x 2 kinds =
    368 sites. The image encoder is scaled like the language model.
    """
    subject = shaped("llava_shape")
    if subject.layout != TOKENS:
        raise ValueError(
            f"the prompt has {subject.layout} tokens before, of and after the image, not {TOKENS}"
        )
    return subject


def shaped(name: str, side: int = 24, n_layers: int = 8, hidden: int = 512) -> Subject:
    """That question on an image of side x side visual tokens, and a language model of another depth or width."""
    torch.manual_seed(0)
    pixels = PATCH * side
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=2,
            image_size=pixels,
            patch_size=PATCH,
            projection_dim=96,
        ),
        text_config=LlamaConfig(
            vocab_size=32_064,
            hidden_size=hidden,
            intermediate_size=hidden * 43 // 16,
            num_hidden_layers=n_layers,
            num_attention_heads=hidden // 64,
            max_position_embeddings=max(1024, side**2 + 64),
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_index=3,
        image_seq_length=side**2,
        attn_implementation="sdpa",
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"height": pixels, "width": pixels}, do_center_crop=False),
        tokenizer=question_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    module = LlavaForConditionalGeneration(config)
    model = VisionLanguageModel.from_module(module, processor, name="llava-shape")
    prompt = build_prompt(model, QUESTION, Image.radial_gradient("L"), visual_constraint="this country")
    subject = Subject(name, model, prompt, corrupt(model, prompt, visual_replacement="Sri Lanka"))
    _decide(module, prompt, subject.corrupted)
    return subject


def long_text(n_tokens: int = 2000) -> Subject:
    """A text-only question of so many tokens, at the width of `llava_shape`: for memory, which grows with them."""
    torch.manual_seed(0)
    words = question_tokenizer()
    config = LlamaConfig(
        vocab_size=1000, hidden_size=512, intermediate_size=1376, num_hidden_layers=4, num_attention_heads=8,
        max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2, attn_implementation="sdpa",
    )
    model = VisionLanguageModel.from_module(LlamaForCausalLM(config), words, name="long-text")
    short = build_prompt(model, f"many many {QUESTION}", visual_constraint="this country")
    question = " ".join(["many"] * (n_tokens - len(short) + 2) + [QUESTION])
    prompt = build_prompt(model, question, visual_constraint="this country")
    return Subject("long_text", model, prompt, corrupt(model, prompt, visual_replacement="Sri Lanka"))


def question_tokenizer(*texts: str, named: dict | None = None, special=()) -> PreTrainedTokenizerFast:
    """A byte-level BPE that knows the words of the question (and of texts) and splits "USER" in two, as Llama's.

    named: special tokens by the name under which a processor asks for them; special: others.
    """
    named = named or {"image_token": "<image>"}
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<pad>", "<s>", "</s>", *named.values(), *special],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator([f"{QUESTION} ASSISTANT", "x Sri Lanka", "US", "ER", *texts] * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=named,
    )


@torch.no_grad()
def _decide(module, prompt: Prompt, corrupted: CorruptedPrompt) -> None:
    """Make the model sure of one answer, which the corrupted prompt takes away.

    With the usual initialization every token's probability is 1/V, and no error of a method could be seen in
    it. So the weights are scaled up, and one output row is set such that its token has odds e^3 on the clean
    prompt and e^-5 on the corrupted one; what it has on a restored prompt follows from the model.
    """
    for name, weight in module.named_parameters():
        if weight.dim() == 2 and "vision" not in name:
            weight.normal_(0, 1 if "embed" in name else GAIN / weight.shape[1] ** 0.5)
    ids = torch.stack([prompt.input_ids, corrupted.input_ids])
    pixels = prompt.image_inputs["pixel_values"].expand(2, -1, -1, -1)
    last = module.model(input_ids=ids, pixel_values=pixels).last_hidden_state[:, -1]  # [2, d]
    others = (last @ module.lm_head.weight.T).logsumexp(-1, keepdim=True)  # [2, 1]
    odds = torch.tensor([[3.0], [-5.0]])
    module.lm_head.weight[READOUT] = torch.linalg.lstsq(last, others + odds).solution[:, 0]
