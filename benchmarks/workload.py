"""What tracing one question computes, counted before it is run: arithmetic, bytes moved, and memory held.

The counts follow `restoration.py` forward by forward, with its own `packs` and the trace's own windows; a test compares
them with the tokens that enter each module of a real run. What a second of this costs is in `cost.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from interventions.engine import packing
from interventions.engine.packing import packs
from interventions.engine.windows import window_spans
from interventions.models.families import family_of
from interventions.tracing.causal_trace import METHODS

from .published import skeleton

AUTHORS = "authors"  # the released scripts: a forward of three rows a site, image encoder included
WAYS = (*METHODS, AUTHORS)


@dataclass(frozen=True)
class Architecture:
    """Sizes of a model. attention, mlp (of one layer), head, vision, projector: the numbers of their weights."""

    layers: int
    width: int
    ffn: int
    heads: int
    heads_width: int
    kv_width: int  # numbers of one token's keys and values in one layer
    vocabulary: int
    attention: int
    mlp: int
    head: int
    parameters: int
    visual: int = 0  # visual tokens of an image; 0: text only, and so are the next five
    vision: int = 0
    projector: int = 0
    vision_layers: int = 0
    vision_width: int = 0
    vision_tokens: int = 0

    @property
    def activations(self) -> int:
        """Numbers that one token's way through a layer makes, by an estimate."""
        return packing.activations(self.width, self.ffn)

    @property
    def image_flops(self) -> float:
        scores = 4 * self.vision_width * self.vision_tokens**2 * self.vision_layers
        return 2 * (self.vision_tokens * self.vision + self.visual * self.projector) + scores


