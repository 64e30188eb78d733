import time
from pathlib import Path
from unittest.mock import MagicMock

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from gptft.errors import GptftError, UserError
from gptft.models import bases
from gptft.models.bases import resolve_base


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """An empty cache, and a Hub that does what the test says instead of a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(bases, "HUB_SECONDS", 0.2)

    def answers(action) -> None:
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **options: action())

    return answers


def refuse(kind):
    def action():
        raise kind("no such thing", response=MagicMock())

    return action


def never() -> None:
    time.sleep(3)


def test_a_folder_and_a_run(base_folder, tmp_path):
    assert resolve_base(str(base_folder)).location == str(base_folder)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(base_folder, target_is_directory=True)
    assert resolve_base(str(tmp_path / "run")).location == str(tmp_path / "run" / "model")
    assert resolve_base("starter").location == str(bases.STARTER)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere/at/all"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name, hub):
    hub(lambda: pytest.fail("the Hub was asked"))
    with pytest.raises(UserError, match="there is no such folder"):
        resolve_base(name)


@pytest.mark.parametrize("name", ["has space/x", "--bad", "a..b"])
def test_what_no_hub_id_can_be(name):
    with pytest.raises(UserError, match="neither a folder nor a Hub id"):
        resolve_base(name)


def test_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="holds no model"):
        resolve_base(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="has no weights"):
        resolve_base(str(tmp_path))
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only pytorch_model.bin, which can run code when read"):
        resolve_base(str(tmp_path))


def test_the_hub_has_it(hub):
    hub(lambda: None)
    base = resolve_base("someone/model", "v1", fallback="starter")
    assert (base.location, base.revision, base.offline, base.fallback_reason) == ("someone/model", "v1", False, None)


def test_a_hub_that_never_answers_costs_its_seconds_once(hub):
    hub(never)
    started = time.perf_counter()
    with pytest.raises(GptftError, match=r"someone/model is not in the cache .*no answer within") as caught:
        resolve_base("someone/model")
    assert caught.value.exit_code == 1
    base = resolve_base("someone/model", fallback="starter")
    # Both waits together end before the Hub's one answer would have come.
    assert time.perf_counter() - started < 2.5
    assert base.location == str(bases.STARTER)
    assert base.requested == "someone/model"
    assert "no answer" in (base.fallback_reason or "")


def test_a_broken_network_says_so(hub):
    def broken():
        raise ConnectionError("Name or service not known")

    hub(broken)
    with pytest.raises(GptftError, match="ConnectionError: Name or service not known"):
        resolve_base("someone/model")
    assert "ConnectionError" in (resolve_base("someone/model", fallback="starter").fallback_reason or "")


def test_offline_by_choice_asks_nobody(hub, monkeypatch):
    hub(lambda: pytest.fail("the Hub was asked"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(GptftError, match="HF_HUB_OFFLINE is set"):
        resolve_base("someone/model")
    assert resolve_base("someone/model", fallback="starter").location == str(bases.STARTER)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (RepositoryNotFoundError, "the Hub has no such model"),
        (GatedRepoError, "is gated"),
        (RevisionNotFoundError, "has no revision 'v1'"),
    ],
)
def test_a_mistake_is_no_reason_for_the_fallback(hub, kind, said):
    hub(refuse(kind))
    with pytest.raises(UserError, match=said):
        resolve_base("someone/model", "v1", fallback="starter")


def test_a_cached_model_needs_no_network(hub, tmp_path):
    hub(lambda: pytest.fail("the Hub was asked"))
    repository: Path = tmp_path / "hub" / "models--someone--model"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (snapshot / "config.json").write_text("{}")
    with pytest.raises(BaseException, match="the Hub was asked"):
        resolve_base("someone/model")  # its weights are not there
    (snapshot / "model.safetensors").write_bytes(b"")
    assert resolve_base("someone/model").offline
