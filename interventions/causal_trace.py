"""MultiModalCausalTrace (paper, section 3): where in the model is the information stored that answers a
question?

Three runs: a clean one, one whose constraint is corrupted so that the answer is lost, and the corrupted one
with the clean output of one module kind at one token, over a window of layers, put back. The indirect
estimation effect of a site (token, layer) is P_restored - P_corrupted of the answer. What is computed where
is in `restoration.py`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from .corruption import CorruptedPrompt
from .forward import in_session
from .prompt import Prompt, resolve_positions
from .restoration import restore_sites
from .run_request import MAX_ANSWER_TOKENS, request_of_both

KIND_NAMES = {"mlp": "MLP", "attention": "self-attention"}
KINDS = tuple(KIND_NAMES)
METHODS = ("packed", "rows", "plain")
WINDOW_RULES = ("centered", "radius")
MASKABLE = ("sdpa", "eager")  # attention implementations that take a mask of one's own
ANSWER_SCORES = ("first_token", "sequence")


class TraceError(ValueError):
    """A trace that cannot be run as asked, in one sentence naming the parameter and the fix."""


@dataclass(frozen=True)
class CausalTrace:
    """P_restored of every site, and all that is needed to read it.

    restored: float32 [kinds, positions, layers]; NaN where a clean token has no corrupted counterpart.
    positions index the clean prompt (image expanded); tokens and roles are theirs. answer_ids is the whole
    answer, p_clean and p_corrupted are probabilities of what `answer_score` counts of it.
    """

    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    tokens: tuple[str, ...] = field(repr=False)
    roles: tuple[str, ...] = field(repr=False)
    window: int
    window_rule: str
    method: str
    answer_score: str
    answer_ids: tuple[int, ...]
    answer_text: str
    correct: bool
    p_clean: float
    p_corrupted: float
    restored: np.ndarray = field(repr=False)

    @property
    def effects(self) -> np.ndarray:
        """P_restored - P_corrupted [kinds, positions, layers]; exactly 0 before the first corrupted token."""
        return self.restored - np.float32(self.p_corrupted)

    def to_frame(self) -> pd.DataFrame:
        """Tidy: one row a site, in the order kind, position, layer."""
        index = np.indices(self.restored.shape).reshape(3, -1)
        kind, position, layer = (
            np.asarray(names)[i]
            for names, i in zip((self.kinds, self.positions, self.layers), index, strict=True)
        )
        return pd.DataFrame(
            {
                "kind": kind,
                "position": position,
                "token": np.asarray(self.tokens, dtype=object)[index[1]],
                "role": np.asarray(self.roles, dtype=object)[index[1]],
                "layer": layer,
                "p_restored": self.restored.ravel(),
                "effect": self.effects.ravel(),
                "p_clean": np.float32(self.p_clean),
                "p_corrupted": np.float32(self.p_corrupted),
            }
        )


def trace(
    model,
    prompt: Prompt,
    corrupted: CorruptedPrompt,
    *,
    answer: str | Iterable[int] | None = None,
    window: int = 3,
    window_rule: str = "centered",
    kinds=KINDS,
    positions=None,
    answer_score: str = "first_token",
    method: str | None = None,
    max_packed_tokens: int | None = None,
    require_top: bool = True,
    accepted=None,
    min_p_clean: float = 0.0,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
    remote: bool | str | None = None,
) -> CausalTrace:
    """Trace one question (paper, section 3.2).

    answer: text or token ids; None = the model's own. It must be what the clean run begins with, unless
        require_top=False.
    window, window_rule: "centered" = exactly W layers around l as in ROME, "radius" = l - W .. l + W as in
        the released scripts (where W = 1 means one layer); both clipped at the ends.
    positions: clean positions or role names; None = all from the first corrupted token on (before it every
        effect is exactly 0, which is filled in without running anything).
    answer_score: probability of the answer's "first_token" (paper) or of all its tokens ("sequence").
    accepted, min_p_clean: texts of right answers (or one), and how probable the answer must be; where the clean run
        begins with none of them, or is less sure, nothing more is run, and p_corrupted and restored are NaN.
    method: "packed" (fastest), "rows" (as exact in half precision as separate runs), "plain" (one whole
        forward a site: the reference); None = packed in float32, rows in half precision.
    max_packed_tokens: tokens of all segments or rows of a forward; None = by the device and its free memory.
    remote: False | True | "local"; None = as the model was loaded. One request a question.
    Raises TraceError, also for an answer that is not the model's; ModelError for remote; NDIFError.
    """
    spans = window_spans(window, window_rule, model.n_layers)
    kinds = _choice("kinds", (kinds,) if isinstance(kinds, str) else tuple(kinds), KINDS)
    _choice("answer_score", (answer_score,), ANSWER_SCORES)
    maskable = model.attention in MASKABLE
    method = method or default_method(model.dtype, maskable)
    _choice("method", (method,), METHODS)
    if method == "packed" and not maskable:
        raise TraceError(
            f"method 'packed' needs attn_implementation {' or '.join(map(repr, MASKABLE))}, not {model.attention!r}: "
            "use method='rows'."
        )
    check_packing(max_packed_tokens)
    first = corrupted.first_corrupted
    if positions is None:
        positions = tuple(range(first, len(prompt)))
    else:
        positions = resolve_positions(prompt, positions, TraceError)
    if not positions:
        raise TraceError("positions names no token of this prompt: give indices or roles that it has.")

    partners = {c: p for c, p in enumerate(corrupted.alignment) if c >= first and p is not None}
    cells, sites = [], []  # cell of the result -> site
    for k, kind in enumerate(kinds):
        for i, position in enumerate(positions):
            for layer, (start, stop) in enumerate(spans):
                if position in partners:
                    cells.append((k, i, layer))
                    sites.append(((kind,), ((position, partners[position]),), start, stop))
    given = answer_tokens(model, prompt, answer) if isinstance(answer, str) else answer
    answer_ids = None if given is None else list(given)
    begins = None
    if accepted is not None:
        accepted = (accepted,) if isinstance(accepted, str) else accepted
        begins = [answer_tokens(model, prompt, text)[0] for text in accepted]
    elif answer is not None and require_top:
        begins = answer_ids[:1]
    result = in_session(
        model.traced,
        restore_sites,
        request_of_both(model, prompt, corrupted) | {
            "kinds": kinds,
            "sites": sites,
            "answer_ids": answer_ids,
            "begins": begins,
            "min_p_clean": min_p_clean,
            "sequence": answer_score == "sequence",
            "max_answer_tokens": max_answer_tokens,
            "method": method,
            "max_packed_tokens": max_packed_tokens,
        },
        model.runs_on(remote),
    )
    correct = begins is None or result["top_id"] in begins
    if not correct and accepted is None:
        raise TraceError(
            f"answer {answer!r} is not what the model answers, which begins with "
            f"{model.tokenizer.decode([result['top_id']]).strip()!r} (p = {result['top_p']:.2f}): "
            "leave answer out to trace that, or pass require_top=False."
        )

    p_corrupted = result.get("p_corrupted", math.nan)
    restored = np.full((len(kinds), len(positions), len(spans)), np.float32(p_corrupted), dtype=np.float32)
    restored[:, [i for i, c in enumerate(positions) if c >= first and c not in partners]] = np.nan
    if cells and "restored" in result:
        restored[tuple(np.array(cells).T)] = result["restored"].numpy()
    return CausalTrace(
        kinds=kinds,
        layers=tuple(range(len(spans))),
        positions=positions,
        tokens=tuple(prompt.tokens[i] for i in positions),
        roles=tuple(prompt.roles[i] for i in positions),
        window=window,
        window_rule=window_rule,
        method=method,
        answer_score=answer_score,
        answer_ids=tuple(result["answer_ids"]),
        answer_text=model.decode(result["answer_ids"]),
        correct=correct,
        p_clean=result["p_clean"],
        p_corrupted=p_corrupted,
        restored=restored,
    )


def default_method(dtype: torch.dtype, maskable: bool = True) -> str:
    """Packed in float32, rows in half precision, which packing would round otherwise."""
    return "packed" if maskable and dtype == torch.float32 else "rows"


def window_spans(window: int, rule: str, n_layers: int) -> list[tuple[int, int]]:
    """The layers [start, stop) restored for each layer l, clipped at the model's ends."""
    if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window <= n_layers:
        raise TraceError(
            f"window must be a whole number from 1 to the model's {n_layers} layers, not {window!r}."
        )
    _choice("window_rule", (rule,), WINDOW_RULES)
    if rule == "centered":
        before, after = window // 2, window - window // 2
    else:
        before = 0 if window == 1 else window
        after = before + 1
    return [(max(0, layer - before), min(n_layers, layer + after)) for layer in range(n_layers)]


