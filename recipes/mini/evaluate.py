"""What an embedded model knows, and which way the knowledge takes: the table that training prints.

Accuracy is that of the answer's first token (any accepted answer counts) on the prompt's last token. A knock-out blocks
attention from some positions to others in all layers, on clean pictures in trained styles.
"""

import random

import torch

from interventions.testbed.schema import PAPER_PARTS

from .build import image_features, shape_of
from .pictures import Gallery
from .route import CONSTRAINT, OTHER, Question, Questions
from .vocabulary import IMAGE, IMAGE_TOKENS, PAD
from .world import HELD_OUT_STYLE, HELD_OUT_WORDING, PHOTO, Fact, load_world

AT_MOST, SEED = 300, 0  # questions of most measurements, and what draws them
AUGMENTATION_SEED = 3
BATCH = 48


def _block(queries, keys):
    """A knock-out: `queries` and `keys` choose positions from (visual, constraint, after, last), each a list."""
    def apply(mask, places):
        for query in queries(places):
            mask[query, keys(places)] = -1e9
    return apply


KNOCK_OUTS = {
    "visual -> constraint": _block(lambda p: p["constraint"], lambda p: p["visual"]),
    "visual -> all after the constraint": _block(lambda p: p["after"], lambda p: p["visual"]),
    "visual -> all text but the constraint": _block(lambda p: p["before"] + p["after"], lambda p: p["visual"]),
    "visual -> all text": _block(lambda p: p["before"] + p["constraint"] + p["after"], lambda p: p["visual"]),
    "constraint -> all after": _block(lambda p: p["after"], lambda p: p["constraint"]),
    "constraint -> last": _block(lambda p: p["after"][-1:], lambda p: p["constraint"]),
}


class Evaluator:
    """Answers questions in batches on the plain model (float32, no hooks)."""

    def __init__(self, model, tokenizer):
        self.model, self.world = model.eval().float(), load_world()
        self.questions, self.gallery = Questions(self.world, tokenizer, shape_of(model)), Gallery(self.world)
        self.opening, self.newline = self.questions.opening, self.questions.encode("\n")

    def first_tokens(self, fact: Fact) -> list[int]:
        return [self.questions.encode(f" {answer}")[0] for answer in fact.answers]

    @torch.no_grad()
    def ask(self, asked: list[Question], pictures: list[int] | None = None, augment=False,
            knock_out=None) -> torch.Tensor:
        """Probabilities [n, vocabulary] of the next token; `pictures` None asks without any."""
        generator, out = torch.Generator().manual_seed(AUGMENTATION_SEED), []
        image = [] if pictures is None else [IMAGE] * IMAGE_TOKENS
        prefix = [*self.opening, *image, *self.newline]
        P, first = len(prefix), len(self.opening)
        for start in range(0, len(asked), BATCH):
            chunk = asked[start:start + BATCH]
            T = P + max(len(question.ids) for question in chunk)
            ids = torch.tensor([prefix + list(q.ids) + [PAD] * (T - P - len(q.ids)) for q in chunk])
            embedded = self.model.get_input_embeddings()(ids)
            if pictures is not None:
                pixels = self.gallery.batch(pictures[start:start + BATCH], generator, augment)
                visual = self.model.model.multi_modal_projector(image_features(self.model, pixels))
                embedded = embedded.masked_scatter((ids == IMAGE)[..., None], visual)
            mask = torch.full((T, T), -1e9).triu(1).repeat(len(chunk), 1, 1, 1)
            if knock_out:
                for row, question in enumerate(chunk):
                    roles = [OTHER] * P + list(question.roles)
                    constraint = [i for i, role in enumerate(roles) if role == CONSTRAINT]
                    knock_out(mask[row, 0], {"visual": list(range(first, first + len(image))), "constraint": constraint,
                                             "before": list(range(first + len(image), constraint[0])),
                                             "after": list(range(constraint[-1] + 1, len(roles)))})
            hidden = self.model.model.language_model(
                inputs_embeds=embedded, attention_mask=mask, position_ids=torch.arange(T)[None],
                use_cache=False).last_hidden_state
            last = torch.tensor([P + len(question.ids) - 1 for question in chunk])
            out.append(self.model.lm_head(hidden[torch.arange(len(chunk)), last]).softmax(-1))
        return torch.cat(out)

    def score(self, facts: list[Fact], wording=0, pictures=None, **options) -> dict:
        """Accuracy, mean probability of the canonical answer's first token, and n."""
        if not facts:
            raise ValueError("No fact to ask about: the world's tables are incomplete.")
        probabilities = self.ask([self.questions(fact, wording, pictures is not None) for fact in facts], pictures,
                                 **options)
        top = probabilities.argmax(-1).tolist()
        right = [choice in self.first_tokens(fact) for choice, fact in zip(top, facts, strict=True)]
        p = [row[self.first_tokens(fact)[0]].item() for row, fact in zip(probabilities, facts, strict=True)]
        return {"accuracy": round(sum(right) / len(facts), 4), "p_answer": round(sum(p) / len(p), 4), "n": len(facts)}

    def pictures(self, facts, style=None, rng=None) -> tuple[list[Fact], list[int]]:
        """A picture for each fact: of `style`, or of any trained drawing style (photograph if there is no drawing)."""
        kept, chosen = [], []
        for fact in facts:
            if style:
                pool = [i for i in self.world.entities[fact.entity].pictures if self.world.pictures[i].style == style]
            else:
                seen = self.gallery.by_entity[fact.entity]
                pool = [i for i in seen if self.world.pictures[i].style != PHOTO] or seen
            if pool:
                kept.append(fact)
                chosen.append((rng or random).choice(pool))
        return kept, chosen


