import pytest

from gptft.recipe.sources import SourceError, resolve, resolve_model


@pytest.mark.parametrize("name", ["HF_TOKEN", "aws_secret_x", "ApiKey", "DB_PASSWORD", "GOOGLE_CREDENTIALS"])
@pytest.mark.parametrize("form", ["me/${name}", "me/${{{name}}}", "$HOME/${name}/*.jsonl"])
@pytest.mark.parametrize("look", [resolve, resolve_model])
def test_a_secret_is_put_into_no_name(name, form, look, monkeypatch, tmp_path):
    monkeypatch.setenv(name, "hf-5417")
    with pytest.raises(SourceError, match=rf"variable \${name} is a secret by its name") as error:
        look(form.format(name=name), [tmp_path])
    assert "hf-5417" not in str(error.value)


def test_other_variables_are_replaced(monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("MODELS", str(tmp_path))
    monkeypatch.setenv("OWNER", "someone")
    assert resolve_model("$MODELS/model", [tmp_path]) == str(tmp_path / "model")
    assert resolve_model("${OWNER}/model", [tmp_path]) == "someone/model"
    with pytest.raises(SourceError, match=r"\$GPTFT_UNSET is not set"):
        resolve_model("$GPTFT_UNSET/model", [tmp_path])


def test_folders_that_lead_in_circles_or_hold_too_much(monkeypatch, tmp_path):
    from gptft.recipe import sources

    (tmp_path / "rows" / "more").mkdir(parents=True)
    for name in ("a.txt", "more/b.txt", ".hidden.txt"):
        (tmp_path / "rows" / name).write_text("text")
    (tmp_path / "rows" / "more" / "circle").symlink_to(tmp_path / "rows")
    (tmp_path / "elsewhere.txt").write_text("text")
    (tmp_path / "rows" / "linked.txt").symlink_to(tmp_path / "elsewhere.txt")
    found = sources.files_of(str(tmp_path / "rows"))
    assert [file.name for file in found] == ["a.txt", "linked.txt", "b.txt"]
    monkeypatch.setattr(sources, "MOST_FILES", 2)
    for place in (tmp_path / "rows", tmp_path / "rows" / "**" / "*"):
        with pytest.raises(sources.SourceError, match="more than 2 files"):
            sources.files_of(str(place))
