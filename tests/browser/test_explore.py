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


class Screen:
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

    def picture(self, alt):
        """The address of a picture that is shown, another one after it was drawn anew."""
        image = self.explorer.get_by_alt_text(alt)
        expect(image).to_be_visible()
        return image.get_attribute("src")

    def keep(self, path):
        self.page.wait_for_timeout(500)
        self.explorer.screenshot(path=path)

    def no_traceback(self):
        expect(self.page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']")).to_have_count(0)
        expect(self.page.get_by_text("Traceback")).to_have_count(0)


@pytest.fixture
def screen(browser, lab):
    return Screen(browser, lab)


def test_a_question_of_the_test_bed(screen, screenshots):
    screen.explorer.get_by_placeholder("Search in questions").fill("capital colombo")
    screen.says("1 of 1")
    expect(screen.explorer.locator("select").first.locator("option:checked")).to_have_text("all parts")
    expect(screen.field("Right answers")).to_have_value(re.compile("Colombo"))
    screen.explorer.get_by_placeholder("Search in questions").fill("capital")
    at = screen.field("Right answers").input_value()
    screen.button("Next").click()
    expect(screen.field("Right answers")).not_to_have_value(at)
    screen.keep(screenshots / "explore-1-picked.png")

    screen.do("Trace", "Trace")
    screen.says("an accepted answer")
    maps = "The three runs and the maps of all sites"
    first, token = screen.picture(maps), screen.field("at token").input_value()
    screen.keep(screenshots / "explore-2-traced.png")
    box = screen.explorer.get_by_alt_text(maps).bounding_box()
    screen.explorer.get_by_alt_text(maps).click(position={"x": 0.85 * box["width"], "y": 0.915 * box["height"]})
    screen.says("Restore: done", DONE)
    assert screen.picture(maps) != first
    assert screen.field("at token").input_value() != token
    expect(screen.field("Restored site").locator("option:checked")).to_have_text("self-attention")
    screen.keep(screenshots / "explore-3-restored.png")
    screen.field("at token").select_option("last visual token")  # which nothing stands before
    screen.says("Nothing to restore")
    expect(screen.field("at token").locator("option:checked")).not_to_have_text("last visual token")

    screen.tab("Contributions")
    screen.do("Show contributions", "Contributions")
    over = "Contributions over the image, and by layer"
    first = screen.picture(over)
    screen.explorer.get_by_role("slider").focus()
    screen.page.keyboard.press("ArrowRight")
    expect(screen.explorer.get_by_alt_text(over)).not_to_have_attribute("src", first, timeout=DONE)
    first = screen.picture(over)
    screen.field("Image read by").select_option("the last token")
    expect(screen.explorer.get_by_alt_text(over)).not_to_have_attribute("src", first, timeout=DONE)
    screen.keep(screenshots / "explore-4-contributions.png")

    screen.tab("Knock-out")
    screen.do("Block", "Knock-out")
    screen.says("after, in layers 0 to 2")
    screen.keep(screenshots / "explore-5-knockout.png")
    screen.no_traceback()


def test_edits(screen, screenshots):
    search = screen.explorer.get_by_placeholder("Search in questions")
    search.fill("currency")
    screen.tab("Edit")
    expect(screen.button("Make the edit")).to_be_disabled()
    screen.field("Target answer").fill("Peso")
    screen.do("Make the edit", "Edit")
    answers = screen.explorer.locator("table").last
    expect(answers.locator("td").nth(3)).to_have_text("Peso")
    before = answers.locator("td").nth(2).inner_text()
    assert before != "Peso"
    screen.field("Question", 1).fill("The continent of this country is")
    screen.do("Ask both models", "Ask")
    expect(answers.locator("tr")).to_have_count(3)
    screen.field("Target answer").fill("Yen")
    screen.do("Make the edit", "Edit")
    expect(answers.locator("tr").nth(2).locator("td").nth(3)).to_have_text("Yen")
    screen.keep(screenshots / "explore-6-edits.png")
    screen.do("Undo", "Undo")
    expect(answers.locator("tr").nth(2).locator("td").nth(3)).to_have_text("Peso")
    screen.do("Undo", "Undo")
    expect(answers.locator("tr").nth(2).locator("td").nth(3)).to_have_text(before)
    expect(screen.button("Undo")).to_have_count(0)
    screen.no_traceback()


def test_an_image_and_a_question_of_ones_own(screen, screenshots, tmp_path):
    bed = load_testbed("embedded")
    chosen = next(item for item in bed.select("known", "single") if item.entity == "Japan")
    own = tmp_path / "holiday.png"
    Image.open(chosen.image).convert("RGBA").resize((400, 400)).save(own)
    (tmp_path / "letter.png").write_text("Dear all")
    screen.upload(tmp_path / "letter.png")
    screen.says("The file 'letter.png' cannot be used")
    screen.upload(own)
    expect(screen.field("Right answers")).to_have_value("")

    screen.button("Clear the fields").click()
    screen.says("Write a question.")
    expect(screen.button("Trace")).to_be_disabled()
    screen.field("Question").press_sequentially("The capital of this country is")
    screen.says("Mark the visual constraint")
    screen.field("Visual constraint").fill("that country")
    screen.says("'that country' is not in the question")
    screen.keep(screenshots / "explore-7-own-question.png")
    screen.button("Mark “this country”").click()
    screen.says("Write what replaces the visual constraint")
    expect(screen.button("Trace")).to_be_disabled()
    screen.field("replaced by").fill("Sri Lanka")
    screen.field("Right answers").fill("Tokyo; Edo")
    began = time.monotonic()
    screen.do("Trace", "Trace")
    took = time.monotonic() - began
    print(f"own image and question: traced and shown in {took:.1f} s")
    assert took < 10
    screen.says("Tokyo, an accepted answer")
    screen.keep(screenshots / "explore-8-own-traced.png")
    screen.no_traceback()


def test_stop_and_another_model(screen, screenshots):
    screen.field("Corruption").select_option("standard")
    screen.field("Noise samples").fill("40")
    screen.field("Noise samples").press("Tab")
    screen.button("Trace").click()
    screen.says(re.compile(r"Tracing \([1-9]"), DONE)
    expect(screen.field("Question")).to_be_disabled()
    screen.keep(screenshots / "explore-9-tracing.png")
    screen.tab("Knock-out")  # the page answers meanwhile
    expect(screen.button("Block")).to_be_visible()
    expect(screen.button("Block")).to_be_disabled()
    began = time.monotonic()
    screen.button("Stop").click()
    screen.says("Stopping after this step")
    screen.says("Trace: stopped", DONE)
    print(f"stopped after {time.monotonic() - began:.1f} s")
    screen.tab("Trace")
    expect(screen.explorer.get_by_alt_text("The three runs")).to_be_hidden()

    screen.field("Model").fill("nowhere")
    screen.button("Load").click()
    screen.says("'nowhere' is unknown", DONE)
    screen.keep(screenshots / "explore-10-unknown-model.png")
    screen.field("Model").fill("mini-bunny")
    screen.do("Load", "Load")
    screen.says("mini-bunny: ")
    screen.field("Corruption").select_option("replacement")
    screen.do("Trace", "Trace")
    screen.keep(screenshots / "explore-11-bunny.png")
    screen.no_traceback()


def test_dark_and_narrow(screen, screenshots):
    screen.page.get_by_role("menuitem", name="Settings", exact=True).click()
    screen.page.get_by_text("Theme", exact=True).hover()
    screen.page.get_by_text("JupyterLab Dark", exact=True).click()
    screen.page.set_viewport_size({"width": 800, "height": 1250})
    screen.do("Trace", "Trace")
    screen.keep(screenshots / "explore-12-dark.png")
    box = screen.explorer.bounding_box()
    for inner in (screen.field("Question"), screen.explorer.get_by_alt_text("The three runs")):
        inside = inner.bounding_box()
        assert box["x"] <= inside["x"] and inside["x"] + inside["width"] <= box["x"] + box["width"]
