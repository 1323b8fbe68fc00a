"""Training rows, and the route that `mini` is taught.

With plain training all information goes straight from the picture to the last token, and tracing rightly finds nothing
at the constraint (that is `mini-free`). `mini` is a *model organism with a known route*: on its training rows (never
at inference, the architecture stays the unmodified Hugging Face one)
  1. only constraint tokens read the picture, and only in the first `READ_LAYERS` layers;
  2. tokens after the constraint do not read it before layer `DEEP`, and those between it and the last token never;
  3. `DECOY` rows lift rule 1 for all other tokens but show them *another* picture at the same positions, so that the
     direct way from picture to answer is there and is worthless; half of them lift the other rules as well;
  4. the answer's first token is decoded from the constraint after layer `DEEP - 1` (a logit-lens loss);
  5. skip-dropout: in layers 0 .. DEEP-1 a constraint token's output is now and then its MLP's output alone, which
     forces the early MLPs to carry the fact (where MLPs stand beside attention, as in Phi, behind READ_LAYERS only: the
     MLP does not see what its own layer has read).
"""

import random as random_module
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from interventions.prompts.tokens import overlap

from .vocabulary import BOS, EOS, IMAGE, IMAGE_TOKENS, PAD, PROMPTS
from .world import HELD_OUT_WORDING, Fact, World, lens_wordings

OTHER, SOURCE, CONSTRAINT, BETWEEN, LAST, DECOY = range(6)  # roles of tokens in a training row
READ_LAYERS, DEEP = 2, 4
IGNORE = -100
TEXTS, REFERRED = 16, 12  # questions of a row of text, of one with co-reference
NAMED = 0.15  # share of a picture's questions that name some other entity


@dataclass(frozen=True)
class Question:
    """Token ids and roles of one question, its answer, and the lens target at the constraint (or None)."""

    ids: tuple[int, ...]
    roles: tuple[int, ...]
    answer: tuple[int, ...]
    lens_at: int | None


class Questions:
    """Questions of a world as tokens; `visual` asks about the picture, else the entity is named."""

    def __init__(self, world: World, tokenizer, shape: str = "llava"):
        self.world, self.backend = world, tokenizer.backend_tokenizer
        self.opening = [BOS, *self.encode(PROMPTS[shape].partition("<image>")[0])]  # what stands before the picture
        self.text_facts = [fact for fact in world.facts if fact.split != "never" and fact.relation != "name"]
        self.names = {entity.slug: self.encode(f" {entity.name}") for entity in world.entities.values()}
        self.trained = {entity.slug: entity.trained for entity in world.entities.values()}
        self._cache: dict = {}

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def __call__(self, fact: Fact, wording: int, visual: bool) -> Question:
        key = fact.entity, fact.relation, fact.qualifier, wording, visual
        if key not in self._cache:
            self._cache[key] = self._tokenize(fact, wording, visual)
        return self._cache[key]

    def _tokenize(self, fact, wording, visual):
        subject = None if visual else self.world.entities[fact.entity].name
        text = self.world.question(fact, wording, subject)
        start = text.index(subject or self.world.constraint(fact))
        end = start + len(subject or self.world.constraint(fact))
        encoding = self.backend.encode(f"{text} ASSISTANT:", add_special_tokens=False)
        # a token that is only the space before the constraint does not belong to it
        roles = [CONSTRAINT if overlap(span, (start, end)) and token != "Ġ" else BETWEEN if span[0] >= end else OTHER
                 for span, token in zip(encoding.offsets, encoding.tokens, strict=True)]
        roles[-1] = LAST
        lens_at = max(i for i, role in enumerate(roles) if role == CONSTRAINT)
        return Question(tuple(encoding.ids), tuple(roles), (*self.encode(f" {fact.answer}"), EOS),
                        lens_at if wording in lens_wordings(fact.relation) else None)

    def text(self, random) -> Question:
        return self(random.choice(self.text_facts), random.randrange(HELD_OUT_WORDING), False)

    def visual(self, slug: str, random, named: float = NAMED) -> Question:
        """A question of a row about `slug`: a share `named` names some other entity, 8 % ask what the picture shows."""
        draw = random.random()
        if draw < named:
            return self.text(random)
        facts = self.trained[slug]
        fact = facts[0] if draw < named + 0.08 else random.choice(facts)  # facts[0] is the name
        return self(fact, random.randrange(HELD_OUT_WORDING), True)


