"""Similarity of two texts: F1 over words (SQuAD), ROUGE, and the similarities of rapidfuzz."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"[^\W_]+")


def squad_f1(said: str, right: str) -> float:
    """Return the F1 over words of the SQuAD evaluation: case, punctuation and articles are ignored."""
    one, other = _squad_words(said), _squad_words(right)
    if not one or not other:
        return float(one == other)
    return f_measure((Counter(one) & Counter(other)).total(), len(one), len(other))


def rouge(said: str, right: str, variant: str) -> float:
    """Return the F-measure of ROUGE as the package rouge-score does, without stemming.

    Words are letters and digits of any language; rouge-score knows only those of ASCII.
    """
    one, other = (_WORD.findall(text.lower()) for text in (said, right))
    if variant == "rougeL":
        from rapidfuzz.distance import LCSseq  # noqa: PLC0415 - most commands score nothing

        return f_measure(LCSseq.similarity(one, other), len(one), len(other))
    length = int(variant[-1])
    grams, wanted = _grams(one, length), _grams(other, length)
    return f_measure((grams & wanted).total(), grams.total(), wanted.total())


def f_measure(common: float, given: int, wanted: int) -> float:
    """Return the harmonic mean of precision and recall; 0 if there is nothing to compare."""
    return 2 * common / (given + wanted) if common else 0.0


def _percent(name: str) -> Callable[[str, str], float]:
    """Return a percentage of rapidfuzz as a similarity from 0 to 1."""

    def similarity(one: str, other: str) -> float:
        from rapidfuzz import fuzz  # noqa: PLC0415 - as above

        found: float = getattr(fuzz, name)(one, other)
        return found / 100

    return similarity


def _levenshtein(one: str, other: str) -> float:
    from rapidfuzz.distance import Levenshtein  # noqa: PLC0415 - as above

    return Levenshtein.normalized_similarity(one, other)


def _jaro_winkler(one: str, other: str) -> float:
    from rapidfuzz.distance import JaroWinkler  # noqa: PLC0415 - as above

    return JaroWinkler.similarity(one, other)


SIMILARITIES: Mapping[str, Callable[[str, str], float]] = {
    **{
        name: _percent(name)
        for name in ("ratio", "partial_ratio", "token_sort_ratio", "token_set_ratio")
    },
    "levenshtein": _levenshtein,
    "jaro_winkler": _jaro_winkler,
}


def _squad_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _grams(words: Sequence[str], length: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[n:] for n in range(length)), strict=False))
