"""Train the embedded models: `python -m interventions.mini.train --out DIR [--seed 0] [--jobs 2]`.

Seven stages, each a process of its own; stages that do not depend on each other run at the same time, one thread each:

    vision, text -> align
    text -> coreference;  coreference, align -> joint        -> mini
    text -> text_long;    text_long, align   -> joint_free   -> mini-free
                          text_long                          -> mini-text

  text         a text-only LM on all facts but the never-trained ones, until its embeddings are good; they stay
  text_long    the same LM, trained until it knows the facts
  vision       the vision tower classifies the entities
  align        tower and projector against the LM's embeddings of the entities' names
  coreference  a new LM on "Peru\\n ... this country" and text, along the taught route (see `route`)
  joint        everything together, along the taught route, from coreference + align
  joint_free   the same data without any teaching, from text_long + align

A stage saves its state every few hundred steps and continues from it when it is started again; every step draws from a
seed of its own, so that an interrupted run and an unbroken one see the same data.
"""

import argparse
import math
import random
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from .build import VISION_WIDTH, build, image_features, save_pretrained, text_only
from .card import write_card
from .evaluate import evaluate, print_table
from .pictures import Gallery, whitened_patches
from .route import Questions, Rows, Teacher
from .vocabulary import IMAGE, PATCH_SIZE, train_tokenizer
from .world import load_world

# stage -> (what it starts from, steps)
STAGES = {"vision": ((), 2200), "text": ((), 850), "coreference": (("text",), 1500),
          "align": (("text", "vision"), 1500), "text_long": (("text",), 900),
          "joint": (("coreference", "align"), 2000), "joint_free": (("text_long", "align"), 2000)}
TAUGHT = {"coreference", "joint"}
SKIP, LENS, DECOYS, LAYERED_DECOYS = 0.35, 0.5, 0.2, 0.5
FAMILY_WEIGHT = {"country": 0.7, "thing": 1.2, "place": 1.0}  # flags are told apart sooner than animals
TEMPERATURE = 0.04
SAVE_EVERY = 200


class Stage:
    """What all stages share: the model, the data, one optimiser, `loss(step)` of the subclass."""

    rate = 1e-3
    floor = 0.03  # the last step's learning rate relative to the first's

    def __init__(self, name: str, out: Path, seed: int):
        self.name, self.out, self.seed = name, out, seed
        self.parents, self.steps = STAGES[name]
        self.world = load_world()
        self.tokenizer = train_tokenizer(self.world)
        self.rows = Rows(Questions(self.world, self.tokenizer))
        torch.manual_seed(seed)
        self.model = build(len(self.tokenizer))
        self.language, self.embed = self.model.model.language_model, self.model.get_input_embeddings()
        self.extra = torch.nn.Module()  # parameters of this stage only
        self.setup()
        self.optimizer = torch.optim.AdamW(self.groups(), lr=self.rate, weight_decay=0.05, betas=(0.9, 0.98))
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]

    def load(self, parent: str, *prefixes: str) -> None:
        state = torch.load(self.out / f"{parent}.pt", weights_only=True)["model"]
        self.model.load_state_dict({k: v for k, v in state.items() if k.startswith(prefixes)}, strict=False)

    def run(self) -> None:
        done, log, start = self._resume(), {}, time.time()
        first = done
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for step in range(done, self.steps):
            torch.manual_seed(hash((self.seed, step)))
            self.random = random.Random(f"{self.seed} {self.name} {step}")
            self.generator = torch.Generator().manual_seed(self.random.randrange(1 << 40))
            scale = min(1, (step + 1) / 60) * (self.floor + (1 - self.floor) * self.decay(step / self.steps))
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * scale
            self.optimizer.zero_grad()
            for name, value in self.loss(step).items():
                log.setdefault(name, []).append(value)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
            if (step + 1) % 50 == 0:
                pace = (time.time() - start) / (step + 1 - first)
                means = "  ".join(f"{name} {sum(values) / len(values):.3f}" for name, values in log.items())
                print(f"{self.name:12s} {step + 1:5d}/{self.steps}  {pace * 1000:4.0f} ms/step  {means}", flush=True)
                log = {}
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == self.steps:
                self._save(step + 1)

    def decay(self, progress: float) -> float:
        return 0.5 + 0.5 * math.cos(math.pi * progress)

    def _save(self, done: int) -> None:
        path = self.out / f"{self.name}.pt"
        state = {"model": self.model.state_dict(), "extra": self.extra.state_dict(), "done": done,
                 "recipe": recipe(self.name, self.seed),
                 "optimizer": self.optimizer.state_dict() if done < self.steps else None}
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def _resume(self) -> int:
        path = self.out / f"{self.name}.pt"
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True)
        if state["recipe"] != recipe(self.name, self.seed):
            raise SystemExit(f"--out {self.out} holds {self.name!r} of another seed or recipe: give an empty folder.")
        self.model.load_state_dict(state["model"])
        self.extra.load_state_dict(state["extra"])
        if state["optimizer"]:
            self.optimizer.load_state_dict(state["optimizer"])
        return state["done"]


