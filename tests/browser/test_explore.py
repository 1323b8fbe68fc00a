"""notebooks/explore.ipynb as a person uses it: every action, a question of one's own, Stop in a long trace."""

import re
import time

import papermill
import pytest
from notebook_runs import NOTEBOOKS
from PIL import Image
from playwright.sync_api import expect

from interventions.testbed import load_testbed

DONE = 30_000  # milliseconds for what takes a second or two on an idle machine


class Desk:
    """The notebook, opened and run."""

    def __init__(self, browser, lab):
        papermill.execute_notebook(
            NOTEBOOKS / "explore.ipynb", lab.directory / "explore.ipynb", prepare_only=True, progress_bar=False)
        self.page = browser.new_page(viewport={"width": 1200, "height": 1250})
        self.page.goto(f"{lab.address}/lab/tree/explore.ipynb?token={lab.token}&reset")
        expect(self.page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=60_000)
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_text("Run All Cells", exact=True).click()
        self.explorer = self.page.locator(".explorer")
        expect(self.explorer).to_contain_text("Ready.", timeout=180_000)
        self.page.keyboard.press("Control+b")  # without the list of files
        self.explorer.scroll_into_view_if_needed()

    def field(self, name, place=0):
        return self.explorer.get_by_label(name, exact=True).nth(place)

    def button(self, name):
        return self.explorer.get_by_role("button", name=name, exact=True)

    def tab(self, name):
        self.explorer.get_by_role("tab", name=name).click()

    def says(self, text, timeout=5000):
        expect(self.explorer).to_contain_text(text, timeout=timeout)

    def do(self, name, action):
        """Press a button, and wait until the action is done."""
        self.button(name).click()
        self.says(re.compile(rf"{action}: done in \d+\.\d s\."), DONE)

    def upload(self, path):
        with self.page.expect_file_chooser() as chooser:
            self.explorer.get_by_role("button", name="Use my own image").click()
        chooser.value.set_files(path)

    def picture(self, told):
        """The address of a picture that is shown, another one after it was drawn anew."""
        image = self.explorer.get_by_alt_text(told)
        expect(image).to_be_visible()
        return image.get_attribute("src")

    def keep(self, path):
        self.page.wait_for_timeout(500)
        self.explorer.screenshot(path=path)

    def no_traceback(self):
        expect(self.page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']")).to_have_count(0)
        expect(self.page.get_by_text("Traceback")).to_have_count(0)


@pytest.fixture
def desk(browser, lab):
    return Desk(browser, lab)


def test_a_question_of_the_test_bed(desk, screenshots):
    desk.explorer.get_by_placeholder("Search in questions").fill("capital colombo")
    desk.says("1 of 1")
    expect(desk.explorer.locator("select").first.locator("option:checked")).to_have_text("all parts")
    expect(desk.field("Right answers")).to_have_value(re.compile("Colombo"))
    desk.explorer.get_by_placeholder("Search in questions").fill("capital")
    at = desk.field("Right answers").input_value()
    desk.button("Next").click()
    expect(desk.field("Right answers")).not_to_have_value(at)
    desk.keep(screenshots / "explore-1-picked.png")

    desk.do("Trace", "Trace")
    desk.says("an accepted answer")
    maps = "The three runs and the maps of all sites"
    first, token = desk.picture(maps), desk.field("at token").input_value()
    desk.keep(screenshots / "explore-2-traced.png")
    box = desk.explorer.get_by_alt_text(maps).bounding_box()
    desk.explorer.get_by_alt_text(maps).click(position={"x": 0.85 * box["width"], "y": 0.915 * box["height"]})
    desk.says("Restore: done", DONE)
    assert desk.picture(maps) != first
    assert desk.field("at token").input_value() != token
    expect(desk.field("Restored site").locator("option:checked")).to_have_text("self-attention")
    desk.keep(screenshots / "explore-3-restored.png")
    desk.field("at token").select_option("last visual token")  # which nothing stands before
    desk.says("Nothing to restore")
    expect(desk.field("at token").locator("option:checked")).not_to_have_text("last visual token")

    desk.tab("Contributions")
    desk.do("Show contributions", "Contributions")
    over = "Contributions over the image, and by layer"
    first = desk.picture(over)
    desk.explorer.get_by_role("slider").focus()
    desk.page.keyboard.press("ArrowRight")
    expect(desk.explorer.get_by_alt_text(over)).not_to_have_attribute("src", first, timeout=DONE)
    first = desk.picture(over)
    desk.field("Image read by").select_option("the last token")
    expect(desk.explorer.get_by_alt_text(over)).not_to_have_attribute("src", first, timeout=DONE)
    desk.keep(screenshots / "explore-4-contributions.png")

    desk.tab("Knock-out")
    desk.do("Block", "Knock-out")
    desk.says("after, in layers 0 to 2")
    desk.keep(screenshots / "explore-5-knockout.png")
    desk.no_traceback()


def test_edits(desk, screenshots):
    search = desk.explorer.get_by_placeholder("Search in questions")
    search.fill("currency")
    desk.tab("Edit")
    expect(desk.button("Make the edit")).to_be_disabled()
    desk.field("Target answer").fill("Peso")
    desk.do("Make the edit", "Edit")
    answers = desk.explorer.locator("table").last
    expect(answers.locator("td").nth(3)).to_have_text("Peso")
    before = answers.locator("td").nth(2).inner_text()
    assert before != "Peso"
    desk.field("Question", 1).fill("The continent of this country is")
    desk.do("Ask both models", "Ask")
    expect(answers.locator("tr")).to_have_count(3)
    desk.field("Target answer").fill("Yen")
    desk.do("Make the edit", "Edit")
    expect(answers.locator("tr").nth(2).locator("td").nth(3)).to_have_text("Yen")
    desk.keep(screenshots / "explore-6-edits.png")
    desk.do("Undo", "Undo")
    expect(answers.locator("tr").nth(2).locator("td").nth(3)).to_have_text("Peso")
    desk.do("Undo", "Undo")
    expect(answers.locator("tr").nth(2).locator("td").nth(3)).to_have_text(before)
    expect(desk.button("Undo")).to_have_count(0)
    desk.no_traceback()


def test_an_image_and_a_question_of_ones_own(desk, screenshots, tmp_path):
    bed = load_testbed("embedded")
    chosen = next(item for item in bed.select("known", "single") if item.entity == "Japan")
    own = tmp_path / "holiday.png"
    Image.open(chosen.image).convert("RGBA").resize((400, 400)).save(own)
    (tmp_path / "letter.png").write_text("Dear all")
    desk.upload(tmp_path / "letter.png")
    desk.says("The file 'letter.png' cannot be used")
    desk.upload(own)
    expect(desk.field("Right answers")).to_have_value("")

    desk.button("Clear the fields").click()
    desk.says("Write a question.")
    expect(desk.button("Trace")).to_be_disabled()
    desk.field("Question").press_sequentially("The capital of this country is")
    desk.says("Mark the visual constraint")
    desk.field("Visual constraint").fill("that country")
    desk.says("'that country' is not in the question")
    desk.keep(screenshots / "explore-7-own-question.png")
    desk.button("Mark “this country”").click()
    desk.says("Write what replaces the visual constraint")
    expect(desk.button("Trace")).to_be_disabled()
    desk.field("replaced by").fill("Sri Lanka")
    desk.field("Right answers").fill("Tokyo; Edo")
    began = time.monotonic()
    desk.do("Trace", "Trace")
    took = time.monotonic() - began
    print(f"own image and question: traced and shown in {took:.1f} s")
    assert took < 10
    desk.says("Tokyo, an accepted answer")
    desk.keep(screenshots / "explore-8-own-traced.png")
    desk.no_traceback()


def test_stop_and_another_model(desk, screenshots):
    desk.field("Corruption").select_option("standard")
    desk.field("Draws of noise").fill("40")
    desk.field("Draws of noise").press("Tab")
    desk.button("Trace").click()
    desk.says(re.compile(r"Tracing \([1-9]"), DONE)
    expect(desk.field("Question")).to_be_disabled()
    desk.keep(screenshots / "explore-9-tracing.png")
    desk.tab("Knock-out")  # the page answers meanwhile
    expect(desk.button("Block")).to_be_visible()
    expect(desk.button("Block")).to_be_disabled()
    began = time.monotonic()
    desk.button("Stop").click()
    desk.says("Stopping after this step")
    desk.says("Trace: stopped", DONE)
    print(f"stopped after {time.monotonic() - began:.1f} s")
    desk.tab("Trace")
    expect(desk.explorer.get_by_alt_text("The three runs")).to_be_hidden()

    desk.field("Model").fill("nowhere")
    desk.button("Load").click()
    desk.says("'nowhere' is unknown", DONE)
    desk.keep(screenshots / "explore-10-unknown-model.png")
    desk.field("Model").fill("mini-bunny")
    desk.do("Load", "Load")
    desk.says("mini-bunny: ")
    desk.field("Corruption").select_option("replacement")
    desk.do("Trace", "Trace")
    desk.keep(screenshots / "explore-11-bunny.png")
    desk.no_traceback()


def test_dark_and_narrow(desk, screenshots):
    desk.page.get_by_role("menuitem", name="Settings", exact=True).click()
    desk.page.get_by_text("Theme", exact=True).hover()
    desk.page.get_by_text("JupyterLab Dark", exact=True).click()
    desk.page.set_viewport_size({"width": 800, "height": 1250})
    desk.do("Trace", "Trace")
    desk.keep(screenshots / "explore-12-dark.png")
    box = desk.explorer.bounding_box()
    for inner in (desk.field("Question"), desk.explorer.get_by_alt_text("The three runs")):
        inside = inner.bounding_box()
        assert box["x"] <= inside["x"] and inside["x"] + inside["width"] <= box["x"] + box["width"]
