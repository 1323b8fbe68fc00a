"""notebooks/verify.ipynb as people use it: keys, mouse, a kernel that is killed, two people."""

import json
import re

import papermill
import psutil
import pytest
from notebook_runs import NOTEBOOKS
from playwright.sync_api import expect

from interventions.testbed import load_testbed
from interventions.testbed.verification.decisions import DecisionLog
from interventions.testbed.verification.outcomes import outcomes

ODD = "okvqa/odd"


class Desk:
    """The notebook of one person, opened and run."""

    def __init__(self, browser, lab, bed, annotator, **parameters):
        self.lab, self.log = lab, bed / "decisions.jsonl"
        name = f"{'-'.join((annotator, *parameters.values()))}.ipynb"
        given = {"testbed": str(bed), "annotator": annotator} | parameters
        source = NOTEBOOKS / "verify.ipynb"
        papermill.execute_notebook(source, lab.directory / name, given, prepare_only=True, progress_bar=False)
        self.page = browser.new_page(viewport={"width": 1500, "height": 1000})
        self.page.goto(f"{lab.address}/lab/tree/{name}?token={lab.token}&reset")
        self.widget = self.page.locator(".verify")
        self.run_all()

    def run_all(self):
        expect(self.page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=60_000)
        last = self.page.locator(".jp-CodeCell .jp-InputPrompt").last
        before = last.inner_text()
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_text("Run All Cells", exact=True).click()
        expect(last).not_to_have_text(before)
        expect(last).to_have_text(re.compile(r"\d"), timeout=180_000)
        expect(self.widget).to_be_visible()
        self.focus()

    def focus(self):
        self.widget.scroll_into_view_if_needed()
        self.widget.locator("[data-ref=place]").click()
        expect(self.widget).to_be_focused()

    def press(self, keys: str):
        """Keys one after the other, each when the one before it is answered."""
        for key in keys.split():
            self.page.keyboard.press(key)
            expect(self.widget).to_have_attribute("aria-busy", "false", timeout=20_000)

    def lines(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def text(self, name):
        return self.widget.locator(f"[data-ref={name}]").inner_text()

    def drag(self, first: str, last: str):
        """Over words of the question, from the middle of one to the middle of another."""
        boxes = [self.widget.locator(".verify-question [data-piece]").get_by_text(word, exact=True).first.bounding_box()
                 for word in (first, last)]
        (x, y), (to_x, to_y) = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move((x + to_x) / 2, y, steps=4)
        self.page.mouse.move(to_x, to_y, steps=8)
        self.page.mouse.up()

    def selected(self):
        return "".join(self.widget.locator(".verify-selected").all_inner_texts())

    def cells(self):
        return self.page.locator(".jp-Notebook .jp-Cell").count()

    def go_to(self, item: str):
        while not self.text("place").endswith(f" {item}"):
            self.press("n")


@pytest.fixture
def desk(browser, lab, bed):
    opened = []

    def open_for(annotator="anna", **parameters):
        opened.append(Desk(browser, lab, bed, annotator, **parameters))
        return opened[-1]

    yield open_for
    for one in opened:
        one.page.close()


def test_a_round(desk, bed, lab, screenshots):
    anna = desk()
    anna.widget.screenshot(path=screenshots / "1-start.png")
    cells = anna.cells()
    assert anna.text("progress") == "0 of 20 decided by anna"
    image = anna.widget.get_by_role("img")
    small = image.bounding_box()["width"]
    image.click()
    assert image.bounding_box()["width"] > 1.5 * small
    image.click()
    assert image.bounding_box()["width"] == small

    # Accepting, and what is no decision. The keys are JupyterLab's, too: a, b, x, v and c would add and cut cells.
    anna.press("a")
    assert anna.text("message") == "Accepted question 1."
    assert [(line["action"], line["annotator"]) for line in anna.lines()] == [("accept", "anna")]
    anna.press("v")
    assert "Select words of the question first" in anna.text("message")
    anna.press("n b n ArrowLeft ArrowRight b x")
    anna.page.keyboard.press("Enter")  # would open the cell
    anna.page.keyboard.press("Shift+Enter")  # would run it, and begin anew
    expect(anna.widget).to_be_focused()
    assert anna.cells() == cells
    assert len(anna.lines()) == 1

    # One decision, however often the key is pressed before the next question is there.
    at = anna.text("place")
    press = "node.dispatchEvent(new KeyboardEvent('keydown', { key: 'a', bubbles: true }))"
    anna.widget.evaluate(f"node => {{ for (let i = 0; i < 3; i++) {press} }}")
    expect(anna.widget.locator("[data-ref=place]")).not_to_have_text(at)
    anna.page.wait_for_timeout(500)
    assert len(anna.lines()) == 2

    # Marking anew. The markup in the question is text.
    anna.go_to(ODD)
    assert "<b>logo</b>" in anna.text("question")
    anna.drag("this", "operating")
    assert anna.selected() == "this old operating"
    anna.press("v")
    assert "cut short: 'system' belongs to it" in anna.text("message")
    assert anna.text("visual") == "this old"
    anna.widget.screenshot(path=screenshots / "2-warning.png")
    assert anna.selected() == "this old operating"
    anna.press("v")
    assert anna.text("visual") == "this old operating"
    anna.drag("this", "s")  # the possessive is left out
    anna.press("v")
    assert anna.text("visual") == "this old operating system"
    anna.drag("operating", "window")
    anna.press("t")
    assert "overlaps the visual constraint" in anna.text("message")
    anna.drag("1984", "1984")
    anna.press("t")
    assert anna.text("text") == "1984"
    assert len(anna.lines()) == 2

    # Writing: letters are letters in a text field.
    anna.widget.get_by_label("replacement of the text constraint").fill("")
    anna.page.keyboard.type("1999 avxr")
    for _ in " avxr":
        anna.page.keyboard.press("Backspace")
    anna.page.keyboard.press("Enter")
    expect(anna.widget.locator("[data-ref=preview_text]")).to_contain_text('in "1999"?')
    anna.page.keyboard.press("c")
    anna.page.keyboard.type("cut short")
    anna.page.keyboard.press("Escape")
    expect(anna.widget.locator("button[data-action=accept]")).to_have_text("a accept as corrected")
    anna.widget.screenshot(path=screenshots / "3-corrected.png")
    anna.press("a")
    last = anna.lines()[-1]
    assert {name: last[name] for name in list(last)[2:-1]} == {
        "annotator": "anna", "action": "correct", "visual_constraint": "this old operating system",
        "text_constraint": "1984", "visual_replacement": None, "text_replacement": "1999", "comment": "cut short",
        "blind": True,
    }

    # Undoing: the question is there again, with what was marked.
    anna.press("u")
    assert anna.text("place").endswith(ODD)
    assert anna.text("visual") == "this old operating system"
    assert anna.lines()[-1]["action"] == "undo"
    anna.press("a")

    # A kernel that is killed: nothing decided is lost, and who goes on as if nothing were hears of it.
    [kernel] = [child for child in lab.process.children(recursive=True) if "ipykernel_launcher" in child.cmdline()]
    before = anna.log.read_bytes()
    kernel.kill()
    psutil.wait_procs([kernel], 10)
    anna.page.get_by_role("dialog").get_by_role("button", name="Ok").click()  # JupyterLab's: it restarts the kernel
    anna.focus()
    anna.page.keyboard.press("a")
    expect(anna.widget.locator("[data-ref=message]")).to_contain_text("The kernel does not answer", timeout=20_000)
    anna.widget.screenshot(path=screenshots / "4-killed.png")
    assert anna.log.read_bytes() == before
    anna.run_all()
    assert anna.text("progress") == "3 of 20 decided by anna"
    anna.press("r")
    assert anna.lines()[-1]["action"] == "reject"
    assert anna.text("progress") == "4 of 20 decided by anna"

    log = DecisionLog(anna.log)
    assert log.unreadable == []
    counts = outcomes(load_testbed(bed), log)["outcome"].value_counts().to_dict()
    assert counts == {"undecided": 16, "accepted": 2, "corrected": 1, "rejected": 1}


def test_two_people(desk, screenshots):
    anna = desk(parts="okvqa")
    total = int(anna.text("progress").split()[2])
    anna.press("a " * total)
    assert anna.text("message").endswith("All are decided.")
    ben = desk("ben", parts="okvqa")
    assert ben.text("progress") == f"0 of {total} decided by ben · anna {total}"
    assert "anna" not in ben.text("decision")  # what she decided is not shown
    ben.press("a r")
    ben.run_all()
    table = ben.page.locator(".jp-RenderedHTMLCommon table")
    expect(table.nth(0)).to_contain_text("anna")
    expect(table.nth(1)).to_contain_text("verdict: Cohen's kappa")
    table.nth(1).screenshot(path=screenshots / "5-agreement.png")
    expect(table.nth(2)).to_contain_text("reject")
    judge = desk("carla", parts="okvqa", only="disputed")
    # Disputed between the two others: their decisions are shown.
    assert judge.text("place").startswith("question 1 of 1 ")
    assert "Accepted by anna" in judge.text("decision") and "Rejected by ben" in judge.text("decision")
    judge.widget.screenshot(path=screenshots / "6-disputed.png")
    judge.press("a")
    assert judge.lines()[-1]["blind"] is False
    nothing = desk(parts="okvqa", only="undecided")
    assert nothing.text("place") == "Nothing to decide here"
    expect(nothing.widget.locator("[data-ref=question]")).to_be_hidden()
    nothing.widget.screenshot(path=screenshots / "7-nothing.png")
    nothing.press("a")


def test_dark_and_narrow(desk, screenshots):
    anna = desk()
    anna.page.get_by_role("menuitem", name="Settings", exact=True).click()
    anna.page.get_by_text("Theme", exact=True).hover()
    anna.page.get_by_text("JupyterLab Dark", exact=True).click()
    anna.page.set_viewport_size({"width": 900, "height": 900})
    anna.page.wait_for_timeout(1500)
    anna.widget.screenshot(path=screenshots / "8-dark.png")
    box = anna.widget.bounding_box()
    for inner in (anna.page.locator(name).bounding_box() for name in (".verify-image", ".verify-words")):
        assert box["x"] <= inner["x"] and inner["x"] + inner["width"] <= box["x"] + box["width"]