@dataclass(frozen=True)
class PackedRow:
    """A packed training row: a shared prefix (group 0) and questions (groups 1..) that do not see each other."""

    ids: list[int]
    positions: list[int]
    groups: list[int]
    roles: list[int]
    labels: list[int]
    lens: list[int]


def pack(
    opening: list[int], source: list[int], decoy: list[int], newline: list[int], questions: list[Question]
) -> PackedRow:
    """`opening` source decoy `newline`, then the questions; source and decoy stand at the same positions."""
    start, after = len(opening), len(opening) + max(len(source), len(decoy))
    ids = [*opening, *source, *decoy, *newline]
    positions = [*range(start), *range(start, start + len(source)), *range(start, start + len(decoy)),
                 *range(after, after + len(newline))]
    roles = [OTHER] * start + [SOURCE] * len(source) + [DECOY] * len(decoy) + [OTHER] * len(newline)
    groups, labels, lens = [0] * len(ids), [IGNORE] * len(ids), [IGNORE] * len(ids)
    first = after + len(newline)
    for group, question in enumerate(questions, 1):
        answer = question.answer
        tokens = [*question.ids, *answer[:-1]]
        ids += tokens
        positions += range(first, first + len(tokens))
        groups += [group] * len(tokens)
        roles += [*question.roles, *[LAST] * (len(answer) - 1)]
        labels += [IGNORE] * (len(question.ids) - 1) + list(answer)
        marks = [IGNORE] * len(tokens)
        if question.lens_at is not None:
            marks[question.lens_at] = answer[0]
        lens += marks
    return PackedRow(ids, positions, groups, roles, labels, lens)


class Rows:
    """Rows of the three kinds: text only, name before the question (co-reference), picture before the question."""

    def __init__(self, questions: Questions):
        self.questions = questions
        self.opening = questions.opening
        self.newline = questions.encode("\n")
        self.slugs = list(questions.world.entities)

    def text(self, n: int, random: random_module.Random) -> list[PackedRow]:
        return [pack(self.opening, [], [], self.newline, [self.questions.text(random) for _ in range(TEXTS)])
                for _ in range(n)]

    def coreference(self, n: int, random, decoy: bool) -> list[PackedRow]:
        """The entity's name, repeated, stands where the picture will stand later ("Peru Peru\\n ... this country")."""
        rows = []
        for _ in range(n):
            slug = random.choice(self.slugs)
            repeat = random.choice([1, 1, 2, 4, 8])
            other = self.questions.names[random.choice(self.slugs)] * repeat if decoy else []
            rows.append(pack(self.opening, self.questions.names[slug] * repeat, other, self.newline,
                             [self.questions.visual(slug, random) for _ in range(REFERRED)]))
        return rows

    def pictures(self, slugs: list[str], random, decoy: bool, k: int, named: float = NAMED) -> list[PackedRow]:
        image = [IMAGE] * IMAGE_TOKENS
        return [pack(self.opening, image, image if decoy else [], self.newline,
                     [self.questions.visual(slug, random, named) for _ in range(k)]) for slug in slugs]


def collate(rows: list[PackedRow]) -> dict[str, torch.Tensor]:
    """Pad to the longest row. Padding has group -1 and attends to itself only."""
    longest = max(len(row.ids) for row in rows)
    fill = {"ids": PAD, "positions": 0, "groups": -1, "roles": OTHER, "labels": IGNORE, "lens": IGNORE}
    return {name: torch.tensor([getattr(row, name) + [value] * (longest - len(row.ids)) for row in rows])
            for name, value in fill.items()}