class Text(Stage):
    rate = 2e-3

    def setup(self):
        self.teacher = Teacher(self.language)

    def groups(self):
        return [{"params": list(self.language.parameters())}]

    def loss(self, step):
        never = torch.zeros(8, dtype=torch.bool)
        loss, accuracy = self.teacher.loss(self.rows.text(8, self.random), never, never, self.embed, self.model.lm_head)
        loss.backward()
        return {"loss": loss.item(), "accuracy": accuracy}


class TextLong(Text):
    rate = 1.5e-3

    def setup(self):
        super().setup()
        self.load("text", "model.language_model")


class Pictures(Stage):
    """Sampling of pictures, and how close projected pictures are to the entities' names."""

    def setup(self):
        self.gallery = Gallery(self.world)
        self.slugs = list(self.world.entities)
        self.weights = [FAMILY_WEIGHT[entity.family] for entity in self.world.entities.values()]
        self.extra.head = torch.nn.Linear(VISION_WIDTH, len(self.slugs))

    def name_embeddings(self):
        """Mean embedding of each name, and the same centred and normalised (uncentred they are nearly collinear)."""
        names = self.rows.questions.names
        with torch.no_grad():
            means = torch.stack([self.embed.weight[torch.tensor(names[slug])].mean(0) for slug in self.slugs])
        return means, means.mean(0), F.normalize(means - means.mean(0), dim=-1)

    def sample(self, n, mix):
        chosen = self.random.choices(range(len(self.slugs)), self.weights, k=n)
        pictures = [self.gallery.sample(self.slugs[i], self.random) for i in chosen]
        features = image_features(self.model, self.gallery.batch(pictures, self.generator, mix=mix))
        return torch.tensor(chosen), features

    def named(self, projected):
        """Logits over entities of [..., WIDTH] vectors in the embedding space."""
        return F.normalize(projected - self.centre, dim=-1) @ self.directions.t() / TEMPERATURE


class Vision(Pictures):
    rate, batch, mix = 1.5e-3, 128, 0.3

    def setup(self):
        super().setup()
        pixels = self.gallery.batch(list(self.gallery.mates)[:800], torch.Generator().manual_seed(5))
        patch_embedding = self.model.model.vision_tower.get_input_embeddings()
        with torch.no_grad():
            patch_embedding.weight.copy_(whitened_patches(pixels, PATCH_SIZE, VISION_WIDTH))

    def groups(self):
        return [{"params": [*self.model.model.vision_tower.parameters(), *self.extra.parameters()]}]

    def loss(self, step):
        labels, features = self.sample(self.batch, self.mix)
        logits = self.extra.head(features.mean(1))
        loss = F.cross_entropy(logits, labels, label_smoothing=0.02)
        loss.backward()
        return {"loss": loss.item(), "accuracy": (logits.argmax(-1) == labels).float().mean().item()}


