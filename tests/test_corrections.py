"""The code of docs/corrections.md, in both languages, does what the page says: with the starter and a tiny model."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from tiny import make_model, make_tokenizer
from torch.nn import functional

import gptft
from gptft.models.loading import LoadedModel

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {"en": DOCS / "corrections.md", "zh": DOCS / "corrections.zh-CN.md"}
CLAIMS = 8
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)\n```)?", re.DOTALL)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def sections(page: Path) -> list[str]:
    """A page's beginning, and its sections."""
    return re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Code and what it prints, of the beginning and of each section."""
    return [pair for section in sections(page) for pair in BLOCK.findall(section)]


def run(page: Path) -> list[str]:
    """Run a page's code from top to bottom; what each block prints."""
    names: dict[str, Any] = {}
    said = []
    for code, _ in blocks(page):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, names)
        said.append(out.getvalue().strip())
    return said


def use_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `gptft.load` give a tiny model, with larger weights than new ones have: these say the same of everything."""
    model = make_model()
    for weight in model.parameters():
        weight.data *= 4
    monkeypatch.setattr(gptft, "load", lambda name: LoadedModel(model, make_tokenizer(), None), raising=False)


@pytest.mark.parametrize("language", PAGES)
def test_the_starter_prints_what_the_page_shows(language):
    shown = [printed for _, printed in blocks(PAGES[language])]
    for said, expected in zip(run(PAGES[language]), shown, strict=True):
        assert NUMBER.sub("#", said) == NUMBER.sub("#", expected)
        numbers = [[float(text.replace(",", "")) for text in NUMBER.findall(part)] for part in (said, expected)]
        # Other processors round otherwise.
        assert numbers[0] == pytest.approx(numbers[1], rel=0.05, abs=0.02)


def test_it_is_as_true_of_another_model(monkeypatch):
    use_tiny_model(monkeypatch)
    assert len(run(PAGES["en"])) == CLAIMS + 1


def test_a_model_that_sees_what_follows_is_found_out(monkeypatch):
    use_tiny_model(monkeypatch)
    attend = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional,
        "scaled_dot_product_attention",
        lambda *values, is_causal=False, **options: attend(*values, is_causal=False, **options),
    )
    with pytest.raises(AssertionError):
        run(PAGES["en"])


def test_both_languages_have_the_same_sections_and_code():
    english, chinese = (sections(page) for page in PAGES.values())
    assert len(english) == len(chinese) == CLAIMS + 1
    for number, (ours, theirs) in enumerate(zip(english, chinese, strict=True)):
        assert number == 0 or all(text.startswith(f"{number}. ") for text in (ours, theirs))
        assert BLOCK.findall(ours) == BLOCK.findall(theirs) != []
        prose = BLOCK.sub("", theirs)
        assert len(re.findall(r"[\u4e00-\u9fff]", prose)) > 40, "a section is not translated"
    # What a page sends to the other is there.
    assert all(PAGES["zh" if name == "en" else "en"].name in PAGES[name].read_text("utf-8") for name in PAGES)
