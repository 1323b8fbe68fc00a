"""Weights in four bits (bitsandbytes): the same interventions, on a model whose numbers are not its checkpoint's.

On `mini`: bitsandbytes packs weights for the CPU in blocks that the tests' tiny models are too narrow for.
"""

import numpy as np
import pytest

from interventions import (
    AttentionError,
    apply_edits,
    attention_contributions,
    edit_facts,
    load_model,
    load_testbed,
    merged,
)
from interventions.editing.fine_tuning import fine_tuned
from interventions.editing.study import edit_study
from interventions.engine.windows import Execution
from interventions.errors import EditError, NoGradientError
from interventions.studies.conditions import Conditions, clean_prompt, corrupted_prompt
from interventions.studies.loop import RunOptions
from interventions.tracing.causal_trace import Scoring, trace


@pytest.fixture(scope="module")
def item():
    return next(item for item in load_testbed() if item.id == "known/china/capital/twemoji")


@pytest.fixture(scope="module")
def models():
    return load_model("mini", dtype="nf4"), load_model("mini", dtype="bfloat16")


def test_it_is_another_model_and_says_so(models, item):
    quantized, plain = models
    assert (quantized.quantization, plain.quantization) == ("nf4", None)
    assert quantized.dtype == plain.dtype and quantized.revision == plain.revision
    assert quantized.key()["quantization"] == "nf4" and "quantization" not in plain.key()
    prompt = clean_prompt(plain, item, Conditions())
    logits = [model.module(input_ids=prompt.input_ids[None], **prompt.image_inputs).logits for model in models]
    assert (logits[0] - logits[1]).abs().max() > 0.1


def test_its_exact_mode_equals_separate_runs(models, item):
    quantized, _ = models
    prompt = clean_prompt(quantized, item, Conditions())
    corrupted = corrupted_prompt(quantized, item, prompt, Conditions())
    options = {"positions": ("constraint", "last"), "scoring": Scoring(max_answer_tokens=1)}
    methods = (Execution(method=method) for method in (None, "plain", "packed"))
    rows, plain, packed = (trace(quantized, prompt, corrupted, execution=method, **options) for method in methods)
    assert rows.method == "rows" and np.nanmax(np.abs(rows.effects)) > 0.5
    np.testing.assert_array_equal(rows.restored, plain.restored)
    assert not np.array_equal(packed.restored, plain.restored)


def test_what_needs_gradients_or_writes_into_the_weights_is_refused(models, item):
    quantized, plain = models
    prompt = clean_prompt(quantized, item, Conditions())
    with pytest.raises(EditError, match=r"nf4 weights, .*gives no gradients: .*dtype='bfloat16'") as refused:
        edit_facts(quantized, [(prompt, "Oslo")])
    assert not isinstance(refused.value, NoGradientError)
    with pytest.raises(AttentionError, match=r"has nf4 weights, .* need W_o itself: .*dtype='bfloat16'"):
        attention_contributions(quantized, prompt)
    made = edit_facts(plain, [(prompt, "Oslo")])
    with pytest.raises(EditError, match="whose weights differ from"):
        apply_edits(quantized, [made])
    with pytest.raises(EditError, match=r"has nf4 weights, .*dtype='bfloat16'"):
        merged(quantized)
    with pytest.raises(EditError, match=r"has nf4 weights, .*dtype='bfloat16'"), fine_tuned(quantized, prompt, "Oslo"):
        pass


def test_a_study_leaves_out_what_its_weights_cannot_do_and_says_why(models, item, tmp_path, capsys):
    quantized, _ = models
    asked = quantized, {"correct": [(item, "Oslo")]}, [item], []
    baselines = ["fine-tuning", "constrained fine-tuning"]
    study = edit_study(*asked, methods=["no edit", *baselines], run=RunOptions(results_dir=tmp_path))
    assert study.results["method"].tolist() == ["no edit"]
    told = "Left out: fine-tuning and constrained fine-tuning, which change weights: nf4 weights cannot be trained."
    assert told in capsys.readouterr().out
    with pytest.raises(EditError, match="methods has none that 'mini' allows: name one of 'no edit', 'MultEdit'"):
        edit_study(*asked, methods=baselines, run=RunOptions(results_dir=tmp_path))
    # On a CPU there are no gradients: that is not "MultEdit changes nothing".
    with pytest.raises(EditError, match="of which a CPU gives no gradients"):
        edit_study(*asked, methods=["MultEdit"], run=RunOptions(results_dir=tmp_path))
