"""A LLaVA whose weights are set by hand, so that the route of its answers is known and not guessed.

The model knows five countries (`COUNTRIES`) and their capitals. Four have a flag of one plain colour, which it
recognises; the fifth it only knows by name. Everything it does happens in three places:

  attention of layer `read`    the *reader*, a word, copies the country that the image shows (or, before that, one that
                               an earlier word names) to its own token;
  MLP of layer `lookup`        wherever a token holds a country, writes that country's capital;
  attention of layer `move`    the last token, "ASSISTANT:", copies the capital from the token that holds one (itself,
                               if it is the reader).

Every other attention and MLP output is exactly zero. With the reader "country", the last token of the constraint "this
country", the route is the paper's: image -> constraint -> (fact looked up there) -> last token. With the reader
"ASSISTANT:" the same weights make a model that goes *around* the constraint: the last token reads the image itself.
In both, a question that names a country ("South Africa" in place of "this country") is answered by that one's capital.

With `unname`, the model goes around the constraint, too, but restoring the constraint has an effect: the MLP of that
layer gives, at the word "country" and whatever the image shows, what takes the mark of a name away.

The residual stream holds, in 32 numbers:

  BALLAST   the same large number at every token. RMSNorm divides a token by its size, which the ballast decides to
            within a hundredth; the norms' weights multiply it in again, so that a norm gives what it is given. It also
            stands in for the biases that Llama's projections lack: BALLAST / LARGE is 1.
  SINK      1 at `<s>`. Every token looks there unless something attracts it more; nothing is to be had there, so a head
            that has nothing to do copies nothing.
  VISUAL    1 at the visual tokens
  READS     1 at the reader
  NAMED     1 at a word that names a country
  SPEAKS    1 at "ASSISTANT:"
  DONE      1 at a capital, behind which the answer ends
  POINTS    1 at "country", which names none
  SEEN      [5] the country that the image shows, at the visual tokens
  COUNTRY   [5] the country that a token stands for: 1 if it is named, 2 if it was read off the image
  CAPITAL   [5] what the MLP found: 1 if the country was named, 3 if it was seen, so what is seen outweighs a name
  SAID      [5] the capital that the last token holds, which the language-model head turns into the word

Attention compares two numbers of a query with two of a key, those of the lowest rotary frequency, which turn by less
than 0.02 over a prompt: one for the sink, one for what the head looks for.
"""

from pathlib import Path

import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from interventions.models.model import VisionLanguageModel
from interventions.testbed import Item

