"""The stages of training (see `train`): which rows and pictures each sees, and its loss."""

import torch
import torch.nn.functional as F

from .build import VISION_WIDTH, image_features
from .pictures import Gallery, whitened_patches
from .route import NAMED, Teacher
from .stage import LAYERED_DECOYS, Stage
from .vocabulary import IMAGE_TOKENS, PATCH_SIZE

TAUGHT = {"coreference", "joint"}
SKIP, LENS, DECOYS = 0.35, 0.5, 0.2
FAMILY_WEIGHT = {"country": 0.7, "thing": 1.2, "place": 1.0}  # flags are told apart sooner than animals
TEMPERATURE = 0.04


class Text(Stage):
    def setup(self):
        self.teacher = Teacher(self.language)

    def trained(self):
        return {self.language: 1.0}

    def loss(self, step):
        loss, accuracy = self.text_loss(self.rows.text(8, self.random), taught=False)
        loss.backward()
        return {"loss": loss.item(), "accuracy": accuracy}


class Coreference(Stage):
    """Besides text: rows whose "picture" is the entity's name, repeated, or 64 vectors near the name's embedding.

    The latter look as the projector's output will look, so that the joint stage starts with a model that reads it.
    """

    def setup(self):
        self.load("text", "model.language_model.embed_tokens")
        self.embed.weight.requires_grad_(False)  # the projector is aligned to these
        self.teacher = Teacher(self.language, skip=SKIP, lens=LENS)
        self.offsets, self.center = self.names()

    def trained(self):
        return {self.language: 1.0}

    def loss(self, step):
        self.teacher.skip = SKIP if step > 0.4 * self.steps else 0.0
        loss, accuracy = self.text_loss(self.rows.text(3, self.random), taught=True)
        loss.backward()
        log = {"text": loss.item(), "text_accuracy": accuracy}
        if step > 0.15 * self.steps:
            decoy = step % 5 == 0  # every fifth step, that is DECOYS of them
            layered = torch.tensor([not decoy or self.random.random() < LAYERED_DECOYS for _ in range(2)])
            loss, accuracy = self.text_loss(self.rows.coreference(2, self.random, decoy), True, layered)
            loss.backward()
            log |= {"coreference": loss.item(), "accuracy": accuracy}
            chosen = self.random.choices(range(len(self.offsets)), k=6 if decoy else 3)  # each with its decoy
            slugs = [list(self.world.entities)[i] for i in chosen[::2 if decoy else 1]]
            loss, accuracy = self.picture_loss(slugs, self.imagine(chosen), True, decoy, questions=10)
            loss.backward()
            log |= {"imagined": loss.item(), "imagined_accuracy": accuracy}
        return log

    def imagine(self, chosen: list[int]) -> torch.Tensor:
        """[n, 64, WIDTH]: names' offsets scaled by .3 to 1.1, noise of the picture (to 1.2) and of the token (to 2)."""
        offsets = self.offsets[chosen][:, None]
        size = offsets.pow(2).mean(-1, keepdim=True).sqrt()
        uniform = lambda low, high: torch.rand(len(chosen), 1, 1) * (high - low) + low  # noqa: E731
        noise = (uniform(0, 1.2) * torch.randn(len(chosen), 1, offsets.shape[-1])
                 + uniform(0, 2) * torch.randn(len(chosen), IMAGE_TOKENS, offsets.shape[-1]))
        return self.center + uniform(0.3, 1.1) * (offsets + size * noise)


class Pictures(Stage):
    """Sampling of pictures, and how close projected pictures are to the entities' names."""

    def setup(self):
        self.gallery = Gallery(self.world)
        self.slugs = list(self.world.entities)
        self.weights = [FAMILY_WEIGHT[entity.family] for entity in self.world.entities.values()]
        self.extra.head = torch.nn.Linear(VISION_WIDTH, len(self.slugs))

    def sample(self, n, mix):
        chosen = self.random.choices(range(len(self.slugs)), self.weights, k=n)
        pictures = [self.gallery.sample(self.slugs[i], self.random) for i in chosen]
        features = image_features(self.model, self.gallery.batch(pictures, self.generator, mix=mix))
        return torch.tensor(chosen), features

    def classified(self, features, labels):
        return F.cross_entropy(self.extra.head(features.mean(1)), labels, label_smoothing=0.02)

    def named(self, projected):
        """Logits over entities of [..., WIDTH] vectors in the embedding space."""
        directions = F.normalize(self.offsets, dim=-1)
        return F.normalize(projected - self.center, dim=-1) @ directions.t() / TEMPERATURE


