"""report.html of a run that was trained and scored, in Chromium."""

import pytest
from commands import in_process
from shop import dialogues, write_shop

SECTIONS = ["scores", "training", "examples", "answers", "data", "recipe", "machine"]


@pytest.fixture(scope="module")
def address(open_tab, tmp_path_factory, base_folder):
    folder = tmp_path_factory.mktemp("reported")
    rows = dialogues()
    rows[0]["messages"][-1]["content"] = "好的，我们会退款。<b>Yes</b>"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HOME", str(folder / "cache"))
        write_shop(folder, base_folder, rows, training={"max_steps": 6, "logging_steps": 2})
        for command in (["finetune", "bot.yaml"], ["eval"]):
            done = in_process(*command)
            assert done.code == 0, done.err
    return (folder / "runs" / "latest" / "report.html").resolve().as_uri()


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light"), (390, "dark")])
def test_the_report_of_a_run(open_tab, address, width, scheme):
    tab = open_tab(address, width, scheme)
    assert (tab.said, tab.asked) == ([], {address})
    sections = tab.page.query_selector_all("section")
    assert [section.get_attribute("id") for section in sections] == SECTIONS
    for section in sections:
        box = section.bounding_box()
        assert section.is_visible() and box["height"] > 60 and box["x"] + box["width"] <= width
    assert tab.fits() and tab.background() == scheme
    by_tokens, by_time = tab.page.query_selector_all("#training > .grid")
    assert by_tokens.is_visible() and not by_time.is_visible()
    tab.page.click("label[for=by1]")
    assert by_time.is_visible() and not by_tokens.is_visible()
    for picture in by_time.query_selector_all("svg"):
        # Something is drawn, and inside its frame.
        frame, drawn = (
            picture.bounding_box(),
            picture.query_selector("polyline, path, circle, .dot, .bar").bounding_box(),
        )
        assert drawn["x"] >= frame["x"] and drawn["x"] + drawn["width"] <= frame["x"] + frame["width"] + 1
    assert tab.page.locator(".sample").count() >= 10
    assert tab.said == []
