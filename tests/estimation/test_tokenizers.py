"""Tokens of texts: counted with OpenAI's vocabularies, or from characters by measured rates."""

from __future__ import annotations

import base64
import importlib.util
import random
import uuid
from typing import Any

import polars as pl
import pytest

from batchrun.estimation.characters import NAMES, counts
from batchrun.estimation.image_tokens import image_bounds
from batchrun.estimation.token_rates import RATES, TOKENIZERS
from batchrun.estimation.tokenizers import (
    CLAUDE_EARLY,
    CLAUDE_LATE,
    UNKNOWN,
    exact_counter,
    family_of,
    rated_tokens,
    text_tokens,
)
from tests.conftest import ROOT

MODELS = (
    "gpt-4o",
    "claude-haiku-4-5",
    "claude-opus-4-8",
    "llama-3.1-8b",
    "qwen3-8b",
    "deepseek-chat",
)
# The true tokens of the sample tickets in each language, by the tokenizers of these models.
TICKETS = {
    "ar": (571, 1202, 1211, 705, 676, 694),
    "cs": (51, 60, 71, 48, 66, 53),
    "de": (631, 974, 1349, 754, 760, 757),
    "en": (11451, 12601, 16599, 11700, 12027, 11832),
    "es": (580, 802, 1035, 672, 669, 691),
    "fr": (622, 895, 1156, 730, 735, 745),
    "he": (57, 107, 107, 139, 52, 70),
    "hi": (39, 111, 113, 75, 129, 94),
    "it": (630, 748, 1013, 704, 716, 677),
    "ja": (651, 829, 822, 638, 595, 621),
    "ko": (48, 98, 99, 49, 57, 61),
    "nl": (584, 806, 1099, 725, 740, 703),
    "pl": (683, 792, 1035, 762, 730, 720),
    "pt": (604, 818, 1092, 718, 724, 722),
    "sv": (59, 75, 100, 69, 71, 69),
    "tr": (662, 952, 1188, 666, 782, 898),
    "uk": (65, 82, 82, 65, 92, 84),
    "zh": (554, 853, 849, 599, 505, 483),
}
MOST_OF_18 = 16
with_vocabulary = pytest.mark.skipif(
    importlib.util.find_spec("bpe_openai") is None, reason="needs the extra tokens"
)


def tickets(language: str) -> list[str]:
    table = pl.read_csv(ROOT / "sample_data" / "tickets.csv").filter(language=language)
    return [f"{row['subject']}\n{row['body']}" for row in table.iter_rows(named=True)]


@pytest.mark.parametrize("model", MODELS)
def test_nine_of_ten_sums_of_tickets_are_within_narrow_bounds(model: str) -> None:
    """None of these texts is among those that the rates were fitted to."""
    held, widths = [], []
    for language, true in TICKETS.items():
        tokens = true[MODELS.index(model)]
        found = [rated_tokens(text, family_of(model)) for text in tickets(language)]
        low, high = sum(each.low for each in found), sum(each.high for each in found)
        expected = sum(each.expected for each in found)
        held.append(low <= tokens <= high)
        widths.append((high - low) / expected)
        if language == "en":
            assert expected == pytest.approx(tokens, rel=0.1)
    assert sum(held) >= MOST_OF_18
    assert sorted(widths)[len(widths) // 2] < 0.45


@pytest.mark.parametrize("language", TICKETS)
def test_bounds_for_an_unknown_model_hold_for_all_of_these(language: str) -> None:
    found = [rated_tokens(text, UNKNOWN) for text in tickets(language)]
    low, high = sum(each.low for each in found), sum(each.high for each in found)
    assert low <= min(TICKETS[language])
    assert max(TICKETS[language]) <= high


@with_vocabulary
@pytest.mark.parametrize("language", TICKETS)
def test_tokens_of_openai_models_are_counted(language: str) -> None:
    found = [text_tokens(text, "gpt-4o-mini") for text in tickets(language)]
    assert {(each.low, each.high) for each in found} == {(e.expected, e.expected) for e in found}
    assert sum(each.expected for each in found) == TICKETS[language][0]


@with_vocabulary
def test_unusual_and_long_texts_are_counted() -> None:
    for text in ("\ud800", "<|endoftext|>", "\x00", "a" * 200_000):
        assert text_tokens(text, "gpt-4o").expected >= 1
    assert text_tokens(" word" * 300_000, "gpt-4o").expected == pytest.approx(300_000, abs=100)
    assert text_tokens("🥺" * 200_000, "gpt-4o").expected > 200_000
    assert text_tokens("", "gpt-4o").expected == 0


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o-mini-2024-07-18", "OpenAI's o200k_base"),
        ("gpt-5", "OpenAI's o200k_base"),
        ("openai/gpt-4.1-nano", "OpenAI's o200k_base"),
        ("ft:gpt-4o-mini:acme::abc", "OpenAI's o200k_base"),
        ("o3", "OpenAI's o200k_base"),
        ("o4-mini", "OpenAI's o200k_base"),
        ("gpt-4-turbo", "OpenAI's cl100k_base"),
        ("gpt-3.5-turbo", "OpenAI's cl100k_base"),
        ("claude-3-5-haiku-20241022", CLAUDE_EARLY),
        ("claude-haiku-4-5-20251001", CLAUDE_EARLY),
        ("claude-sonnet-4-20250514", CLAUDE_EARLY),
        ("anthropic/claude-opus-4.6", CLAUDE_EARLY),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", CLAUDE_EARLY),
        ("claude-opus-4-7", CLAUDE_LATE),
        ("claude-opus-4-10", CLAUDE_LATE),
        ("claude-sonnet-5", CLAUDE_LATE),
        ("claude-latest", "Claude"),
        ("meta-llama/Llama-3.3-70B-Instruct", "Llama 3"),
        ("llama-4-scout", "Llama 4"),
        ("Qwen/Qwen3-8B", "Qwen"),
        ("deepseek-chat", "DeepSeek"),
        ("mistral-large-latest", "Mistral"),
        ("DeepSeek-R1-Distill-Llama-70B", UNKNOWN.name),
        ("orca-2", UNKNOWN.name),
        ("", UNKNOWN.name),
    ],
)
def test_the_tokenizer_follows_from_the_name(model: str, family: str) -> None:
    assert family_of(model).name == family


