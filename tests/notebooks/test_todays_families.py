"""All figures run on Qwen2.5-VL, whose images have positions in three dimensions, and on Gemma 3."""

from dataclasses import replace

import papermill
import pytest
import tiny_vlms
from answering import questions, speaking
from notebook_runs import PARTS, execute, parameters, said

from interventions.models.model import VisionLanguageModel
from interventions.reports.record import read_record
from interventions.testbed import save_testbed

MODELS = {"qwen2_5_vl": ("qwen2", 32), "gemma3": ("gemma3_text", 0)}  # the text-only counterpart, and the image's side
SMALL = {"windows": "1,2", "shown": "1,2"}
FIGURES = {
    "table1_testbed": {}, "fig1_windows": SMALL, "fig2_example": {}, "fig3_trace": {},
    "fig4_constraints": {"windows": "1"}, "fig5_attention": {}, "fig6_editing": {"kept": "1,2", "unrelated": 2},
    "fig7_standard": {"noise_samples": 2},
    "fig8_questions": {}, "fig14_layers": {"limit": 1, "unrelated": 2}, "fig15_examples": {}, "fig16_contributions": {},
    "fig17_failure": {}, "fig18_inserted": {"unrelated": 2}, "precision_modes": {"dtypes": "bfloat16"},
}


@pytest.fixture(scope="module", params=MODELS)
def family(request, tmp_path_factory):
    """A folder with `model`, its text-only counterpart `text` and the test bed `bed`, and the side of its images."""
    root, (counterpart, side) = tmp_path_factory.mktemp(request.param), MODELS[request.param]
    module, processor, prompt = tiny_vlms.build_vlm(request.param)
    model = speaking(VisionLanguageModel.from_module(module, processor, prompt=prompt, image_side=side))
    module, words, prompt = tiny_vlms.build_text(counterpart)
    text = speaking(VisionLanguageModel.from_module(module, words, prompt=prompt))
    for name, saved in (("model", model), ("text", text)):
        saved.module.save_pretrained(root / name)
        saved.processor.save_pretrained(root / name)
    items = questions(model, root / "bed", n=9, parts=PARTS)
    wrong = [
        replace(item, id=f"{item.id}/{split}", answers=("Zanzibar",), split=split)
        for item in items for split in ("", "never")
    ]
    items = [replace(item, answers=(*item.answers, said(text, item))) for item in items]
    save_testbed([*items, *wrong], root / "bed")
    return root, side


@pytest.mark.parametrize("notebook", FIGURES)
def test_a_figure_runs(family, notebook, tmp_path):
    root, side = family
    given = parameters(root, tmp_path, limit=2, min_p_clean=0.0, image_side=side, text_model=str(root / "text"))
    known = {*papermill.inspect_notebook(f"notebooks/{notebook}.ipynb")}
    given = {name: value for name, value in given.items() if name in known} | FIGURES[notebook]
    if (root.name[:6], notebook) == ("gemma3", "fig7_standard"):  # its noise is at every token, those of the image too
        with pytest.raises(papermill.PapermillExecutionError, match="tokens of an image see each other both ways"):
            execute(notebook, tmp_path, given)
        return
    record = read_record(execute(notebook, tmp_path, given))
    assert record["parameters"]["model"] == str(root / "model") and record["claims"] is not None
