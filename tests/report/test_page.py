"""The page about runs: all of it there, nothing from outside, nothing that a text could do in it."""

import re
from html.parser import HTMLParser

import pytest
from browsing import browser
from commands import in_process
from lxml import html
from rich.console import Console

from gptft.report import add_report, write_report
from gptft.report.page import render
from gptft.runs import Run

SECTIONS = ["scores", "training", "examples", "answers", "data", "recipe", "machine"]
VOID = {"meta", "input", "link", "br", "img"}


class Balance(HTMLParser):
    """Finds tags that are not closed in the order in which they were opened, and those that may do something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.active: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        loads = [name for name, _ in attributes if name in ("src", "srcset", "action") or name.startswith("on")]
        outside = [value for name, value in attributes if name in ("href", "xlink:href") and not value.startswith("#")]
        if tag in ("script", "iframe", "object", "embed", "link", "img") or loads or outside:
            self.active.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def text_of(page: str, section: str) -> str:
    (found,) = html.fromstring(page).xpath(f"//section[@id='{section}']")
    return " ".join(" ".join(found.itertext()).split())


def test_the_page_has_all_its_sections_and_nothing_from_outside(intents):
    file = write_report([intents])
    assert file == intents.folder / "report.html"
    page = file.read_text(encoding="utf-8")
    parser = Balance()
    parser.feed(page)
    assert (parser.open, parser.active) == ([], [])
    assert not re.search(r"https?://|@import|url\(", page)
    assert [section.get("id") for section in html.fromstring(page).iter("section")] == SECTIONS
    scores = text_of(page, "scores")
    assert "accuracy 30 0.667 [0.250, 0.750] 0.000" in scores and "base starter" in scores and "share" in scores
    assert "60 examples of 60 rows, 900 tokens (60 supervised), 1 shortened to fit, 2 rows dropped" in text_of(
        page, "examples"
    )
    assert "40 examples of 5 to 6 tokens" in page
    data = text_of(page, "data")
    assert "train 60 64 train.csv" in data and "f" * 64 in data and "3 rows of test are in train" in data
    assert "Wh, at an assumed" in text_of(page, "machine") and "360 s" in text_of(page, "machine")
    assert "seed: 1" in text_of(page, "recipe") and "/home/someone" not in page
    assert "The recipe asks for gpt2" in page


def test_what_texts_say_stays_text(intents):
    page = render([intents])
    assert "alert(1)" in page
    assert "<script" not in page and "<img" not in page and "<b>" not in page
    assert "What <b>customers</b> want" in html.fromstring(page).text_content()
    assert "退款" in page and 'charset="utf-8"' in page


def test_the_curves_are_of_the_log_by_tokens_and_by_time(intents):
    page = html.fromstring(render([intents]))
    (tokens, time) = page.xpath("//section[@id='training']/div")
    names = ["loss (nats a token, or a label)", "accuracy, validation", "learning rate", "tokens a second"]
    for grid in (tokens, time):
        assert [caption.text for caption in grid.iter("figcaption")] == names
    hovers = [title.text for title in tokens.iter("title")]
    assert "loss: 3 at 100 tokens trained on" in hovers and "eval_loss: 2.5 at 300 tokens trained on" in hovers
    # The seconds of the evaluation in the middle are none of training.
    assert [text for text in hovers if text.startswith("speed")] == [
        f"speed: 100 at {tokens} tokens trained on" for tokens in (100, 200, 300, 400, 500, 600)
    ]
    assert "loss: 0.5 at 16 seconds" in [title.text for title in time.iter("title")]


def test_confusions_and_calibration(intents):
    page = render([intents])
    answers = text_of(page, "answers")
    assert (
        "right given rows <script>alert(1)</script> 退款 5 refund 退款 5 <script>alert(1)</script> refund 1" in answers
    )
    cells = html.fromstring(page).xpath("//table[@class='matrix']//td[@title]")
    assert [cell.text for cell in cells] == ["10", "5", "1", "9", "5"]
    assert cells[3].get("title") == "9 of 15 rows <script>alert(1)</script> given <script>alert(1)</script>"
    assert cells[3].get("style") == "--share: 0.60"
    assert "5 rows: mean confidence 0.460, 0.800 of them right" in page


def test_several_runs_stand_side_by_side(intents, made_run, tmp_path):
    rows = [{"origin": "test.csv:31", "prompt": "q", "references": ["a"], "prediction": "b", "confidence": 0.9}]
    other = made_run(
        "other-20261125-110000",
        rows=[{**rows[0], "correct": False}],
        log=log_lines_of_one(),
        seed=2,
        accuracy=0.1,
        f1=0.2,
    )
    file = write_report([intents, other], tmp_path / "both.html")
    page = file.read_text(encoding="utf-8")
    scores = text_of(page, "scores")
    assert "metric rows intents-20261125-100000 other-20261125-110000 base starter" in scores
    assert "accuracy 30 0.667 [0.250, 0.750] 0.100 [0.250, 0.750] 0.000" in scores
    assert "training.seed 1 2" in text_of(page, "differences")
    hovers = [title.text for title in html.fromstring(page).iter("title")]
    assert "other-20261125-110000 loss: 7 at 100 tokens trained on" in hovers
    assert "intents-20261125-100000 loss: 3 at 100 tokens trained on" in hovers
    assert "other-20261125-110000: wrong, confidence 0.900" in text_of(page, "answers")


def log_lines_of_one():
    return [{"step": 1, "tokens": 100, "seconds": 2, "loss": 7.0}]


def test_a_run_with_nothing_in_it_yet_has_a_page_too(made_run):
    page = render([made_run(manifest=None)])
    assert "Not evaluated yet" in text_of(page, "scores") and "Nothing was logged" in text_of(page, "training")


def test_losses_that_are_no_numbers_are_left_out(made_run):
    log = [
        {"step": step, "tokens": step, "seconds": step, "loss": value} for step, value in enumerate((1.0, float("nan")))
    ]
    page = render([made_run(log=log)])
    assert "loss: 1 at 0" in page and "nan" not in page.lower()


def test_a_page_that_cannot_be_written_costs_no_training(intents, capsys):
    (intents.folder / "manifest.json").write_text("no JSON")
    console = Console(stderr=True, width=200)
    add_report(intents, console)
    assert "Warning: no report.html: JSONDecodeError" in capsys.readouterr().err


def test_the_command(intents, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    intents.set_latest()
    done = in_process("report")
    assert (done.code, done.out.strip()) == (0, str(intents.folder / "report.html"))
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda uri: not opened.append(uri))
    named = in_process("report", intents.folder.name, "--output", "page.html", "--open")
    assert (named.code, named.out) == (0, "page.html\n")
    assert opened == [(tmp_path / "page.html").as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda uri: False)
    assert in_process("report", "--open").code == 1
    wrong = in_process("report", "nothing")
    assert wrong.code == 2 and "nothing is no run" in wrong.message


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_a_browser_shows_labels_and_confusions(intents: Run, width: int, scheme: str):
    address = write_report([intents]).as_uri()
    with browser() as open_tab:
        tab = open_tab(address, width, scheme)
        assert (tab.said, tab.asked) == ([], {address})
        assert tab.page.is_visible(".matrix") and tab.page.is_visible(".calibration svg")
        assert tab.fits() and tab.background() == scheme