class Align(Pictures):
    rate, batch, mix = 1.2e-3, 128, 0.3

    def setup(self):
        super().setup()
        self.load("vision", "model.vision_tower")
        self.load("text", "model.language_model")
        self.extra.load_state_dict(torch.load(self.out / "vision.pt", weights_only=True)["extra"])
        self.targets, self.centre, self.directions = self.name_embeddings()

    def groups(self):
        tower = [*self.model.model.vision_tower.parameters(), *self.extra.parameters()]
        return [{"params": tower}, {"params": list(self.model.model.multi_modal_projector.parameters()), "lr": 2e-3}]

    def loss(self, step):
        labels, features = self.sample(self.batch, self.mix)
        projected = self.model.model.multi_modal_projector(features)  # [B, 64, WIDTH]
        logits = self.named(projected.mean(1))
        tokens = projected[:, :: 7]
        loss = (F.cross_entropy(self.extra.head(features.mean(1)), labels, label_smoothing=0.02)
                + 0.5 * F.cross_entropy(logits, labels)
                + 0.2 * F.cross_entropy(self.named(tokens).flatten(0, 1), labels.repeat_interleave(tokens.shape[1]))
                + 0.3 * (projected.mean(1) - self.targets[labels]).pow(2).mean() / self.targets.pow(2).mean())
        loss.backward()
        return {"loss": loss.item(), "accuracy": (logits.argmax(-1) == labels).float().mean().item()}


class Coreference(Stage):
    rate = 2.5e-3

    def setup(self):
        self.load("text", "model.language_model.embed_tokens")
        self.embed.weight.requires_grad_(False)  # the projector is aligned to these
        self.teacher = Teacher(self.language, skip=SKIP, lens=LENS)

    def groups(self):
        return [{"params": [p for p in self.language.parameters() if p.requires_grad]}]

    def loss(self, step):
        self.teacher.skip = SKIP if step > 0.5 * self.steps else 0.0
        always = torch.ones(4, dtype=torch.bool)
        rows, head = self.rows.text(4, self.random), self.model.lm_head
        loss, accuracy = self.teacher.loss(rows, always, always, self.embed, head)
        loss.backward()
        log = {"text": loss.item(), "text_accuracy": accuracy}
        if step > 0.15 * self.steps:
            decoy = step % 5 == 0  # every fifth step, that is DECOYS of them
            layered = torch.tensor([not decoy or self.random.random() < LAYERED_DECOYS for _ in range(4)])
            rows = self.rows.coreference(4, self.random, decoy)
            loss, accuracy = self.teacher.loss(rows, always, layered, self.embed, head)
            loss.backward()
            log |= {"coreference": loss.item(), "accuracy": accuracy}
        return log


class Joint(Pictures):
    """Pictures with few questions each, and many questions as text: a text row asks ten times more for its tokens,
    and without enough of them the facts are forgotten while the pictures are learnt."""

    rate, batch, mix, questions = 5e-4, 24, 0.25, 2

    def setup(self):
        super().setup()
        self.taught = self.name in TAUGHT
        self.load(self.parents[0], "model.language_model")
        self.load("align", "model.vision_tower", "model.multi_modal_projector")
        _, self.centre, self.directions = self.name_embeddings()
        self.teacher = Teacher(self.language, **({"skip": SKIP, "lens": LENS} if self.taught else {}))

    def groups(self):
        return [{"params": list(self.language.parameters())},
                {"params": list(self.model.model.multi_modal_projector.parameters()), "lr": self.rate / 2},
                {"params": list(self.model.model.vision_tower.parameters()), "lr": self.rate / 4}]

    def loss(self, step):
        if self.taught:  # less and less, for the route is there by now
            self.teacher.skip = SKIP * (1 - 0.8 * step / self.steps)
        labels, features = self.sample(self.batch, self.mix)
        projected = self.model.model.multi_modal_projector(features)
        aux = self.named(projected.mean(1))
        order = self.random.sample(range(self.batch), self.batch)
        plain, decoys = order, []
        if self.taught:  # rows with a decoy are longer: a forward of their own
            cut = round(DECOYS * self.batch)
            plain, decoys = order[cut:], order[:cut]
        losses, accuracy = self.rows_loss(plain, labels, projected, decoy=False)
        losses = losses * len(plain) / self.batch
        if decoys:
            losses = losses + self.rows_loss(decoys, labels, projected, decoy=True)[0] * len(decoys) / self.batch
        (losses + 0.5 * F.cross_entropy(aux, labels)).backward()
        log = {"loss": losses.item(), "accuracy": accuracy, "picture": (aux.argmax(-1) == labels).float().mean().item()}
        texts = {"text": self.rows.text(3, self.random)}
        if self.taught:  # not for the twin: co-reference alone leads it to the constraint
            texts["coreference"] = self.rows.coreference(3, self.random, step % 5 == 0)
        for name, rows in texts.items():
            flags = torch.full((3,), self.taught)
            loss, log[f"{name}_accuracy"] = self.teacher.loss(rows, flags, flags, self.embed, self.model.lm_head)
            (0.5 * loss).backward()
        return log

    def rows_loss(self, chosen, labels, projected, decoy):
        """Loss and accuracy of the rows of some of the step's pictures, with another picture as decoy or without."""
        rows = self.rows.pictures([self.slugs[labels[i]] for i in chosen], self.random, decoy, self.questions)
        images = torch.cat([projected[[i, self.random.randrange(self.batch)]] if decoy else projected[[i]]
                            for i in chosen])

        def embed(ids):
            embedded = self.embed(ids)
            return embedded.masked_scatter((ids == IMAGE)[..., None], images)

        taught = torch.full((len(chosen),), self.taught)
        layered = torch.tensor([self.random.random() < LAYERED_DECOYS for _ in chosen]) if decoy else taught
        return self.teacher.loss(rows, taught, layered, embed, self.model.lm_head)


