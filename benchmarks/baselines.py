"""What needs no neural network, on the same rows: TF-IDF with logistic regression, and the most frequent answers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from gptft.data import load_splits
from gptft.evaluation.scores import Score, compute_scores, load_metrics
from gptft.metrics.catalogue import expand, parse_metric
from gptft.metrics.predictions import Predictions
from gptft.recipe import Recipe


def baseline(recipe: Recipe) -> tuple[str, list[Score]] | None:
    """The name and the scores of the usual simple method on the recipe's test rows; None where there is none."""
    wanted = [(name, parse_metric(name).known) for name in expand(recipe.evaluation.metrics)]
    if recipe.task == "classification" and recipe.classification.problem_type == "single_label_classification":
        names = [name for name, known in wanted if known and known.needs == "labels"]
        return "TF-IDF, logistic regression", compute_scores(load_metrics(names), tf_idf(recipe))
    names = [name for name, known in wanted if known and known.needs == "ranks"]
    return ("most frequent answers", compute_scores(load_metrics(names), most_frequent(recipe))) if names else None


def tf_idf(recipe: Recipe) -> Predictions:
    """Words and pairs of words, sublinear; C=10, as is usual for these data."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, test = rows(recipe)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(vectorizer, LogisticRegression(C=10, max_iter=1000))
    model.fit(train["text"][:], [targets[0] for targets in train["targets"][:]])
    predicted = model.predict(test["text"][:]).tolist()
    return Predictions(predictions=predicted, references=test["targets"][:])


def most_frequent(recipe: Recipe) -> Predictions:
    """Rank of the right answer when all are ranked by how often train has them."""
    train, test = rows(recipe)
    counts = Counter(target.strip() for targets in train["targets"][:] for target in targets)
    rank = {answer: place for place, (answer, _) in enumerate(counts.most_common(), start=1)}
    grouped: dict[str, list[int]] = {}
    for text, targets in zip(test["text"][:], test["targets"][:], strict=True):
        grouped.setdefault(text, []).extend(rank[one.strip()] for one in targets if one.strip() in rank)
    return Predictions(ranks=[min(places, default=0) for places in grouped.values()])


def rows(recipe: Recipe) -> tuple[Any, Any]:
    splits = load_splits(recipe, ("train", "test"))
    assert splits.train is not None and splits.test is not None
    return splits.train, splits.test