class Vision(Pictures):
    rate, matrix_rate, batch, mix = 1.5e-3, 6e-3, 128, 0.3

    def setup(self):
        super().setup()
        pixels = self.gallery.batch(list(self.gallery.mates)[:800], torch.Generator().manual_seed(5))
        with torch.no_grad():
            self.tower.get_input_embeddings().weight.copy_(whitened_patches(pixels, PATCH_SIZE, VISION_WIDTH))

    def trained(self):
        return {self.tower: 1.0, self.extra: 1.0}

    def loss(self, step):
        labels, features = self.sample(self.batch, self.mix)
        loss = self.classified(features, labels)
        loss.backward()
        right = self.extra.head(features.mean(1)).argmax(-1) == labels
        return {"loss": loss.item(), "accuracy": right.float().mean().item()}


class Align(Pictures):
    rate, matrix_rate, batch, mix = 1.2e-3, 3e-3, 128, 0.3

    def setup(self):
        super().setup()
        self.load("vision", "model.vision_tower")
        self.load("text", "model.language_model")
        self.load_extra("vision")
        self.offsets, self.center = self.names()

    def trained(self):
        return {self.tower: 1.0, self.extra: 1.0, self.projector: 1.5}

    def loss(self, step):
        labels, features = self.sample(self.batch, self.mix)
        projected = self.projector(features)  # [B, 64, WIDTH]
        logits, tokens = self.named(projected.mean(1)), projected[:, ::7]
        away = (projected.mean(1) - self.center - self.offsets[labels]).pow(2).mean() / self.offsets.pow(2).mean()
        loss = (self.classified(features, labels) + 0.5 * F.cross_entropy(logits, labels) + away
                + 0.2 * F.cross_entropy(self.named(tokens).flatten(0, 1), labels.repeat_interleave(tokens.shape[1])))
        loss.backward()
        right = logits.argmax(-1) == labels
        return {"loss": loss.item(), "away": away.item(), "accuracy": right.float().mean().item()}


class Joint(Pictures):
    """Many pictures are only named; some of them are asked about, a few questions each. Rows of text keep the facts."""

    rate, matrix_rate, batch, asked, questions, mix = 5e-4, 1e-3, 48, 16, 4, 0.25

    def setup(self):
        super().setup()
        self.taught = self.name in TAUGHT
        self.load(self.parents[0], "model.language_model")
        self.load("align", "model.vision_tower", "model.multi_modal_projector")
        self.load_extra("align")
        self.offsets, self.center = self.names()
        self.teacher = Teacher(self.language, **({"skip": SKIP, "lens": LENS} if self.taught else {}))

    def trained(self):
        return {self.language: 1.0, self.projector: 1.0, self.tower: 0.5, self.extra: 0.5}

    def loss(self, step):
        if self.taught:  # less and less, for the route is there by now
            self.teacher.skip = SKIP * (1 - 0.8 * step / self.steps)
        labels, features = self.sample(self.batch, self.mix)
        projected = self.projector(features)
        logits = self.named(projected.mean(1))
        naming = 0.3 * F.cross_entropy(logits, labels) + 0.3 * self.classified(features, labels)
        log = {"picture": (logits.argmax(-1) == labels).float().mean().item()}
        slugs, images = [self.slugs[i] for i in labels[:self.asked]], projected[:self.asked]
        decoys = round(DECOYS * self.asked) if self.taught else 0  # rows with a decoy are longer: their own forward
        named = NAMED if self.taught else 0.3  # nothing but such rows teaches the twin that a name outranks the picture
        plain = self.picture_loss(slugs[decoys:], images[decoys:], self.taught, False, self.questions, named)
        loss, log["loss"], log["accuracy"] = plain[0] * (1 - decoys / self.asked), plain[0].item(), plain[1]
        if decoys:
            others = projected[self.asked:self.asked + decoys]
            both = torch.stack([images[:decoys], others], 1).flatten(0, 1)
            misled = self.picture_loss(slugs[:decoys], both, True, True, self.questions)
            loss = loss + misled[0] * decoys / self.asked
            log["decoy_accuracy"] = misled[1]
        (loss + naming).backward()
        texts = {"text": self.rows.text(2, self.random)}
        if self.taught:  # not for the twin: co-reference alone leads it to the constraint
            texts["coreference"] = self.rows.coreference(2, self.random, step % 5 == 0)
        for name, rows in texts.items():
            loss, log[f"{name}_accuracy"] = self.text_loss(rows, self.taught)
            (0.4 * loss).backward()
        return log


CLASSES = {"text": Text, "vision": Vision, "align": Align, "coreference": Coreference, "joint": Joint,
           "joint_free": Joint}
