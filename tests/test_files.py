import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from gptft import files
from gptft.errors import GptftError
from gptft.files import (
    folder_written_atomically,
    write_json_atomically,
    write_jsonl_atomically,
    write_text_atomically,
)


def no_space(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_text_is_written_as_it_is_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_text_atomically(path, "é\r\n日本\n")
    assert path.read_bytes() == "é\r\n日本\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644
    write_json_atomically(path, {"é": [1], "path": tmp_path})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": [1], "path": str(tmp_path)}
    write_jsonl_atomically(path, [{"a": "line\nend"}, {"b": 2}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": "line\nend"}, {"b": 2}]
    assert os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("call", ["replace", "fsync", "chmod"])
def test_a_refused_write_leaves_what_was_there(tmp_path, monkeypatch, call):
    path = tmp_path / "scores.json"
    path.write_text("old")
    monkeypatch.setattr(files.os, call, no_space)
    with pytest.raises(GptftError, match=r"scores.json could not be written: No space left on device") as caught:
        write_text_atomically(path, "new")
    assert caught.value.exit_code == 1
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["scores.json"]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(GptftError, match="taken"):
        write_text_atomically(tmp_path / "taken" / "x.json", "{}")


def test_values_that_are_no_json_leave_what_was_there(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text("old")
    circular: dict = {}
    circular["self"] = circular
    with pytest.raises(ValueError, match="Circular"):
        write_json_atomically(path, circular)
    assert path.read_text() == "old"


def write_folder(path: Path, text: str) -> None:
    with folder_written_atomically(path) as folder:
        assert not path.exists() or (path / "file").read_text() != text
        (folder / "file").write_text(text)


def test_a_folder_appears_whole_and_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "runs" / "model"
    write_folder(path, "old")
    (path / "left").write_text("over")
    write_folder(path, "new")
    assert os.listdir(path) == ["file"]
    assert (path / "file").read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o755
    assert os.listdir(path.parent) == ["model"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("no"), KeyboardInterrupt()]
)
def test_a_folder_that_fails_half_way_leaves_the_old(tmp_path, error):
    path = tmp_path / "model"
    write_folder(path, "old")
    with (
        pytest.raises(GptftError if isinstance(error, OSError) else type(error)) as caught,
        folder_written_atomically(path) as folder,
    ):
        (folder / "file").write_text("half")
        raise error
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"{path} could not be written: No space left on device")
    assert (path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_whose_last_renaming_fails_is_put_back(tmp_path, monkeypatch):
    path = tmp_path / "model"
    write_folder(path, "old")
    rename = os.rename

    def refuse_new(source, target):
        if Path(target) == path and Path(source).name.startswith(".model.") and not str(source).endswith(".old"):
            no_space()
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", refuse_new)
    with pytest.raises(GptftError, match="No space left on device"):
        write_folder(path, "new")
    assert (path / "file").read_text() == "old"


def test_a_folder_left_by_a_crash_is_in_nobodys_way(tmp_path):
    path = tmp_path / "model"
    write_folder(path, "old")
    shutil.copytree(path, tmp_path / ".model.old")
    write_folder(path, "new")
    assert os.listdir(tmp_path) == ["model"]
