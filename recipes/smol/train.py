"""Train the projector and the adapters of `smol`: `python -m recipes.smol.train --out DIR [--seed 0]`.

Two stages, as LLaVA has them; the vision tower is that of `mini` and stays as it is, like the language model's weights.

  align   the projector alone: visual tokens against the embeddings of the entities' names
  tune    projector and adapters: cross-entropy of answers (see `questions`)

The state is saved every `SAVE_EVERY` steps, and the same command continues from it. Every step draws from a seed of its
own, so that an interrupted run and an unbroken one see the same data.
"""

import argparse
import hashlib
import json
import math
import random
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import LlavaForConditionalGeneration

from interventions.files import write_atomically
from interventions.models.checkpoints import CHECKPOINTS
from interventions.models.pretrained import language_model, language_tokenizer
from recipes.mini.build import image_features
from recipes.mini.pictures import Gallery
from recipes.mini.vocabulary import IMAGE_TOKENS
from recipes.mini.world import load_world

from .lora import add_adapters, make_projector
from .questions import Questions
from .rows import Packer, logits_of, right_answers

ALIGN_STEPS, ALIGN_PICTURES, ALIGN_RATE = 400, 96, 2e-3
TUNE_STEPS, PICTURES, TEXTS, QUESTIONS = 520, 12, 1, 4  # a step: pictures, rows of text, questions a row of text
PROJECTOR_RATE, ADAPTER_RATE, FLOOR = 1e-3, 5e-4, 0.02
MIX = 0.25  # of drawings that are blended with another style, see `Gallery.batch`
LOG_EVERY, SAVE_EVERY = 20, 20