CLASSES = {"text": Text, "text_long": TextLong, "vision": Vision, "align": Align, "coreference": Coreference,
           "joint": Joint, "joint_free": Joint}


def recipe(stage: str, seed: int) -> str:
    """What a stage's weights depend on besides the code: the seed, and the steps of the stage and its ancestors."""
    parents, steps = STAGES[stage]
    return " ".join([f"{stage}:{steps}:{seed}", *(recipe(parent, seed) for parent in parents)])


def finished(out: Path, stage: str, seed: int) -> bool:
    path = out / f"{stage}.pt"
    if not path.exists():
        return False
    state = torch.load(path, weights_only=True)
    return state["done"] == STAGES[stage][1] and state["recipe"] == recipe(stage, seed)


def run_stages(out: Path, seed: int, jobs: int) -> None:
    """Start every stage whose parents are done, at most `jobs` at a time, each with its share of the cores."""
    threads = str(max(1, torch.get_num_threads() // jobs))
    running: dict[str, subprocess.Popen] = {}
    done = {stage for stage in STAGES if finished(out, stage, seed)}
    while len(done) < len(STAGES):
        for stage, (parents, _) in STAGES.items():
            if stage not in done and stage not in running and len(running) < jobs and done.issuperset(parents):
                running[stage] = subprocess.Popen([sys.executable, "-m", __spec__.name, "--out", str(out), "--seed",
                                                   str(seed), "--stage", stage, "--threads", threads])
        time.sleep(1)
        for stage, process in list(running.items()):
            if process.poll() is not None:
                del running[stage]
                if process.returncode:
                    for other in running.values():
                        other.terminate()
                    raise SystemExit(f"Stage {stage} failed (exit code {process.returncode}): start again to resume.")
                done.add(stage)


def export(out: Path, seed: int) -> None:
    """Measure the three models, write their checkpoints and the model card."""
    tokenizer = train_tokenizer(load_world())
    for name, stage in {"mini": "joint", "mini-free": "joint_free", "mini-text": "text_long"}.items():
        model = build(len(tokenizer))
        model.load_state_dict(torch.load(out / f"{stage}.pt", weights_only=True)["model"])
        model.to(torch.bfloat16).float()  # measured as it ships
        table = evaluate(model, tokenizer, text=name == "mini-text")
        print_table(name, table)
        note = {"seed": seed, "steps": {stage: steps for stage, (_, steps) in STAGES.items()}, "accuracy": table}
        save_pretrained(text_only(model) if name == "mini-text" else model, tokenizer, out / name, note)
    write_card(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="stages at a time")
    parser.add_argument("--stage", choices=STAGES, help="run one stage only (its parents must be done)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    if args.stage:
        CLASSES[args.stage](args.stage, args.out, args.seed).run()
    else:
        run_stages(args.out, args.seed, args.jobs)
        export(args.out, args.seed)


if __name__ == "__main__":
    main()
