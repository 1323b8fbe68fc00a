"""The conditions of an experiment: how an item of a test bed becomes a clean and a corrupted prompt.

Every choice on which the paper and the released scripts differ is a field of `Conditions`, with presets in `PROTOCOLS`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from PIL import Image

from ..engine.windows import WINDOW_RULES
from ..errors import PromptError, Unusable
from ..prompts.corruption import CorruptedPrompt, corrupt, noise
from ..prompts.prompt import Prompt, build_prompt
from ..testbed import Item, TestBedError, load_image
from ..testbed.schema import NOT_MARKED
from ..text import find_phrase, normalize

CORRUPTIONS = ("replacement", "repeat", "noise", "standard")
CONSTRAINTS = {"visual": ("constraint",), "text": ("text_constraint",), "both": ("constraint", "text_constraint")}
REPEAT_TOKEN = "Paris"  # the released scripts' default


@dataclass(frozen=True)
class Protocol:
    """What an empty field of `Conditions` becomes, and the column that figures show."""

    window_rule: str
    corruption: str
    corrupted: str  # of a question with two constraints
    reported: str


PROTOCOLS = {
    "paper": Protocol("centered", "replacement", "text", "effect"),
    "authors": Protocol("radius", "repeat", "visual", "p_restored"),
}


@dataclass(frozen=True)
class Conditions:
    """The choices of an experiment. An empty text stands for the protocol's own choice.

    Attributes:
        protocol: "paper" | "authors": the prompt's format, and the presets of the next three.
        window_rule: "centered" | "radius", see `tracing.causal_trace.trace`.
        corruption: "replacement" (a fluent phrase from the test bed), "repeat" (one token in place of each of the
            constraint's), "noise" (Gaussian noise on the constraint's embeddings, as ROME's on the subject) or
            "standard" (noise on the visual tokens as well: the baseline of the paper's Figure 7).
        corrupted: "visual" | "text" | "both": the constraint. A question with one constraint has that corrupted.
        noise_scale: standard deviation of the noise, in standard deviations of the embeddings.
        noise_samples: draws of noise that are averaged.
        noise_seed: the seed of the draws.

    Raises:
        ValueError: a value that is not named here.
    """

    protocol: str = "paper"
    window_rule: str = ""
    corruption: str = ""
    corrupted: str = ""
    noise_scale: float = 3.0
    noise_samples: int = 10
    noise_seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "protocol": PROTOCOLS, "window_rule": ("", *WINDOW_RULES), "corruption": ("", *CORRUPTIONS),
            "corrupted": ("", *CONSTRAINTS),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} cannot be {getattr(self, name)!r}: use {', '.join(map(repr, values))}.")
        if not self.noise_scale > 0 or self.noise_samples < 1:
            raise ValueError(
                f"noise_scale must be above 0 and noise_samples at least 1, not {self.noise_scale} and "
                f"{self.noise_samples}."
            )
        preset = PROTOCOLS[self.protocol]
        for name in ("window_rule", "corruption", "corrupted"):
            object.__setattr__(self, name, getattr(self, name) or getattr(preset, name))

    @property
    def reported(self) -> str:
        """The column that figures show: "effect", or "p_restored" as in the released scripts."""
        return PROTOCOLS[self.protocol].reported

    @property
    def is_noise(self) -> bool:
        return self.corruption in ("noise", "standard")

    def key(self) -> dict:
        """Return the fields that determine a result."""
        chosen = asdict(self)
        if self.corruption == "repeat":
            chosen["repeat_token"] = REPEAT_TOKEN
        return chosen if self.is_noise else {k: v for k, v in chosen.items() if not k.startswith("noise_")}


def named(item: Item) -> Item:
    """Return the question without its image, with the entity's name in place of the visual constraint."""
    if not item.entity:
        raise Unusable("entity not named: a text-only model needs to know what the image shows")
    must_be_marked(item)
    question = normalize(item.question)
    begin, end = find_phrase(question, item.visual_constraint, "visual_constraint", last=False)
    question = question[:begin] + item.entity + question[end:]
    try:
        return replace(item, question=question, visual_constraint=item.entity, image=None, paraphrases=())
    except TestBedError as error:  # the name may overlap the text constraint
        raise Unusable(f"question cannot be asked by name: {error}") from error


def must_be_marked(item: Item) -> None:
    """Raise `Unusable` if the visual constraint is not marked yet."""
    if not item.visual_constraint:
        raise Unusable(NOT_MARKED)


def as_asked(model, item: Item) -> Item:
    """Return the item as this model is asked about it: a text-only model is asked by name."""
    return item if item.image is None or model.is_multimodal else named(item)


def clean_prompt(model, item: Item, conditions: Conditions) -> Prompt:
    """Return the item's clean prompt. Raises `Unusable`."""
    must_be_marked(item)
    try:
        item = as_asked(model, item)
        return build_prompt(
            model, item.question, _picture(item), visual_constraint=item.visual_constraint,
            text_constraint=item.text_constraint, protocol=conditions.protocol,
        )
    except (TestBedError, PromptError) as error:
        raise Unusable(f"constraint not found: {error}") from error


def _picture(item: Item) -> Image.Image | None:
    try:
        return None if item.image is None else load_image(item.image)
    except TestBedError as error:
        raise Unusable(f"image unreadable: {error}") from error


def corrupted_roles(item: Item, conditions: Conditions) -> tuple[str, ...]:
    """Return the roles of the constraints that are corrupted."""
    return CONSTRAINTS["visual" if item.text_constraint is None else conditions.corrupted]


def corrupted_prompt(model, item: Item, prompt: Prompt, conditions: Conditions) -> CorruptedPrompt:
    """Return the corrupted version of the item's clean prompt. Raises `Unusable`."""
    roles = corrupted_roles(item, conditions)
    try:
        if conditions.corruption == "repeat":
            return corrupt(model, prompt, repeat_token=REPEAT_TOKEN, repeat_role=roles)
        if conditions.is_noise:
            noised = roles if conditions.corruption == "noise" or not prompt.visual else ("visual", *roles)
            return noise(
                model, prompt, noised, scale=conditions.noise_scale, samples=conditions.noise_samples,
                seed=conditions.noise_seed,
            )
        replacements = {"constraint": item.visual_replacement, "text_constraint": item.text_replacement}
        if not all(replacements[role] for role in roles):
            raise Unusable("no replacement phrase (python -m interventions testbed corruptions chooses one)")
        return corrupt(
            model, prompt,
            visual_replacement=item.visual_replacement if "constraint" in roles else None,
            text_replacement=item.text_replacement if "text_constraint" in roles else None,
        )
    except PromptError as error:
        raise Unusable(f"replacement refused: {error}") from error