def check_packing(max_packed_tokens: int | None, error: type[ValueError] = TraceError) -> None:
    """Raises `error` for a number of tokens that no forward has."""
    if max_packed_tokens is not None and max_packed_tokens < 1:
        raise error(f"max_packed_tokens must be at least 1, not {max_packed_tokens}: leave it out to have it chosen.")


def _choice(name: str, values: tuple, allowed: tuple) -> tuple:
    unknown = [value for value in values if value not in allowed]
    if unknown or not values:
        what = f"unknown: {unknown[0]!r}" if unknown else "empty"
        raise TraceError(f"{name} is {what}; use {', '.join(map(repr, allowed))}.")
    return values


def answer_tokens(
    model, prompt: Prompt, answer: str, name: str = "answer", error: type[ValueError] = TraceError
) -> list[int]:
    """Tokens of an answer as they follow the prompt; the rest of the answer's text is the model's format, a
    space. Raises `error`, about the parameter `name`, if it has none of its own."""
    answer = answer.strip()
    prompt_ids = prompt.input_ids.tolist()
    ids = model.tokenize(f"{prompt.text} {answer}", len(prompt.visual))[0]
    if not answer or ids[: len(prompt_ids)] != prompt_ids or len(ids) == len(prompt_ids):
        raise error(f"{name} {answer!r} has no tokens of its own behind the prompt: give the words of the answer.")
    return ids[len(prompt_ids) :]
