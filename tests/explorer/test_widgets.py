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
from interventions.explorer.widgets import ClickablePicture
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
def screen(model, bed):
    return Screen(Explorer(model, bed))


class Screen:
    """Finds widgets by their labels, and waits for what they start."""

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
        self.explorer.worker.wait(WAIT)

    @property
    def text(self):
        return " ".join(one.value for one in self.all(HTML))

    def picture(self, alt):
        [picture] = [one for one in self.all(ClickablePicture) if alt in one.alt]
        return picture

    def upload(self, name, content):
        [widget] = self.all(FileUpload)
        widget.value = ({"name": name, "type": "", "size": len(content), "content": memoryview(content),
                         "last_modified": datetime.now(UTC)},)


def png(side=50):
    file = io.BytesIO()
    Image.new("RGBA", (side, side), "red").save(file, "PNG")
    return file.getvalue()


def test_every_action(screen, bed):
    assert "Ready." in screen.text
    maps = screen.picture("maps of all sites")
    assert maps.png == b""
    screen.press("Trace")
    assert "Trace: done in" in screen.text
    assert "an accepted answer" in screen.text
    first, chosen = maps.png, screen.named("Restored site").value
    assert first.startswith(b"\x89PNG")
    screen.named("Restored site").value = ({"mlp", "attention"} - {chosen}).pop()
    screen.explorer.worker.wait(WAIT)
    assert maps.png != first
    screen.press("Best at the constraint")
    assert screen.named("Restored site").value == chosen

    screen.press("Show contributions")
    over = screen.picture("over the image")
    first = over.png
    screen.named("Layer").value = 2
    assert over.png not in (first, b"")

    screen.named("In layers").value = (1, 3)
    screen.named("Blocked flow").value = ("visual -> last",)
    screen.press("Block")
    assert "after, in layers 1 to 3" in screen.text

    assert screen.named("Make the edit").disabled
    screen.named("Target answer").value = bed.items[1].answers[0]
    screen.press("Make the edit")
    assert "Edit: done" in screen.text
    screen.named("Question", 1).value = "The capital of this country"
    screen.press("Ask both models")
    assert len(screen.explorer.exploration.answers) == 2
    screen.press("Undo")
    assert screen.explorer.exploration.edits == ()


def test_clicks_restore_sites(screen):
    screen.press("Trace")
    maps = screen.picture("maps of all sites")
    site_at, grid = screen.explorer._panels[0]._drawn.site_at, [i / 50 for i in range(50)]
    at = {site_at(x, y): (x, y) for x in grid for y in grid}
    clicked = max(at.keys() - {None})
    maps._handle_custom_msg(dict(zip("xy", at[clicked], strict=True)), [])
    screen.explorer.worker.wait(WAIT)
    site = screen.explorer.exploration.trace_result.example.site
    assert (site["kind"], site["position"], site["layer"]) == clicked
    assert screen.named("at token").value == site["position"]
    maps._handle_custom_msg({"x": 0.5, "y": 0}, [])  # no map there
    assert screen.explorer.worker.step is None


def test_what_cannot_be_run_cannot_be_pressed(screen):
    screen.named("Visual constraint").value = "that town"
    assert "Visual constraint &#x27;that town&#x27; is not in the question" in screen.text
    actions = ("Trace", "Show contributions", "Block")
    assert all(screen.named(name).disabled for name in actions)
    screen.press("Mark “this country”")
    assert not any(screen.named(name).disabled for name in actions)
    screen.named("replaced by").value = ""
    assert [screen.named(name).disabled for name in actions] == [True, False, False]
    screen.named("Corruption").value = "noise"
    assert not screen.named("Trace").disabled
    screen.named("Target answer").value = "Lima"
    screen.named("Edited layer").value = 10**6  # as many as there are layers but one
    assert screen.named("Edited layer").value == screen.explorer.exploration.model.n_layers - 2


def test_ones_own_image_and_question(screen):
    screen.upload("letter.png", b"Dear all")
    assert "&#x27;letter.png&#x27; cannot be used" in screen.text
    screen.upload("red.png", png())
    assert screen.explorer.exploration.draft.image.read_bytes() == png()
    screen.press("Clear the fields")
    assert "Write a question." in screen.text
    for name, text in (("Question", "The <b>king</b> of this country is"), ("Visual constraint", "this country"),
                       ("replaced by", "Sri Lanka")):
        screen.named(name).value = text
    assert "<b>king" not in screen.text
    screen.press("Trace")
    assert "the model says" in screen.text
    assert "accepted" not in screen.text
    screen.press("Next")
    assert screen.explorer.exploration.trace_result is None
    assert screen.picture("maps of all sites").png == b""
    [upload] = screen.all(FileUpload)
    assert upload.value == ()


def test_stop_and_errors(screen, monkeypatch):
    screen.named("Corruption").value = "standard"
    screen.named("Noise samples").value = 100
    screen.named("Trace").click()
    assert not screen.named("Stop").disabled
    assert all(one.disabled for one in screen.all(Button) if one.description in ("Trace", "Next", "Load", "Block"))
    screen.named("Stop").click()
    screen.explorer.worker.wait(WAIT)
    assert "Trace: stopped" in screen.text
    assert screen.explorer.exploration.trace_result is None
    screen.named("Model").value = "nowhere"
    screen.press("Load")
    assert "Model &#x27;nowhere&#x27; is unknown" in screen.text
    monkeypatch.setattr("interventions.explorer.exploration.attention_knockout", lambda *_, **__: 1 / 0)
    screen.press("Block")
    assert "This failed: ZeroDivisionError, division by zero." in screen.text
    assert isinstance(screen.explorer.worker.error, ZeroDivisionError)


def test_search(screen, bed):
    [search] = [one for one in screen.all() if "Search" in (getattr(one, "placeholder", "") or "")]
    search.value = bed.items[2].answers[0]
    assert bed.items[2].answers[0] in screen.named("Right answers").value
    search.value = "no such words"
    assert "none matches" in screen.text
    screen.press("Next")


def test_no_questions(model, bed):
    screen = Screen(Explorer(model, TestBed("empty", bed.directory, ())))
    assert "Write a question." in screen.text


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