def count_image_tokens(config) -> int:
    """The visual tokens of an image in a LLaVA: patches, plus the class token if the encoder has and keeps one."""
    vision = config.vision_config
    kept = vision.model_type.startswith("clip") and config.vision_feature_select_strategy != "default"
    return (vision.image_size // vision.patch_size) ** 2 + int(kept)


def architecture(config) -> Architecture:
    """The sizes of a configuration, its weights counted on the meta device."""
    family, text, module = family_of(config), config.get_text_config(), skeleton(config)
    layer = module.get_submodule(family.language_model).layers[0]
    heads = text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    sizes = {}
    if family.is_multimodal:
        tower, vision = module.get_submodule("model.vision_tower"), config.vision_config
        sizes = dict(
            visual=count_image_tokens(config), vision=_numbers(tower.encoder.layers),
            projector=_numbers(module.get_submodule("model.multi_modal_projector")),
            vision_layers=vision.num_hidden_layers, vision_width=vision.hidden_size,
            vision_tokens=tower.embeddings.position_embedding.num_embeddings,
        )
    return Architecture(
        layers=text.num_hidden_layers, width=text.hidden_size, ffn=text.intermediate_size, heads=heads,
        heads_width=heads * head, kv_width=2 * (getattr(text, "num_key_value_heads", None) or heads) * head,
        vocabulary=text.vocab_size, attention=_numbers(layer.self_attn), mlp=_numbers(layer.mlp),
        head=_numbers(module.get_output_embeddings()), parameters=_numbers(module), **sizes,
    )


def _numbers(module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@dataclass(frozen=True)
class Question:
    """The tokens of a question and what is restored of it: every token from the first corrupted one on, all layers.

    before: text tokens before the first corrupted one (LLaVA-1.5 has 5 before the image); positions: tokens from it on.
    The embedded questions have 8.4 of these on average (11 at most) with a Llama tokenizer and LLaVA's format.
    answer_tokens: forwards of one token each that finding the answer takes behind the clean run. The corrupted prompt
    is as long as the clean one, and the answer's first token is scored.
    """

    before: int = 9
    positions: int = 10
    kinds: int = 2
    window: int = 3
    window_rule: str = "centered"
    answer_tokens: int = 4

    def sites(self, arch: Architecture) -> list:
        first, spans = arch.visual + self.before, window_spans(self.window, self.window_rule, arch.layers)
        at = range(first, first + self.positions)
        return [((kind,), ((p, p),), *span) for kind in range(self.kinds) for p in at for span in spans]


@dataclass(frozen=True)
class Work:
    """Totals over forwards. flops: operations of the language model; image_flops: of image encoder and projector;
    moved: bytes read or written; layer_calls: layers run, each forward counted; attention_tokens, mlp_tokens: tokens
    that entered these modules, over all layers; held: the most bytes that one forward allocates."""

    flops: float = 0
    image_flops: float = 0
    moved: float = 0
    layer_calls: int = 0
    images: int = 0
    attention_tokens: int = 0
    mlp_tokens: int = 0
    head_tokens: int = 0
    held: float = 0

    def __add__(self, other: Work) -> Work:
        added = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Work(**added | {"held": max(self.held, other.held)})


def forward_work(
    arch: Architecture, tokens: int, keys: int, *, rows: int = 1, start: int = 0, stop: int | None = None,
    head: int = 0, last_mlp: int | None = None, images: int = 0, size: int = 2,
) -> Work:
    """One forward of `rows` x `tokens` through layers start .. stop-1, each token attending to `keys` (masked or not).

    head: tokens whose logits are computed; last_mlp: tokens that enter the last MLP (None: all); size: bytes a number.
    """
    layers = (arch.layers if stop is None else stop) - start
    attention = rows * tokens * layers
    mlp = attention - (rows * tokens - last_mlp if last_mlp is not None and layers else 0)
    scores = 4 * arch.heads_width * attention * keys
    weights = layers * (arch.attention + arch.mlp) + (arch.head if head else 0)
    weights += arch.vision + arch.projector if images else 0
    cached = rows * keys * layers * arch.kv_width
    return Work(
        flops=2 * (attention * arch.attention + mlp * arch.mlp + head * arch.head) + scores,
        image_flops=images * arch.image_flops,
        # The cache is read and written whole when a forward extends it, and read by attention.
        moved=size * (weights + attention * arch.activations + 3 * cached),
        layer_calls=layers + (arch.vision_layers if images else 0),
        images=images,
        attention_tokens=attention,
        mlp_tokens=mlp,
        head_tokens=head,
        # Beside activations and keys: a mask (bool twice, and as numbers), logits and their softmax in float32.
        held=size * (rows * tokens * arch.activations + cached)
        + tokens * keys * (2 + size)
        + head * arch.vocabulary * (size + 8),
    )


def question_work(arch: Architecture, question: Question, way: str, budget: int, rows: int, size: int = 2) -> dict:
    """{stage: Work} of one question by one of `WAYS`.

    budget: packed tokens of a forward; rows: batch rows of one (see `packed_tokens` and `batch_rows`)."""
    first = arch.visual + question.before
    end, sites, image = first + question.positions, question.sites(arch), int(arch.visual > 0)

    def forward(*counts, **options) -> Work:
        return forward_work(arch, *counts, size=size, **options)

    def restored() -> Iterator[Work]:
        if way == AUTHORS:
            yield from (forward(end, end, rows=3, head=3, images=3 * image) for _ in sites)
        elif way == "plain":  # the corrupted run is the first of them
            yield from (forward(end, end, head=1, images=image) for _ in range(len(sites) + 1))
        elif way == "rows":
            for pack in packs(sites, [1] * len(sites), rows):
                yield forward(question.positions, end, rows=len(pack), start=sites[pack[0]][2], head=len(pack))
        else:
            begins = [site[1][0][1] for site in sites]
            for pack in packs(sites, [end - begin for begin in begins], budget):
                start, n, cached = sites[pack[0]][2], len(pack), max(begins[s] for s in pack)
                tokens = sum(end - begins[s] for s in pack)
                yield forward(n, cached + n, start=start, stop=start + 1)
                yield forward(tokens, cached + tokens, start=start + 1, head=n, last_mlp=n)

    stages = {"sites": sum(restored(), Work())}
    if way == AUTHORS:
        return stages
    answer = (forward(1, end + n + 1, head=1) for n in range(question.answer_tokens))
    return {
        "clean": forward(end, end, head=1, images=image),
        "answer": sum(answer, Work()),
        "corrupted": forward(question.positions, end, head=1),
    } | stages


def kept_bytes(arch: Architecture, question: Question, way: str, size: int = 2) -> int:
    """Bytes that the clean and the corrupted run leave: two caches, outputs to restore, hidden states, embeddings."""
    if way == AUTHORS:
        return 0
    end = arch.visual + question.before + question.positions
    recorded = (question.kinds * arch.layers + arch.layers + 1) * question.positions * arch.width
    return size * (2 * end * arch.layers * arch.kv_width + recorded + end * arch.width)


def packed_tokens(arch: Architecture, keys: int, free: float, cuda: bool, size: int = 2) -> int:
    """What `packing.packing_budget` chooses where so many bytes are free."""
    best = packing.GPU_PACKED_TOKENS if cuda else packing.CPU_PACKED_TOKENS
    cached = size * arch.layers * arch.kv_width
    return packing.packed_tokens(best, keys, size, arch.activations, arch.heads, cached, free)


def batch_rows(arch: Architecture, question: Question, budget: int, free: float, size: int = 2) -> int:
    """What `packing.rows_that_fit` chooses where so many bytes are free."""
    end = arch.visual + question.before + question.positions
    return packing.batch_rows(budget, question.positions, end, size * arch.layers * arch.kv_width, free)