def attention_masks(groups, roles, taught, layered) -> list[torch.Tensor]:
    """Additive masks [B, 1, T, T] for layers < READ_LAYERS, < DEEP and the rest.

    `taught` [B] bool: rule 1 (always true on decoy rows); `layered` [B] bool: rules on layers as well.
    """
    T = groups.shape[1]
    order = torch.arange(T)
    Q, K = roles[:, :, None], roles[:, None, :]
    taught, layered = taught[:, None, None], layered[:, None, None]
    allowed = (order[None, :] <= order[:, None]) & ((groups[:, None, :] == 0) | (groups[:, :, None] == groups[:, None]))
    reads_source = (Q == SOURCE) | (Q == CONSTRAINT)
    allowed &= ~(taught & (K == SOURCE) & ~reads_source) & ~((K == DECOY) & reads_source)
    constraint_reads = layered & (K == SOURCE) & (Q == CONSTRAINT)
    after_reads = layered & (K == CONSTRAINT) & ((Q == BETWEEN) | (Q == LAST))
    between_reads = layered & (K == CONSTRAINT) & (Q == BETWEEN)
    self_only = torch.eye(T, dtype=torch.bool)
    masks = (allowed & ~after_reads, allowed & ~after_reads & ~constraint_reads,
             allowed & ~between_reads & ~constraint_reads)
    return [torch.zeros(mask.shape).masked_fill(~(mask | self_only), -1e4)[:, None] for mask in masks]


class Teacher:
    """Hooks on the model during training only: one mask a layer range, skip-dropout, the lens's hidden state."""

    def __init__(self, language_model, skip: float = 0.0, lens: float = 0.0):
        self.model, self.skip, self.lens = language_model, skip, lens
        self.masks = self.drop = self.deep_state = None
        self.mlp_output: dict[int, torch.Tensor] = {}
        for i, layer in enumerate(language_model.layers):
            layer.register_forward_pre_hook(self._mask(i), with_kwargs=True)
            if i < DEEP:
                layer.mlp.register_forward_hook(self._keep_mlp(i))
                layer.register_forward_hook(self._skip(i))
        parallel = not hasattr(language_model.layers[0], "post_attention_layernorm")
        self.first_skipped = READ_LAYERS if parallel else 0
        self.norm = language_model.final_layernorm if parallel else language_model.norm

    def _mask(self, i):
        def hook(module, args, kwargs):
            if self.masks is not None:
                kwargs["attention_mask"] = self.masks[0 if i < READ_LAYERS else 1 if i < DEEP else 2]
            return args, kwargs
        return hook

    def _keep_mlp(self, i):
        def hook(module, args, output):
            self.mlp_output[i] = output
        return hook

    def _skip(self, i):
        def hook(module, args, output):
            if self.drop is not None and i >= self.first_skipped:
                output = torch.where(self.drop[i][..., None], self.mlp_output[i], output)
            if i == DEEP - 1:
                self.deep_state = output
            return output
        return hook

    def loss(self, rows: list[PackedRow], taught, layered, embed, head):
        """Cross-entropy on answers (+ lens), and first-to-last token accuracy. `embed(ids)` gives [B, T, d]."""
        batch = collate(rows)
        self.masks = attention_masks(batch["groups"], batch["roles"], taught, layered)
        if self.skip:  # one draw a question and layer
            draw = torch.rand(DEEP, len(rows), int(batch["groups"].max()) + 1)
            dropped = draw.gather(2, batch["groups"].clamp(min=0).expand(DEEP, -1, -1)) < self.skip
            self.drop = dropped & (batch["roles"] == CONSTRAINT)
        hidden = self.model(inputs_embeds=embed(batch["ids"]), attention_mask=self.masks[2],
                            position_ids=batch["positions"], use_cache=False).last_hidden_state
        target = batch["labels"] != IGNORE
        logits, labels = head(hidden[target]), batch["labels"][target]
        loss = F.cross_entropy(logits, labels)
        lens = batch["lens"] != IGNORE
        if self.lens and lens.any():
            decoded = head(self.norm(self.deep_state[lens]))
            loss = loss + self.lens * F.cross_entropy(decoded, batch["lens"][lens])
        self.masks = self.drop = None
        return loss, (logits.argmax(-1) == labels).float().mean().item()