class Training:
    """The models, the data, and what both stages share."""

    def __init__(self, out: Path, seed: int):
        self.out, self.seed = out, seed
        self.world = load_world()
        self.gallery = Gallery(self.world)
        self.entities = list(self.world.entities)
        torch.manual_seed(seed)
        self.language = language_model().to(torch.bfloat16).requires_grad_(False)
        self.tokenizer = language_tokenizer()
        self.packer = Packer(self.tokenizer, IMAGE_TOKENS)
        mini = LlavaForConditionalGeneration.from_pretrained(CHECKPOINTS / "mini", dtype=torch.float32)
        self.mini = mini.requires_grad_(False).eval()
        self.projector = make_projector(self.language.config.hidden_size)
        self.adapters = add_adapters(self.language)

    def features(self, entities: list[str], draw: random.Random) -> torch.Tensor:
        """Return the vision tower's output for one picture of each entity, [n, 64, 128]."""
        generator = torch.Generator().manual_seed(draw.randrange(1 << 40))
        pictures = [self.gallery.sample(entity, draw) for entity in entities]
        pixels = self.gallery.batch(pictures, generator, mix=MIX)
        with torch.no_grad():
            return image_features(self.mini, pixels)

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return everything that is trained, by name."""
        named = {f"projector.{name}": value for name, value in self.projector.named_parameters()}
        for name, adapter in self.adapters.items():
            named |= {f"{name}.lora_A": adapter.A, f"{name}.lora_B": adapter.B}
        return named

    def run(self, stage: str, steps: int, optimizer, loss) -> None:
        """Run a stage from where it was saved; `loss(draw)` returns the loss and what to log."""
        path, done = self.out / f"{stage}-{self.seed}.pt", 0
        rates = [group["lr"] for group in optimizer.param_groups]
        if path.exists():
            state = torch.load(path, weights_only=True)
            if state["recipe"] != self.recipe(stage):
                raise SystemExit(f"--out {self.out} holds a run of another recipe: name an empty folder.")
            done = state["done"]
            self.restore(state["trained"])
            if done < steps:
                optimizer.load_state_dict(state["optimizer"])
        log, start = defaultdict(list), time.time()
        for step in range(done, steps):
            draw = random.Random(f"{self.seed} {stage} {step}")
            torch.manual_seed(draw.randrange(1 << 40))
            scale = min(1, (step + 1) / 20) * (FLOOR + (1 - FLOOR) * (0.5 + 0.5 * math.cos(math.pi * step / steps)))
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            optimizer.zero_grad()
            value, hits = loss(draw)
            value.backward()
            torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
            optimizer.step()
            log["loss"].append(value.item())
            for kind, hit in hits:
                log[kind].append(hit)
            if (step + 1) % LOG_EVERY == 0:
                pace = (time.time() - start) / LOG_EVERY
                means = "  ".join(f"{name} {sum(values) / len(values):.3f}" for name, values in log.items())
                print(f"{stage:6s} {step + 1:4d}/{steps}  {pace:5.2f} s/step  {means}", flush=True)
                log, start = defaultdict(list), time.time()
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
                state = {"done": step + 1, "recipe": self.recipe(stage), "optimizer": optimizer.state_dict(),
                         "trained": {name: value.detach() for name, value in self.parameters().items()}}
                write_atomically(path, lambda temporary, state=state: torch.save(state, temporary))

    def restore(self, trained: dict[str, torch.Tensor]) -> None:
        """Load what a stage has trained."""
        with torch.no_grad():
            for name, value in self.parameters().items():
                value.copy_(trained[name])

    def recipe(self, stage: str) -> str:
        """Return what the weights of a stage depend on besides the code."""
        settings = [self.seed, ALIGN_STEPS, ALIGN_PICTURES, ALIGN_RATE]
        if stage == "tune":
            known = hashlib.sha256((self.out / "known.json").read_bytes()).hexdigest()[:12]
            settings += [known, TUNE_STEPS, PICTURES, TEXTS, QUESTIONS, PROJECTOR_RATE, ADAPTER_RATE]
        return json.dumps(settings)

    def align(self) -> None:
        """Train the projector so that visual tokens lie near the embedding of the entity's name."""
        weight = self.language.get_input_embeddings().weight.float()
        names = [self.packer.encode(f" {entity.name}") for entity in self.world.entities.values()]
        means = torch.stack([weight[ids].mean(0) for ids in names])
        center = means.mean(0)
        offsets = means - center
        classes, size = F.normalize(offsets, dim=-1), weight.pow(2).mean().sqrt()

        def loss(draw):
            chosen = [draw.randrange(len(self.entities)) for _ in range(ALIGN_PICTURES)]
            target = torch.tensor(chosen)
            tokens = self.projector(self.features([self.entities[i] for i in chosen], draw))  # [n, 64, d]
            mean, some = tokens.mean(1), tokens[:, ::7]
            logits = F.normalize(mean - center, dim=-1) @ classes.t() / 0.05
            by_token = F.normalize(some - center, dim=-1) @ classes.t() / 0.05
            away = (mean - center - offsets[target]).pow(2).mean() / offsets.pow(2).mean()
            scale = (tokens.pow(2).mean().sqrt() / size - 1).pow(2)
            token_loss = F.cross_entropy(by_token.flatten(0, 1), target.repeat_interleave(some.shape[1]))
            total = F.cross_entropy(logits, target) + 0.3 * token_loss + away + 0.1 * scale
            return total, [("accuracy", hit) for hit in (logits.argmax(-1) == target).tolist()]

        optimizer = torch.optim.AdamW(self.projector.parameters(), lr=ALIGN_RATE, weight_decay=0.01)
        self.run("align", ALIGN_STEPS, optimizer, loss)

    def tune(self) -> None:
        """Train projector and adapters on the answers to questions."""
        questions = Questions.load(self.out)

        def loss(draw):
            entities = [draw.choice(self.entities) for _ in range(PICTURES)]
            pictures = self.projector(self.features(entities, draw))
            rows = [self.packer.row(questions.of_picture(entity, draw), i) for i, entity in enumerate(entities)]
            rows += [self.packer.row(questions.of_text(QUESTIONS, draw)) for _ in range(TEXTS)]
            logits, labels, where = logits_of(self.language, rows, pictures)
            right = right_answers(rows, logits, labels, where)
            hits = [(kind, hit) for row, hits in zip(rows, right, strict=True)
                    for kind, hit in zip(row.kinds, hits, strict=True)]
            return F.cross_entropy(logits, labels), hits

        adapters = [value for adapter in self.adapters.values() for value in (adapter.A, adapter.B)]
        groups = [{"params": list(self.projector.parameters()), "lr": PROJECTOR_RATE},
                  {"params": adapters, "lr": ADAPTER_RATE}]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0, betas=(0.9, 0.98), fused=True)
        self.run("tune", TUNE_STEPS, optimizer, loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder with known.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--stage", choices=("align", "tune"), default="tune", help="the last stage that is run")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    training = Training(args.out, args.seed)
    training.align()
    if args.stage == "tune":
        training.tune()


if __name__ == "__main__":
    main()
