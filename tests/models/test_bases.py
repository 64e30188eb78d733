import errno
import json
import time
from pathlib import Path
from unittest.mock import MagicMock

import huggingface_hub
import pytest
import requests
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from gptft import network
from gptft.errors import GptftError, UserError
from gptft.models import bases
from gptft.models.bases import resolve_base


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """An empty cache, and a Hub that does what the test says instead of a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(network, "HUB_SECONDS", 0.2)

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
    assert resolve_base(str(base_folder)).folder == base_folder
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(base_folder, target_is_directory=True)
    assert resolve_base(str(tmp_path / "run")).folder == tmp_path / "run" / "model"
    assert (resolve_base("starter").folder, resolve_base("starter").name) == (bases.STARTER, "starter")


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


@pytest.mark.parametrize(("name", "revision"), [("someone/model@v1", None), ("someone/model", "v1")])
def test_the_hub_has_it(hub, base_folder, monkeypatch, name, revision):
    hub(lambda: None)
    asked = []

    def download(hub_id, **options):
        asked.append((hub_id, options["revision"]))
        return str(base_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    base = resolve_base(name, revision, fallback="starter")
    assert asked == [("someone/model", "v1")]
    assert (base.folder, base.name, base.revision) == (base_folder, "someone/model", base_folder.name)
    assert base.fallback_reason is None


def test_a_folder_may_have_an_at_in_its_name(base_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine@home").symlink_to(base_folder, target_is_directory=True)
    assert resolve_base("mine@home").hub_id is None


def test_a_hub_that_never_answers_costs_its_seconds_once(hub):
    hub(never)
    started = time.perf_counter()
    with pytest.raises(GptftError, match=r"someone/model is not in the cache .*no answer within") as caught:
        resolve_base("someone/model")
    assert caught.value.exit_code == 1
    base = resolve_base("someone/model", fallback="starter")
    # Both waits together end before the Hub's one answer would have come.
    assert time.perf_counter() - started < 2.5
    assert (base.folder, base.name) == (bases.STARTER, "starter")
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
    assert resolve_base("someone/model", fallback="starter").folder == bases.STARTER


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


@pytest.fixture
def cache(hub, tmp_path):
    """Put files into the Hub's cache of someone/model; the Hub itself may not be asked, and says so."""
    hub(lambda: pytest.fail("the Hub was asked"))
    repository: Path = tmp_path / "hub" / "models--someone--model"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)

    def put(*names: str, content: str = "{}") -> None:
        for name in names:
            (snapshot / name).write_text(content)

    return put


def asked() -> bool:
    try:
        return resolve_base("someone/model").revision != "a" * 40
    except BaseException as outcome:
        assert "the Hub was asked" in str(outcome)
        return True


@pytest.mark.parametrize("tokenizer", [("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",)])
def test_a_cached_model_needs_no_network(cache, tokenizer):
    for part in ("config.json", "model.safetensors", *tokenizer):
        assert asked()
        cache(part)
    assert not asked()


def test_a_cached_model_in_shards_needs_all_of_them(cache):
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    cache("config.json", "tokenizer.json")
    cache("model.safetensors.index.json", content=json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    for shard in shards:
        assert asked()
        cache(shard)
    assert not asked()
    cache("model.safetensors.index.json", content='{"weight')
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        resolve_base("someone/model")


@pytest.mark.parametrize(
    ("config", "weights"), [("config.json", "model.safetensors"), ("adapter_config.json", "adapter_model.safetensors")]
)
def test_only_the_weights_that_are_loaded_count(tmp_path, config, weights):
    for name in (config, "optimizer.safetensors", "training_args.bin"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"only training_args\.bin, which can run code"):
        resolve_base(str(tmp_path))
    (tmp_path / weights).write_bytes(b"")
    assert resolve_base(str(tmp_path)).folder == tmp_path


def wrapped(cause: Exception) -> OSError:
    error = OSError("We couldn't connect to the Hub")
    error.__cause__ = cause
    return error


def server_error(status: int) -> HfHubHTTPError:
    return HfHubHTTPError("no", response=MagicMock(status_code=status))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (MemoryError(), 1),
        (torch.OutOfMemoryError("CUDA out of memory"), 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1),
        (requests.ConnectionError("dropped"), 1),
        (type("ReadError", (type("TransportError", (Exception,), {}),), {})("dropped"), 1),
        (wrapped(requests.Timeout("late")), 1),
        (server_error(503), 1),
        (server_error(404), 2),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), 2),
        (OSError("it is no model"), 2),
        (ValueError("unknown model type"), 2),
    ],
    ids=repr,
)
def test_failures_are_told_from_mistakes(error, code):
    with pytest.raises(GptftError, match="m could not be loaded: ") as caught, bases.loading_errors("m"):
        raise error
    assert caught.value.exit_code == code
    assert caught.value.__cause__ is error


def test_a_mistake_of_gptft_stays_what_it_is():
    with pytest.raises(ZeroDivisionError), bases.loading_errors("m"):
        raise ZeroDivisionError
