"""`gptft push`, by the command, to a Hub on loopback."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from loopback_hub import TOKEN, Fault

from gptft.runs import latest_run

BASE = [".gitattributes", "README.md", "pictures/loss.png"]
LICENSE = ("--license", "mit")


def model_files(shop: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (latest_run(shop / "runs").model).iterdir()}


def test_the_model_and_its_card_go_up_in_one_commit_and_nothing_else(hub, shop, gptft_on):
    done = gptft_on(shop, "push", "me/bot", *LICENSE, "--language", "en", "--message", "The first")
    assert done.code == 0, done.err
    assert done.out.strip() == f"{hub.url}/me/bot"
    repo = hub.repo("me/bot")
    files = repo.files()
    assert {name: files[name] for name in model_files(shop)} == model_files(shop)
    assert sorted(files) == sorted([*model_files(shop), *BASE])
    assert repo.titles == ["first", "The first"]
    card = ModelCard(files["README.md"].decode())
    scores = json.loads((latest_run(shop / "runs").evaluation("test") / "scores.json").read_text())
    results = {result.metric_name: result for result in card.data.eval_results or []}
    assert {name: result.metric_value for name, result in results.items()} == {
        name: score["value"] for name, score in scores["scores"].items()
    }
    for name, result in results.items():
        args = result.metric_args or {}
        assert args.get("low") == scores["scores"][name]["low"]
        assert args["definition"] == scores["scores"][name]["definition"]
        assert args["base"] == scores["base"][name]["value"]
    assert (card.data.license, card.data.language) == ("mit", ["en"])
    assert not repo.private
    assert hub.asked("POST /api/validate-yaml")


def test_pushing_twice_makes_no_second_commit(hub, shop, gptft_on):
    for _ in range(2):
        done = gptft_on(shop, "push", "me/bot", *LICENSE)
        assert done.code == 0, done.err
    assert "no new commit" in done.err
    assert len(hub.repo("me/bot").titles) == 2
    assert len(hub.asked("PUT /_lfs")) == 2  # the weights and the picture, once each


def test_a_private_repository_with_branch_and_tag(hub, shop, gptft_on):
    options = ("--private", "--revision", "candidate", "--tag", "v1", *LICENSE)
    assert gptft_on(shop, "push", "latest", "me/bot", *options).code == 0
    repo = hub.repo("me/bot")
    assert repo.private
    assert "README.md" not in repo.files() and "README.md" in repo.files("candidate")
    assert repo.tags == {"v1": repo.refs["candidate"]}
    # The same tag on the same commit is no mistake; on another it is.
    assert gptft_on(shop, "push", "latest", "me/bot", *options).code == 0
    moved = gptft_on(shop, "push", "latest", "me/bot", "--tag", "v1", *LICENSE)
    assert moved.code == 2 and "has a tag v1 already" in moved.message


def test_a_pull_request_leaves_the_branch_as_it_is(hub, shop, gptft_on):
    done = gptft_on(shop, "push", "me/bot", "--create-pr", *LICENSE)
    assert done.code == 0 and done.out.strip().endswith("/discussions/1"), done.err
    assert "README.md" not in hub.repo("me/bot").files()
    assert "README.md" in hub.repo("me/bot").files("refs/pr/1")


def test_the_recipe_says_where_and_scores_go_along_when_asked(hub, shop, gptft_on):
    recipe = latest_run(shop / "runs").recipe_file
    recipe.write_text(recipe.read_text().replace("hub: null", "hub: {repo_id: me/from-recipe, license: mit}"))
    # What an earlier push left there of another model would be loaded in place of this one.
    hub.add("me/from-recipe", files={"adapter_config.json": b"{}", "notes.md": b"mine", "my.json": b"[]"})
    done = gptft_on(shop, "push", "--include", "eval")
    assert done.code == 0, done.err
    files = hub.repo("me/from-recipe").files()
    assert {"eval/test/scores.json", "eval/test/predictions.jsonl", "notes.md", "my.json"} <= set(files)
    assert "adapter_config.json" not in files


def test_a_dry_run_lists_and_asks_nobody(hub, shop, gptft_on):
    done = gptft_on(shop, "push", "me/bot", "--dry-run", *LICENSE, token=None)
    assert done.code == 0, done.err
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in done.out.splitlines()[:-1]}
    assert {name: listed[name] for name in model_files(shop)} == {
        name: len(content) for name, content in model_files(shop).items()
    }
    assert not hub.requests


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT /_lfs", 0),
        Fault("PUT /_lfs", 500),
        Fault("POST .*/commit/", 500),
        Fault("POST .*/commit/", 409),
        Fault("POST .*/commit/", 412),
    ],
    ids=lambda fault: f"{fault.pattern} {fault.status or 'cut'}",
)
def test_what_fails_once_is_tried_again(hub, shop, gptft_on, fault):
    hub.faults.append(fault)
    done = gptft_on(shop, "push", "me/bot", *LICENSE)
    assert done.code == 0, done.err
    assert fault.times == 0
    files = hub.repo("me/bot").files()
    assert {name: files[name] for name in model_files(shop)} == model_files(shop)
    assert len(hub.repo("me/bot").titles) == 2


def test_a_push_that_broke_off_goes_on_where_it_was(hub, shop, gptft_on):
    hub.faults.append(Fault("POST .*/commit/", 403, times=99, message="storage is full"))
    broken = gptft_on(shop, "push", "me/bot", *LICENSE)
    assert broken.code == 2 and "the role `write`" in broken.message
    sent = len(hub.asked("PUT /_lfs"))
    assert sent == 2 and len(hub.repo("me/bot").titles) == 1
    hub.faults.clear()
    assert gptft_on(shop, "push", "me/bot", *LICENSE).code == 0
    assert len(hub.asked("PUT /_lfs")) == sent
    assert len(hub.repo("me/bot").titles) == 2


@pytest.mark.parametrize(
    ("token", "repo_id", "said"),
    [
        (None, "me/bot", "You are not logged in"),
        ("hf_" + "WrongOrExpired" * 3, "me/bot", "it is wrong or has expired"),
        (TOKEN, "somebody/bot", "the role `write`"),
        (TOKEN + "ReadOnly", "me/theirs", "the role `write`"),
        (TOKEN, "me/a b", "cannot be the name of a repository"),
    ],
)
def test_one_sentence_for_what_the_user_can_set_right(hub, shop, gptft_on, token, repo_id, said):
    hub.add("me/theirs")
    done = gptft_on(shop, "push", repo_id, *LICENSE, token=token)
    assert done.code == 2 and said in done.message
    assert "Traceback" not in done.err and (token or "none") not in done.err


def test_a_hub_that_fails_for_good(hub, shop, gptft_on):
    hub.faults.append(Fault("POST /api/repos/create", 500, times=99, message="out of order"))
    done = gptft_on(shop, "push", "me/bot", *LICENSE)
    assert done.code == 1 and "HTTP 500: out of order" in done.message


def test_no_network_is_said(hub, shop, gptft_on):
    done = gptft_on(shop, "push", "me/bot", *LICENSE, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.code == 1 and "The connection to the Hub failed" in done.message
    offline = gptft_on(shop, "push", "me/bot", *LICENSE, HF_HUB_OFFLINE="1")
    assert offline.code == 1 and "HF_HUB_OFFLINE" in offline.message


def test_personal_data_in_an_answer_stops_the_push(hub, shop, gptft_on):
    predictions = latest_run(shop / "runs").evaluation("test") / "predictions.jsonl"
    rows = [json.loads(line) for line in predictions.open()]
    rows[0]["prediction"] = "Write to jane.doe@gmail.com, or call +44 20 7031 3000."
    predictions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = gptft_on(shop, "push", "me/bot", *LICENSE)
    assert done.code == 2 and not hub.requests
    assert "e-mail address (jan…, 18 characters)" in done.message and "phone number" in done.message
    assert "README.md:" in done.err and "jane.doe" not in done.err
    assert gptft_on(shop, "push", "me/bot", "--allow-personal-data", *LICENSE).code == 0


def test_without_a_licence_it_is_asked_for(hub, shop, gptft_on):
    done = gptft_on(shop, "push", "me/bot")
    assert done.code == 2 and "--license mit" in done.message
    assert not hub.requests
