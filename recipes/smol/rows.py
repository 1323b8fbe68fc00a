"""Training rows: questions behind one picture, or questions alone, packed so that no question sees another.

    [USER: ][64 visual tokens][\\nquestion ASSISTANT:][ answer<end>][\\nquestion ASSISTANT:][ answer<end>] ...

Every question continues the positions of the picture, so each is computed as if it stood alone behind it.
"""

from dataclasses import dataclass, field

import torch

from interventions.models.families import IMAGE, VICUNA

IGNORE = -100
SHARED, PADDING = 0, -1  # groups of tokens; questions have 1, 2, ...
OPENING, ENDING = VICUNA.split(IMAGE)  # what stands before and after the picture


@dataclass
class Row:
    """One row of a batch.

    Attributes:
        picture: index of the picture in the batch's features; None for a row of text.
        ids: token ids; `IGNORE` stands for a visual token.
        positions, groups: of each token.
        labels: the token that follows, where it belongs to an answer, else `IGNORE`.
        kinds: what each question trains ("name", "fact", "named", "text"), for the log.
    """

    picture: int | None = None
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)


class Packer:
    """Make rows with a tokenizer; `visual_tokens` is the length of a picture."""

    def __init__(self, tokenizer, visual_tokens: int):
        self.tokenizer, self.visual_tokens = tokenizer, visual_tokens

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def row(self, questions: list[tuple[str, str, str]], picture: int | None = None) -> Row:
        """Return a row of (kind, question, answer) behind a picture, or without one."""
        row = Row(picture)
        if picture is not None:
            row.ids = self.encode(OPENING) + [IGNORE] * self.visual_tokens
        shared = len(row.ids)
        row.positions, row.groups, row.labels = list(range(shared)), [SHARED] * shared, [IGNORE] * shared
        ending = ENDING if picture is not None else OPENING + ENDING
        for group, (kind, question, answer) in enumerate(questions, start=1):
            asked = self.encode(ending.format(question=question))
            answered = [*self.encode(f" {answer}"), self.tokenizer.eos_token_id]
            row.kinds.append(kind)
            row.labels += [IGNORE] * (len(asked) - 1) + answered + [IGNORE]
            row.ids += asked + answered
            row.positions += range(shared, shared + len(asked) + len(answered))
            row.groups += [group] * (len(asked) + len(answered))
        return row


def logits_of(language_model, rows: list[Row], pictures: torch.Tensor):
    """Run the rows as one batch.

    Args:
        language_model: a `LlamaForCausalLM`.
        rows: the rows.
        pictures: projected features [n, visual tokens, d].

    Returns:
        logits [m, V] in float32 and labels [m] at the m tokens that predict an answer's token, and the index [m, 2]
        (row, token) of each.
    """
    embed = language_model.get_input_embeddings()
    longest = max(len(row.ids) for row in rows)

    def padded(name: str, value: int) -> torch.Tensor:
        return torch.tensor([getattr(row, name) + [value] * (longest - len(row.ids)) for row in rows])

    ids, groups, labels = padded("ids", 0), padded("groups", PADDING), padded("labels", IGNORE)
    visual = ids == IGNORE
    inputs = embed(ids.masked_fill(visual, 0))
    chosen = [row.picture for row in rows if row.picture is not None]
    if chosen:
        inputs = inputs.masked_scatter(visual[..., None], pictures[chosen].to(inputs.dtype))
    order = torch.arange(longest)
    seen = (groups[:, None, :] == SHARED) | (groups[:, None, :] == groups[:, :, None])
    seen &= order[None, :] <= order[:, None]
    seen |= torch.eye(longest, dtype=torch.bool)  # a row of a mask must not be empty
    mask = torch.zeros(seen.shape, dtype=inputs.dtype).masked_fill(~seen, torch.finfo(inputs.dtype).min)
    hidden = language_model.model(
        inputs_embeds=inputs, attention_mask=mask[:, None], position_ids=padded("positions", 0), use_cache=False
    ).last_hidden_state
    asked = labels != IGNORE
    return language_model.lm_head(hidden[asked]).float(), labels[asked], asked.nonzero()


def right_answers(rows: list[Row], logits, labels, where) -> list[list[bool]]:
    """Return, for each question of each row, whether every token of its answer (and its end) is the likeliest."""
    right = [[True] * len(row.kinds) for row in rows]
    for hit, (row, token) in zip((logits.argmax(-1) == labels).tolist(), where.tolist(), strict=True):
        right[row][rows[row].groups[token] - 1] &= hit
    return right
