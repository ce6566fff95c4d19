"""Words without a model: TF-IDF for the classifier baseline and for the rows most like a question. No tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class NoWordsError(Exception):
    """The texts have no words to count."""


def _vectorizer() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    one_word = r"(?u)\b\w+\b"  # also of one letter, unlike scikit-learn's own
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=one_word)


def _fitted(texts: Sequence[str]) -> tuple[Any, Any]:
    vectorizer = _vectorizer()
    try:
        return vectorizer, vectorizer.fit_transform(texts)
    except ValueError as error:
        raise NoWordsError from error


def classify(texts: Sequence[str], labels: Sequence[str], questions: Sequence[str]) -> list[str]:
    """Labels of the questions by logistic regression on words and pairs of words."""
    from sklearn.linear_model import LogisticRegression

    vectorizer, vectors = _fitted(texts)
    model = LogisticRegression(C=10.0, max_iter=2000).fit(vectors, list(labels))
    found: list[str] = [str(label) for label in model.predict(vectorizer.transform(questions))]
    return found


def nearest(texts: Sequence[str], questions: Sequence[str], count: int) -> list[list[int]]:
    """For each question the places of the texts most like it, the most similar last."""
    vectorizer, vectors = _fitted(texts)
    found: list[list[int]] = []
    for row in vectorizer.transform(questions) @ vectors.T:
        similar = np.asarray(row.todense()).ravel()
        best = np.argsort(-similar, kind="stable")[:count]
        found.append([int(place) for place in best[::-1]])
    return found
