"""The explorer's widgets without a browser, and its notebook through papermill. In a browser: tests/browser."""

import io
from datetime import UTC, datetime

import pytest
import tiny
from answering import questions, renamed, speaking
from ipywidgets import HTML, Button, FileUpload
from notebook_runs import execute, noise_on_stderr, outputs, shown
from PIL import Image

from interventions.errors import ParameterError
from interventions.explorer import Explorer
from interventions.explorer.parameters import ExploreParameters
from interventions.explorer.parts import ClickablePicture
from interventions.testbed import TestBed, load_testbed, save_testbed

WIDGET = "application/vnd.jupyter.widget-view+json"
WAIT = 60


@pytest.fixture(scope="module")
def model():
    return renamed(speaking(tiny.build()), revision="r1")


@pytest.fixture(scope="module")
def bed(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bed")
    save_testbed(questions(model, folder, n=4), folder)
    return load_testbed(folder)


@pytest.fixture
def desk(model, bed):
    return Desk(Explorer(model, bed))


class Desk:
    """Finds widgets by what stands on them, and waits for what they start."""

    def __init__(self, explorer):
        self.explorer = explorer

    def all(self, kind=object, widget=None):
        widget = widget or self.explorer
        found = [widget] if isinstance(widget, kind) else []
        return found + [one for child in getattr(widget, "children", ()) for one in self.all(kind, child)]

    def named(self, name, place=0):
        return [one for one in self.all() if getattr(one, "description", "") == name][place]

    def press(self, name):
        assert not self.named(name).disabled
        self.named(name).click()
        self.explorer.work.wait(WAIT)

    @property
    def text(self):
        return " ".join(one.value for one in self.all(HTML))

    def picture(self, told):
        [found] = [one for one in self.all(ClickablePicture) if told in one.told]
        return found

    def upload(self, name, content):
        [widget] = self.all(FileUpload)
        widget.value = ({"name": name, "type": "", "size": len(content), "content": memoryview(content),
                         "last_modified": datetime.now(UTC)},)


def png(side=50):
    file = io.BytesIO()
    Image.new("RGBA", (side, side), "red").save(file, "PNG")
    return file.getvalue()


def test_every_action(desk, bed):
    assert "Ready." in desk.text
    maps = desk.picture("maps of all sites")
    assert maps.png == b""
    desk.press("Trace")
    assert "Trace: done in" in desk.text
    assert "an accepted answer" in desk.text
    first, chosen = maps.png, desk.named("Restored site").value
    assert first.startswith(b"\x89PNG")
    desk.named("Restored site").value = ({"mlp", "attention"} - {chosen}).pop()
    desk.explorer.work.wait(WAIT)
    assert maps.png != first
    desk.press("Best at the constraint")
    assert desk.named("Restored site").value == chosen

    desk.press("Show contributions")
    over = desk.picture("over the image")
    first = over.png
    desk.named("Layer").value = 2
    assert over.png not in (first, b"")

    desk.named("In layers").value = (1, 3)
    desk.named("Blocked flow").value = ("visual -> last",)
    desk.press("Block")
    assert "after, in layers 1 to 3" in desk.text

    assert desk.named("Make the edit").disabled
    desk.named("Target answer").value = bed.items[1].answers[0]
    desk.press("Make the edit")
    assert "Edit: done" in desk.text
    desk.named("Question", 1).value = "The capital of this country"
    desk.press("Ask both models")
    assert len(desk.explorer.exploration.asked) == 2
    desk.press("Undo")
    assert desk.explorer.exploration.edits == ()


def test_clicks_restore_sites(desk):
    desk.press("Trace")
    maps = desk.picture("maps of all sites")
    site_at, grid = desk.explorer._panels[0]._drawn.site_at, [i / 50 for i in range(50)]
    at = {site_at(x, y): (x, y) for x in grid for y in grid}
    clicked = max(at.keys() - {None})
    maps._handle_custom_msg(dict(zip("xy", at[clicked], strict=True)), [])
    desk.explorer.work.wait(WAIT)
    site = desk.explorer.exploration.traced.example.site
    assert (site["kind"], site["position"], site["layer"]) == clicked
    assert desk.named("at token").value == site["position"]
    maps._handle_custom_msg({"x": 0.5, "y": 0}, [])  # no map there
    assert desk.explorer.work.step is None


def test_what_cannot_be_run_cannot_be_pressed(desk):
    desk.named("Visual constraint").value = "that town"
    assert "Visual constraint &#x27;that town&#x27; is not in the question" in desk.text
    actions = ("Trace", "Show contributions", "Block")
    assert all(desk.named(name).disabled for name in actions)
    desk.press("Mark “this country”")
    assert not any(desk.named(name).disabled for name in actions)
    desk.named("replaced by").value = ""
    assert [desk.named(name).disabled for name in actions] == [True, False, False]
    desk.named("Corruption").value = "noise"
    assert not desk.named("Trace").disabled
    desk.named("Target answer").value = "Lima"
    desk.named("Edited layer").value = 10**6  # as many as there are layers but one
    assert desk.named("Edited layer").value == desk.explorer.exploration.model.n_layers - 2


def test_ones_own_image_and_question(desk):
    desk.upload("letter.png", b"Dear all")
    assert "&#x27;letter.png&#x27; cannot be used" in desk.text
    desk.upload("red.png", png())
    assert desk.explorer.exploration.draft.image.read_bytes() == png()
    desk.press("Clear the fields")
    assert "Write a question." in desk.text
    for name, text in (("Question", "The <b>king</b> of this country is"), ("Visual constraint", "this country"),
                       ("replaced by", "Sri Lanka")):
        desk.named(name).value = text
    assert "<b>king" not in desk.text
    desk.press("Trace")
    assert "the model says" in desk.text
    assert "accepted" not in desk.text
    desk.press("Next")
    assert desk.explorer.exploration.traced is None
    assert desk.picture("maps of all sites").png == b""
    [upload] = desk.all(FileUpload)
    assert upload.value == ()


def test_stop_and_errors(desk, monkeypatch):
    desk.named("Corruption").value = "standard"
    desk.named("Draws of noise").value = 100
    desk.named("Trace").click()
    assert not desk.named("Stop").disabled
    assert all(one.disabled for one in desk.all(Button) if one.description in ("Trace", "Next", "Load", "Block"))
    desk.named("Stop").click()
    desk.explorer.work.wait(WAIT)
    assert "Trace: stopped" in desk.text
    assert desk.explorer.exploration.traced is None
    desk.named("Model").value = "nowhere"
    desk.press("Load")
    assert "Model &#x27;nowhere&#x27; is unknown" in desk.text
    monkeypatch.setattr("interventions.explorer.exploration.attention_knockout", lambda *_, **__: 1 / 0)
    desk.press("Block")
    assert "This failed: ZeroDivisionError, division by zero." in desk.text
    assert isinstance(desk.explorer.work.error, ZeroDivisionError)


def test_search(desk, bed):
    [search] = [one for one in desk.all() if "Search" in (getattr(one, "placeholder", "") or "")]
    search.value = bed.items[2].answers[0]
    assert bed.items[2].answers[0] in desk.named("Right answers").value
    search.value = "no such words"
    assert "none matches" in desk.text
    desk.press("Next")


def test_no_questions(model, bed):
    desk = Desk(Explorer(model, TestBed("empty", bed.directory, ())))
    assert "Write a question." in desk.text


def test_notebook_without_a_browser(saved_models, tmp_path):
    given = {"model": str(saved_models / "model"), "testbed": str(saved_models / "bed")}
    path = execute("explore", tmp_path, given)
    assert len(shown(path, WIDGET)) == 1
    assert "This explorer needs JupyterLab" in "".join(shown(path, "text/plain"))
    assert noise_on_stderr(path) == []
    assert not [output for output in outputs(path) if output.output_type == "error"]


@pytest.mark.parametrize(("changes", "says"), [
    ({"model": "nowhere"}, "Parameter 'model': model 'nowhere' is unknown"),
    ({"model": "mini-text"}, "reads text only"),
    ({"testbed": "nowhere"}, "Parameter 'testbed'"),
])
def test_what_the_explorer_cannot_load(changes, says):
    with pytest.raises(ParameterError, match=says):
        ExploreParameters(**changes).load()