def test_there_is_a_rate_of_each_tokenizer_for_each_count() -> None:
    assert list(RATES) == list(NAMES)
    assert {len(rates) for rates in RATES.values()} == {len(TOKENIZERS)}
    for text in ("", "a", "Ä", "\ud800", "\x00"):
        assert len(counts(text)) == len(NAMES)


def named(text: str) -> dict[str, Any]:
    return {name: each for name, each in zip(NAMES, counts(text), strict=True) if each}


def test_random_text_is_told_from_words() -> None:
    dice = random.Random(1)
    data = base64.b64encode(dice.randbytes(300)).decode()
    assert named(f"data:image/png;base64,{data}")["random"] == len(data)
    digits = dice.randbytes(32).hex()
    assert named(f"sha256 {digits}")["hexadecimal"] == len(digits)
    assert named(str(uuid.UUID(int=dice.getrandbits(128))))["hexadecimal"] == 36
    for words in (
        "getUserAccountByEmailAddressAndTenant2Id",
        "/usr/lib/python3/dist-packages/numpy/core",
        "-" * 80,
        "=" * 80,
        "pneumonoultramicroscopicsilicovolcanoconiosis",
    ):
        assert not named(words).keys() & {"random", "hexadecimal"}, words


def test_scripts_are_counted_by_character() -> None:
    found = named("naïve Привет қ 你好 かな 안녕 שלום سلام گ नमस्ते สวัสดี «a» 😀😀")
    assert found["accented"] == 1
    assert (found["cyrillic"], found["cyrillic_extended"]) == (6, 1)
    assert (found["han"], found["kana"], found["hangul"]) == (2, 2, 2)
    assert (found["hebrew"], found["arabic"], found["arabic_extended"]) == (4, 4, 1)
    assert (found["devanagari"], found["thai"]) == (6, 6)
    assert (found["latin_signs"], found["emoji"]) == (2, 2)


def test_english_is_told_from_other_languages() -> None:
    english = named(
        "This is a text for the reader, and it is written in the language of the country."
    )
    swahili = named("Maandishi haya yameandikwa kwa lugha ambayo haina herufi zenye alama yoyote.")
    assert english["english"] > 50
    assert "other_latin" not in english
    assert "english" not in swahili


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "gpt-4o", "gpt-4o-mini", "gpt-5-mini", "o1"])
def test_an_image_of_a_model_with_a_rule_has_narrow_bounds(model: str) -> None:
    low, expected, high = image_bounds(1_024, 1_024, model)
    assert high - low < 0.07 * expected
    rules = {"claude-haiku-4-5": 1_398, "gpt-4o": 765, "gpt-4o-mini": 25_501, "gpt-5-mini": 1_659}
    assert expected == pytest.approx(rules.get(model, 675), rel=0.01)


def test_later_models_of_claude_read_larger_images() -> None:
    low, _, high = image_bounds(2_400, 1_400, "claude-opus-4-8")
    assert (low < 1_600, high > 4_400) == (True, True)


def test_no_vocabulary_no_exact_count() -> None:
    assert exact_counter(family_of("claude-opus-4-8").encoding) is None
