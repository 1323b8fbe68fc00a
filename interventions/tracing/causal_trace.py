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

from ..engine.forward import in_session
from ..engine.runs import own_answer, request_of_both
from ..engine.windows import MASKABLE, check_packing, choice, default_method, window_spans
from ..errors import TraceError
from ..prompts.corruption import CorruptedPrompt
from ..prompts.prompt import Prompt, answer_tokens, resolve_positions
from ..prompts.tokens import MAX_ANSWER_TOKENS, check_length, check_token_ids
from ..testbed.answers import is_accepted
from ..text import quoted
from .restoration import restore_sites

KIND_NAMES = {"mlp": "MLP", "attention": "self-attention"}
KINDS = tuple(KIND_NAMES)
METHODS = ("packed", "rows", "plain")
ANSWER_SCORES = ("first_token", "sequence")


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

    answer: text or token ids; None = the model's own. It must be what the clean run says, token by token, unless
        require_top=False; the run may go on behind it. (In half precision a tie may break otherwise than in the run
        that an answer was read from: pass require_top=False with it.)
    window, window_rule: "centered" = exactly W layers around l as in ROME, "radius" = l - W .. l + W as in
        the released scripts (where W = 1 means one layer); both clipped at the ends.
    positions: clean positions or role names; None = all from the first corrupted token on (before it every
        effect is exactly 0, which is filled in without running anything).
    answer_score: probability of the answer's "first_token" (paper), which is the first with a visible character (blank
        ones before it are teacher-forced), or of all its tokens ("sequence").
    accepted, min_p_clean: texts of right answers (or one) in place of `answer`, and how probable the model's own must
        be; where that is, as a whole, none of them, or less probable, nothing more is run, and p_corrupted and restored
        are NaN.
    method: "packed" (fastest), "rows" (as exact in half precision as separate runs), "plain" (one whole
        forward a site: the reference); None = packed in float32, rows in half precision.
    max_packed_tokens: tokens of all segments or rows of a forward; None = by the device and its free memory.
    remote: False | True | "local"; None = as the model was loaded. One request a question, two with `accepted`.
    Raises TraceError, also for an answer that is not the model's; ModelError for remote; NDIFError.
    """
    spans = window_spans(window, window_rule, model.n_layers)
    kinds = choice("kinds", (kinds,) if isinstance(kinds, str) else tuple(kinds), KINDS)
    choice("answer_score", (answer_score,), ANSWER_SCORES)
    maskable = model.attention in MASKABLE
    method = method or default_method(model.dtype, maskable)
    choice("method", (method,), METHODS)
    if method == "packed" and not maskable:
        raise TraceError(
            f"method 'packed' needs attn_implementation {' or '.join(map(repr, MASKABLE))}, not {model.attention!r}: "
            "use method='rows'."
        )
    check_packing(max_packed_tokens)
    check_length(model, max(len(prompt), len(corrupted.input_ids)), max_answer_tokens)
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
    answer_ids, own = None, None
    if answer is not None:
        answer_ids = list(
            answer_tokens(model, prompt, answer) if isinstance(answer, str)
            else check_token_ids(model, "answer", answer, TraceError)
        )
        if not answer_ids:
            raise TraceError("answer holds no token: give a text or token ids, or leave it out for the model's own.")
    if accepted is not None:
        if answer is not None:
            raise TraceError("accepted judges the model's own answer, so answer must be left out: give one of the two.")
        own = own_answer(model, prompt, max_answer_tokens=max_answer_tokens, remote=remote)
        answer_ids = list(own.ids)
    correct = own is None or is_accepted(own.text, (accepted,) if isinstance(accepted, str) else accepted)
    if not correct:
        sites = []
    result = in_session(
        model.traced,
        restore_sites,
        request_of_both(model, prompt, corrupted) | {
            "kinds": kinds,
            "sites": sites,
            "answer_ids": answer_ids,
            "require_top": answer is not None and require_top,
            "min_p_clean": min_p_clean if correct else math.inf,
            "sequence": answer_score == "sequence",
            "max_answer_tokens": max_answer_tokens,
            "method": method,
            "max_packed_tokens": max_packed_tokens,
        },
        model.runs_on(remote),
    )
    if "said" in result:
        raise TraceError(
            f"answer {quoted(answer)} is not what the model answers, which is {model.decode(result['said'])!r}: leave "
            "answer out to trace that, or pass require_top=False."
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
