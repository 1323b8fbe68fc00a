"""MultiModalCausalTrace (paper, section 3.2): which sites hold the information that answers a question?

A trace compares three runs. The clean run answers the question. In the corrupted run the constraint is replaced, so
that the answer is lost. In a restored run the clean output of one kind of module, at one token and over a window of
layers, is put back into the corrupted run. The indirect estimation effect of a site (token, layer) is
P_restored - P_corrupted of the answer.

In a *transplant* the output that is put in comes from the run of another prompt, the donor, for example the same words
about another image. If the donor's answer appears, the output carries the answer. If the own answer comes back all the
same, the output only takes the replacement away, and the model finds the answer elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from ..engine.forward import in_session
from ..engine.runs import own_answer, prompt_request, request_of_both
from ..engine.windows import MASKABLE, Execution, choice, default_method, window_spans
from ..errors import TraceError
from ..prompts.corruption import CorruptedPrompt
from ..prompts.prompt import Prompt, answer_token_ids, counterparts, resolve_positions
from ..prompts.tokens import MAX_ANSWER_TOKENS, check_length
from ..testbed.answers import is_accepted
from ..text import quoted
from .restoration import restore_sites

KINDS = ("mlp", "attention")  # restored by default
KIND_NAMES = {"mlp": "MLP", "attention": "self-attention", "hidden": "hidden state"}
METHODS = ("packed", "rows", "plain")
ANSWER_SCORES = ("first_token", "sequence")


@dataclass(frozen=True)
class Scoring:
    """How the answer of a trace is judged and scored.

    Attributes:
        answer_score: "first_token" (paper) is the probability of the answer's first token with a visible character;
            blank tokens before it are teacher-forced. "sequence" is the probability of all tokens.
        require_top: raise TraceError if the given answer is not what the clean run answers, token by token. Set it to
            False in half precision, where rounding can change a tie.
        accepted: right answers, one text or several. The model's own answer is traced only if it is one of them.
        min_p_clean: an answer that is less probable than this in the clean run is not traced.
        max_answer_tokens: length at which the model's own answer is cut.
    """

    answer_score: str = "first_token"
    require_top: bool = True
    accepted: str | Iterable[str] | None = None
    min_p_clean: float = 0.0
    max_answer_tokens: int = MAX_ANSWER_TOKENS

    def __post_init__(self) -> None:
        choice("answer_score", (self.answer_score,), ANSWER_SCORES)


@dataclass(frozen=True)
class CausalTrace:
    """The result of a trace.

    Attributes:
        kinds, layers, positions: the axes of `restored`; positions index the clean prompt with its image expanded.
        tokens, roles: text and role of each position.
        window, window_rule, method, answer_score: as computed.
        answer_ids, answer_text: the whole answer.
        correct: whether the answer is accepted, see `Scoring`.
        p_clean, p_corrupted: P(answer) in the clean and in the corrupted run.
        restored: P(answer) with each site restored, float32 [kinds, positions, layers]; NaN where a clean token has no
            counterpart in the corrupted or the donor's prompt. NaN everywhere, like p_corrupted, if `scoring` excludes
            the answer.
        p_donor: P(answer) in the donor's own run; NaN without a donor.
        other_answers: the same trace read for the other `answers`.
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
    p_donor: float = math.nan
    other_answers: tuple[CausalTrace, ...] = field(default=(), repr=False)

    @property
    def effects(self) -> np.ndarray:
        """P_restored - P_corrupted [kinds, positions, layers]; exactly 0 before the first corrupted token."""
        return self.restored - np.float32(self.p_corrupted)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per site, ordered by kind, position and layer.

        With a donor, there is a column p_donor. With several answers, there are rows for each, and a column answer.
        """
        if self.other_answers:
            answers = (replace(self, other_answers=()), *self.other_answers)
            frames = [one.to_frame().assign(answer=one.answer_text) for one in answers]
            return pd.concat(frames, ignore_index=True)
        donor = {} if math.isnan(self.p_donor) else {"p_donor": np.float32(self.p_donor)}
        kind, position, layer = np.indices(self.restored.shape).reshape(3, -1)
        return pd.DataFrame(
            {
                "kind": np.asarray(self.kinds)[kind],
                "position": np.asarray(self.positions)[position],
                "token": np.asarray(self.tokens, dtype=object)[position],
                "role": np.asarray(self.roles, dtype=object)[position],
                "layer": np.asarray(self.layers)[layer],
                "p_restored": self.restored.ravel(),
                "effect": self.effects.ravel(),
                "p_clean": np.float32(self.p_clean),
                "p_corrupted": np.float32(self.p_corrupted),
            } | donor
        )


def trace(
    model,
    prompt: Prompt,
    corrupted: CorruptedPrompt,
    *,
    window: int = 3,
    window_rule: str = "centered",
    kinds=KINDS,
    positions=None,
    answer: str | Iterable[int] | None = None,
    answers: Iterable[str | Iterable[int]] | None = None,
    donor: Prompt | None = None,
    scoring: Scoring | None = None,
    execution: Execution | None = None,
) -> CausalTrace:
    """Trace one question (paper, section 3.2).

    Args:
        model: a `VisionLanguageModel`.
        prompt: the clean question.
        corrupted: the corrupted question.
        window: layers restored together.
        window_rule: "centered" is exactly W layers around layer l, as in ROME. "radius" is l - W to l + W as in the
            released scripts, where W = 1 means one layer. Both are clipped at the ends of the model.
        kinds: what is restored: "mlp" and "attention" are outputs of these modules, "hidden" is the output of the whole
            layer, as the next one reads it. One or several.
        positions: positions or role names of the clean prompt. None: every position from the first corrupted token on;
            before it every effect is exactly 0, which is filled in without a run.
        answer: the answer, as text or token ids. None: the model's own.
        answers: in place of `answer`, several answers that are read together. `scoring` judges the first of them.
        donor: a prompt from whose run the restored outputs are taken, in place of the clean run. The corrupted run
            keeps the image of `prompt`. See `prompts.prompt.counterparts` for which tokens correspond.
        scoring: how the answer is judged and scored.
        execution: how and where the sites are computed. A trace is one request, two with `Scoring.accepted`.

    Returns:
        The probabilities of the answer at every site, and in `other_answers` those of the others.

    Raises:
        TraceError: an argument cannot be used, or the answer is not the model's.
        ModelError, NDIFError: the model cannot run remotely, or its server fails.
    """
    scoring, execution = scoring or Scoring(), execution or Execution()
    spans = window_spans(window, window_rule, model.n_layers)
    kinds = choice("kinds", (kinds,) if isinstance(kinds, str) else tuple(kinds), tuple(KIND_NAMES))
    method = _method(model, execution)
    longest = max(len(prompt), len(corrupted.input_ids), 0 if donor is None else len(donor))
    check_length(model, longest, scoring.max_answer_tokens)
    first = corrupted.first_corrupted
    if positions is None:
        positions = tuple(range(first, len(prompt)))
    else:
        positions = resolve_positions(prompt, positions, TraceError)
    if not positions:
        raise TraceError("positions names no token of this prompt: give indices or roles that it has.")

    if donor is not None:  # its outputs differ before the first corrupted token, too
        first = min(first, *positions)
    pairs = _pairs(prompt, corrupted, donor, [position for position in positions if position >= first])
    cells, sites = [], []  # cell of the result -> site
    for k, kind in enumerate(kinds):
        for i, position in enumerate(positions):
            for layer, (start, stop) in enumerate(spans):
                if position in pairs:
                    cells.append((k, i, layer))
                    sites.append(((kind,), (pairs[position],), start, stop))
    answer, *others = [answer] if answers is None else _several(answers, answer, scoring)
    others = [_answer(model, prompt, other, Scoring(), execution)[0] for other in others]
    answer_ids, correct = _answer(model, prompt, answer, scoring, execution)
    result = in_session(
        model.traced,
        restore_sites,
        request_of_both(model, prompt, corrupted, first) | {
            "kinds": kinds,
            "sites": sites if correct else [],
            "donor": None if donor is None else prompt_request(donor) | {
                "first": min(source for source, _ in pairs.values()), "image_layers": (),  # only the prompt's are added
            },
            "answer_ids": answer_ids,
            "other_answers": others,
            "require_top": answer is not None and scoring.require_top,
            "min_p_clean": scoring.min_p_clean if correct else math.inf,
            "sequence": scoring.answer_score == "sequence",
            "max_answer_tokens": scoring.max_answer_tokens,
            "method": method,
            "max_packed_tokens": execution.max_packed_tokens,
        },
        model.runs_on(execution.remote),
    )
    if "own_answer_ids" in result:
        raise TraceError(
            f"answer {quoted(answer)} is not what the model answers, which is "
            f"{model.decode(result['own_answer_ids'])!r}: leave answer out to trace that, or pass "
            "scoring=Scoring(require_top=False)."
        )

    results = []
    for one in (result, *result.get("other_answers", ({"answer_ids": other, "p_clean": math.nan} for other in others))):
        p_corrupted = one.get("p_corrupted", math.nan)
        restored = np.full((len(kinds), len(positions), len(spans)), np.float32(p_corrupted), dtype=np.float32)
        restored[:, [i for i, c in enumerate(positions) if c >= first and c not in pairs]] = np.nan
        if cells and "restored" in one:
            restored[tuple(np.array(cells).T)] = one["restored"].numpy()
        results.append(CausalTrace(
            kinds=kinds,
            layers=tuple(range(len(spans))),
            positions=positions,
            tokens=tuple(prompt.tokens[i] for i in positions),
            roles=tuple(prompt.roles[i] for i in positions),
            window=window,
            window_rule=window_rule,
            method=method,
            answer_score=scoring.answer_score,
            answer_ids=tuple(one["answer_ids"]),
            answer_text=model.decode(one["answer_ids"]),
            correct=correct,
            p_clean=one["p_clean"],
            p_corrupted=p_corrupted,
            restored=restored,
            p_donor=one.get("p_donor", math.nan),
        ))
    return replace(results[0], other_answers=tuple(results[1:]))


def _method(model, execution: Execution) -> str:
    maskable = model.attention in MASKABLE
    method = execution.method or default_method(model.dtype, maskable)
    choice("method", (method,), METHODS)
    if method == "packed" and not maskable:
        raise TraceError(
            f"method 'packed' needs attn_implementation {' or '.join(map(repr, MASKABLE))}, not {model.attention!r}: "
            "use method='rows'."
        )
    return method


def _pairs(prompt: Prompt, corrupted: CorruptedPrompt, donor: Prompt | None, positions) -> dict[int, tuple[int, int]]:
    """Return, by position of the clean prompt, where an output is read and where it is put in; none without both."""
    sources = range(len(prompt)) if donor is None else counterparts(prompt, donor)
    pairs = {c: (sources[c], corrupted.alignment[c]) for c in positions}
    pairs = {c: (source, p) for c, (source, p) in pairs.items() if source is not None and p is not None}
    if donor is not None and not pairs:
        raise TraceError("donor has no counterpart of any token at positions: give a donor with the same words there.")
    return pairs


def _several(answers, answer, scoring: Scoring) -> list:
    """Return the list of `answers`."""
    if answer is not None or scoring.accepted is not None:
        raise TraceError("answers takes the place of answer and of Scoring.accepted: give one of the three.")
    answers = [answers] if isinstance(answers, str) else list(answers)
    if not answers or None in answers:
        raise TraceError("answers must be texts or lists of token ids: leave it out for the model's own answer.")
    return answers


def _answer(model, prompt: Prompt, answer, scoring: Scoring, execution: Execution) -> tuple[list[int] | None, bool]:
    """Return the answer's tokens (None: the model's own, not known yet) and whether the answer is accepted."""
    accepted = scoring.accepted
    if accepted is not None:
        if answer is not None:
            raise TraceError("accepted judges the model's own answer, so answer must be left out: give one of the two.")
        own = own_answer(
            model, prompt, max_answer_tokens=scoring.max_answer_tokens, remote=execution.remote
        )
        return list(own.ids), is_accepted(own.text, (accepted,) if isinstance(accepted, str) else accepted)
    if answer is None:
        return None, True
    return answer_token_ids(model, prompt, answer, TraceError), True
