import pytest

from gptft.recipe.fields import MANAGED, model_of


@pytest.mark.parametrize("name", ["group_by_length", "random", "sequential"])
def test_orders_of_rows(name):
    model_of("training").model_validate({"train_sampling_strategy": name})


def test_an_order_that_gptft_does_not_know_is_refused():
    with pytest.raises(ValueError, match="'group_by_length', 'random' or 'sequential'"):
        model_of("training").model_validate({"train_sampling_strategy": "batch_rebalance"})


@pytest.mark.parametrize("key", sorted(MANAGED["training"]))
def test_what_gptft_decides_is_refused(key):
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        model_of("training").model_validate({key: None})