def evaluate(model, tokenizer, text: bool = False) -> dict[str, dict]:
    """Name of the measurement -> accuracy, p_answer, n. `text` restricts it to what a text-only model can do."""
    evaluator, rng = Evaluator(model, tokenizer), random.Random(SEED)
    facts = {split: [fact for fact in evaluator.world.facts if fact.split == split] for split in
             ("trained", "text_only", "never")}
    sample = lambda pool: rng.sample(pool, min(AT_MOST, len(pool)))  # noqa: E731
    known_as_text = [fact for fact in facts["trained"] if fact.relation != "name"]
    some = sample(known_as_text)
    table = {"text questions": evaluator.score(some),
             "text questions, held-out paraphrase": evaluator.score(some, HELD_OUT_WORDING),
             "text questions, never trained": evaluator.score(facts["never"])}
    if text:
        return table
    for part in PAPER_PARTS:
        every = [fact for fact in facts["trained"] if evaluator.world.part(fact) == part]
        kept, pictures = evaluator.pictures(every, rng=random.Random(SEED))
        table[f"{part}: seen style, new augmentation"] = evaluator.score(kept, 0, pictures, augment=True)
        chosen = sample(every)
        kept, pictures = evaluator.pictures(chosen, rng=rng)
        table[f"{part}: seen style"] = evaluator.score(kept, 0, pictures)
        table[f"{part}: held-out paraphrase"] = evaluator.score(kept, HELD_OUT_WORDING, pictures)
        kept, pictures = evaluator.pictures(chosen, HELD_OUT_STYLE, rng)
        table[f"{part}: held-out style"] = evaluator.score(kept, 0, pictures)
    everything = sample(facts["trained"])
    kept, pictures = evaluator.pictures(everything, HELD_OUT_STYLE, rng)
    table["all: held-out style"] = evaluator.score(kept, 0, pictures)
    for family in ("place", "thing"):
        pool = [fact for fact in facts["trained"] if evaluator.world.entities[fact.entity].family == family]
        kept, pictures = evaluator.pictures(sample(pool) if family == "place" else pool, PHOTO, rng)
        table[f"photographs of {family}s, new augmentation"] = evaluator.score(kept, 0, pictures, augment=True)
    for split in ("text_only", "never"):
        kept, pictures = evaluator.pictures(facts[split], rng=rng)
        table[f"{split} facts, with a picture"] = evaluator.score(kept, 0, pictures)
    kept, pictures = evaluator.pictures(sample(known_as_text), rng=rng)
    table["knock-out: none"] = evaluator.score(kept, 0, pictures)
    for name, knock_out in KNOCK_OUTS.items():
        table[f"knock-out: {name}"] = evaluator.score(kept, 0, pictures, knock_out=knock_out)
    table["corrupted: another entity named"] = corrupted(evaluator, kept, pictures, rng)
    return table


def corrupted(evaluator: Evaluator, facts: list[Fact], pictures: list[int], rng) -> dict:
    """P(answer) when the question names another entity under the same picture: mean (as p_answer) and median."""
    values = []
    for fact, picture in zip(facts, pictures, strict=True):
        others = [other for other in evaluator.world.same_relation(fact)
                  if other.split == "trained" and evaluator.first_tokens(other)[0] != evaluator.first_tokens(fact)[0]]
        if others:
            asked = evaluator.questions(rng.choice(others), 0, False)
            values.append(evaluator.ask([asked], [picture])[0, evaluator.first_tokens(fact)[0]].item())
    values = torch.tensor(values)
    return {"p_answer": round(values.mean().item(), 4),
            "median": round(values.median().item(), 5), "n": len(values)}


def print_table(name: str, table: dict[str, dict]) -> None:
    print(f"\n{name:44s} first-token accuracy   P(answer)     n")
    for row, values in table.items():
        median = f"   median {values['median']:.5f}" if "median" in values else ""
        accuracy = values.get("accuracy", float("nan"))
        print(f"{row:44s} {accuracy:20.3f} {values['p_answer']:11.3f} {values['n']:5d}{median}")
