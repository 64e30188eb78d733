import re

import pytest
from sacrebleu.metrics.bleu import BLEU

from gptft.errors import UserError
from gptft.metrics.catalogue import BUILT_IN, GROUPS, MetricSpec, built_in_name, expand, parse_metric


def test_a_metric_is_a_name_with_options():
    known = BUILT_IN["bleu"]
    assert parse_metric("bleu") == MetricSpec("bleu", "bleu", {}, known)
    text = "bleu:tokenize=zh,lowercase=true"
    assert parse_metric(text) == MetricSpec(text, "bleu", {"tokenize": "zh", "lowercase": True}, known)
    assert parse_metric(" evaluate-metric/bleu:tokenize = 13a ").text == "bleu:tokenize = 13a"
    assert parse_metric("hit_at_k:k=5").options == {"k": 5}
    assert parse_metric("rouge").known == BUILT_IN["rouge1"]


def test_a_metric_that_is_not_built_in_takes_any_option():
    spec = parse_metric("./my/metric.py:labels=[a, b],weight=0.5,x=")
    assert spec.name == "./my/metric.py"
    assert spec.options == {"labels": ["a", "b"], "weight": 0.5, "x": None}
    assert spec.known is None
    assert parse_metric("user/bleu").known is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bleu:zh", "found 'zh', expected name:option=value"),
        ("bleu:", "found '', expected name:option=value"),
        ("bleu:tokenize=zh,tokenize=13a", "each option once"),
        ("", "found '', expected the name of a metric, one of: bleu"),
        (":k=1", "expected name:option=value"),
        ("./mine:x=[1", "the value of x, '[1', is not YAML"),
        ("bleu:tokenise=zh", "no option 'tokenise'; it has: tokenize, lowercase. Did you mean 'tokenize'?"),
        ("mcc:average=macro", "no option 'average'; it has: none."),
        ("rouge:stemmer=true", "metric 'rouge' has no option 'stemmer'; it has: use_stemmer, tokenize."),
        ("f1:average=foo", "average is 'foo', expected one of: macro, micro, weighted"),
        ("hit_at_k:k=0", "k is 0, expected a whole number from 1 to 1000000"),
        ("hit_at_k:k=2.0", "k is 2.0, expected a whole number"),
        ("calibration_error:bins=true", "bins is True, expected a whole number from 1"),
        ("bleu:lowercase=1", "lowercase is 1, expected one of: false, true"),
        ("bleu:tokenize=[zh]", "tokenize is ['zh'], expected one of: 13a, zh"),
    ],
)
def test_mistakes_are_answered(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_metric(text)


def test_groups_expand_with_their_options_and_nothing_comes_twice():
    found = expand(
        ["bleu", "rouge:tokenize=zh", "evaluate-metric/bleu", "rougeL:tokenize=zh", "bleu:tokenize=zh", "user/m"]
    )
    rouge = [f"{name}:tokenize=zh" for name in GROUPS["rouge"]]
    assert found == ["bleu", *rouge, "bleu:tokenize=zh", "user/m"]


def test_built_in_names():
    names = ["bleu:tokenize=zh", "evaluate-metric/f1", "rouge", "user/bleu", "./bleu"]
    assert [built_in_name(name) for name in names] == ["bleu", "f1", "rouge", None, None]


def test_defaults_are_choices_and_tokenizers_are_sacrebleus():
    for row in BUILT_IN.values():
        assert all(option.allows(option.default) for option in row.options.values())
    assert set(BUILT_IN["bleu"].options["tokenize"].choices) == set(BLEU.TOKENIZERS)
