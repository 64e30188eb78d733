from gptft.training.arguments import training_arguments


def test_evaluation_follows_saving_but_for_saving_the_best(write_recipe, tmp_path):
    def rhythm(has_validation=True, **training):
        return training_arguments(write_recipe(training=training), tmp_path, has_validation).eval_strategy.value

    assert rhythm() == "epoch"
    assert rhythm(save_strategy="steps") == "steps"
    assert rhythm(save_strategy="best", metric_for_best_model="loss") == "epoch"
    assert rhythm(False, save_strategy="steps") == "no"