COUNTRIES = {  # the word that names it -> its capital, the colour of its flag
    "Peru": ("Lima", (255, 0, 0)),
    "Brazil": ("Brasilia", (0, 255, 0)),
    "Japan": ("Tokyo", (0, 0, 255)),
    "Kenya": ("Nairobi", (255, 255, 255)),
    "Africa": ("Pretoria", None),  # South Africa
}
CAPITALS = [capital for capital, _ in COUNTRIES.values()]
QUESTIONS = (  # the constraint early, in the middle and at the end
    "this country has the capital", "The capital of this country is", "Name the capital of this country",
)
REPLACEMENT = "South Africa"
OTHER_WORDS = (
    "USER: ASSISTANT: this country has the capital The of is Name South Paris Answer in a few words ? . nothing"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<unk>"]
WORDS = [*SPECIAL, *OTHER_WORDS.split(), *COUNTRIES, *CAPITALS]

HIDDEN, N_COUNTRIES, HEAD = 32, 5, 16
BALLAST, SINK, VISUAL, READS, NAMED, SPEAKS, DONE, POINTS = range(8)
SEEN, COUNTRY, CAPITAL, SAID = (list(range(begin, begin + N_COUNTRIES)) for begin in (8, 13, 18, 23))
FOR_SINK, FOR_FINDS = HEAD // 2 - 1, HEAD - 1  # the two numbers of a head that hardly turn
COPIED = list(range(N_COUNTRIES))  # the numbers of a head that carry what it copies
LARGE = 100.0
IMAGE_SIZE, PATCH, VISION = 24, 8, 16


def build(
    read=1, lookup=2, move=4, *, reader="country", unname: int | None = None, n_layers=6, attention="sdpa"
) -> VisionLanguageModel:
    """reader: "country" (the route through the constraint) or "ASSISTANT:" (around it). read <= lookup < move.

    unname: the layer, before `read`, whose MLP takes the mark of a name away.
    """
    config = LlavaConfig(
        text_config=LlamaConfig(
            vocab_size=len(WORDS), hidden_size=HIDDEN, intermediate_size=8, num_hidden_layers=n_layers,
            num_attention_heads=2, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            tie_word_embeddings=False,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=VISION, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
            image_size=IMAGE_SIZE, patch_size=PATCH, projection_dim=VISION,
        ),
        image_token_index=3, vision_feature_layer=-1, vision_feature_select_strategy="default", image_seq_length=9,
    )
    module = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
        see(module.model)
        name_words(module.model.language_model, reader)
        attend(module, read, asks=READS, finds={VISUAL: 2, NAMED: 3}, copies=(SEEN, COUNTRY), to=COUNTRY, gain=2)
        attend(module, move, asks=SPEAKS, finds=dict.fromkeys(CAPITAL, 2), copies=(CAPITAL,), to=SAID)
        remember(module.model.language_model.layers[lookup].mlp)
        if unname is not None:
            take_name_away(module.model.language_model.layers[unname].mlp)
        speak(module)
    module.generation_config.eos_token_id = 2
    return VisionLanguageModel.from_module(module, processor(), name=f"planted-{reader.strip(':').lower()}")


def see(model) -> None:
    """A plain colour becomes SEEN of the country whose flag has it, at every visual token."""
    tower = model.vision_tower
    tower.pre_layrnorm.weight.fill_(1)  # its layers add nothing, so what this gives is what the projector gets
    for channel in range(3):  # red, green and blue, each -1 or 1, and their negatives: the mean is 0 for the norm
        tower.embeddings.patch_embedding.weight[channel, channel] = 1 / PATCH**2
        tower.embeddings.patch_embedding.weight[3 + channel, channel] = -1 / PATCH**2
    size = (VISION / 6) ** 0.5  # of the six numbers behind the norm
    projector = model.multi_modal_projector
    for country, (_, colour) in enumerate(COUNTRIES.values()):
        if colour is not None:  # 3 if all channels agree, -1 otherwise (two disagree): 10 or -10 behind the bias
            projector.linear_1.weight[country, :3] = 5 / size * (torch.tensor(colour) / 255 * 2 - 1)
            projector.linear_1.bias[country] = -5
            projector.linear_2.weight[SEEN[country], country] = 0.1
    projector.linear_2.bias[BALLAST] = LARGE
    projector.linear_2.bias[VISUAL] = 1


def name_words(language_model, reader: str) -> None:
    """What every word brings along, and norms that give what they are given."""
    table = language_model.embed_tokens.weight
    table[:, BALLAST] = LARGE
    table[WORDS.index("<s>"), SINK] = 1
    table[WORDS.index(reader), READS] = 1
    table[WORDS.index("ASSISTANT:"), SPEAKS] = 1
    table[WORDS.index("country"), POINTS] = 1
    for country, (name, (capital, _)) in enumerate(COUNTRIES.items()):
        table[WORDS.index(name), [NAMED, COUNTRY[country]]] = 1
        table[WORDS.index(capital), DONE] = 1
    for name, weight in language_model.named_parameters():
        if "norm" in name:
            weight.fill_(LARGE / HIDDEN**0.5)  # a token's root mean square


def attend(module, layer: int, *, asks: int, finds: dict[int, float], copies, to: list[int], gain: float = 1) -> None:
    """Tokens with `asks` look at those with `finds` (the larger the better), all others at the sink; copies to `to`."""
    attention, score = module.model.language_model.layers[layer].self_attn, 30 * HEAD**0.5
    attention.q_proj.weight[FOR_SINK, BALLAST] = 1 / LARGE
    attention.k_proj.weight[FOR_SINK, SINK] = score
    attention.q_proj.weight[FOR_FINDS, asks] = 1
    for number, strength in finds.items():
        attention.k_proj.weight[FOR_FINDS, number] = strength * score
    for numbers in copies:
        attention.v_proj.weight[COPIED, numbers] = 1
    attention.o_proj.weight[to, COPIED] = gain


def remember(mlp) -> None:
    """One hidden unit a fact: it gives 20 where a token stands for its country by 1, 60 where by 2, and 0 elsewhere."""
    for country in range(N_COUNTRIES):
        mlp.gate_proj.weight[country, COUNTRY[country]] = 40
        mlp.gate_proj.weight[country, BALLAST] = -20 / LARGE
        mlp.up_proj.weight[country, BALLAST] = 1 / LARGE
        mlp.down_proj.weight[CAPITAL[country], country] = 1 / 20


def take_name_away(mlp) -> None:
    """At "country" the output is -1 in NAMED, elsewhere 0: put in at a name, it leaves no name."""
    mlp.gate_proj.weight[0, POINTS] = 40
    mlp.gate_proj.weight[0, BALLAST] = -20 / LARGE
    mlp.up_proj.weight[0, BALLAST] = 1 / LARGE
    mlp.down_proj.weight[NAMED, 0] = -1 / 20


def speak(module) -> None:
    """Logits: 20 and more for the capital that is held, 10 for "nothing", and 40 for the end behind a capital."""
    for country, capital in enumerate(CAPITALS):
        module.lm_head.weight[WORDS.index(capital), SAID[country]] = 20
    module.lm_head.weight[WORDS.index("nothing"), BALLAST] = 10 / LARGE
    module.lm_head.weight[WORDS.index("</s>"), DONE] = 40


def processor() -> LlavaProcessor:
    """Whole words as tokens, and pictures whose channels are -1 or 1."""
    backend = Tokenizer(models.WordLevel({word: token for token, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+:?|[^\w\s]"), behavior="removed", invert=True)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    size, half = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}, [0.5] * 3
    images = CLIPImageProcessorPil(size=size, do_center_crop=False, image_mean=half, image_std=half)
    return LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def flag(country: str) -> Image.Image:
    return Image.new("RGB", (30, 40), COUNTRIES[country][1])


def items(directory: Path, questions=QUESTIONS, replacement: str = REPLACEMENT) -> list[Item]:
    """Every question about every flag, as a test bed has them."""
    (directory / "images").mkdir(parents=True, exist_ok=True)
    found = []
    for name, (capital, colour) in COUNTRIES.items():
        if colour is None:
            continue
        path = directory / "images" / f"{name}.png"
        flag(name).save(path)
        found += [
            Item(
                id=f"known-{name}-{n}", part="known", question=question, image=path, visual_constraint="this country",
                visual_replacement=replacement, answers=(capital,), entity=name, relation="capital",
            )
            for n, question in enumerate(questions)
        ]
    return found
