"""The tokens of an image by its size, according to the documentation of the providers. No I/O.

Claude: width x height / 750, after scaling to at most 1,568 pixels on the long edge and about 1,600 tokens;
since version 4.7, 2,576 pixels and 4,784 tokens. OpenAI with tiles (GPT-4o): scaled to fit 2,048 x 2,048,
then to 768 pixels on the short edge; tokens for each tile of 512 pixels, and for the image. OpenAI with
patches (GPT-4.1 mini and others): one token for each of at most 1,536 patches of 32 pixels, times a factor.
"""

from __future__ import annotations

import re
from math import ceil, sqrt

from batchrun.estimation.tokenizers import CLAUDE_EARLY, CLAUDE_LATE, base_name, family_of

CLAUDE_EDGE, CLAUDE_PIXELS, CLAUDE_MOST = 1_568, 750, 1_600
CLAUDE_LATE_EDGE, CLAUDE_LATE_MOST = 2_576, 4_784
TILES_WITHIN, TILES_EDGE, TILE, TILE_TOKENS, IMAGE_BASE = 2_048, 768, 512, 170, 85
PATCH, MOST_PATCHES, PATCH_FACTOR = 32, 1_536, 1.62
# Tokens of the image and of each tile, by the model's name; the first match counts.
_TILES = (
    (re.compile(r"gpt-4o-mini"), 2_833, 5_667),
    (re.compile(r"gpt-4o|chatgpt-4o|gpt-4\.5|gpt-4\.1(?!-mini|-nano)|gpt-4-turbo"), 85, 170),
    (re.compile(r"gpt-5(?:-chat)?(?:-\d|$)"), 70, 140),
    (re.compile(r"o[13](?!-mini)"), 75, 150),
)
# The factor of each patch.
_PATCHES = (
    (re.compile(r"gpt-(?:4\.1|5)-mini"), 1.62),
    (re.compile(r"gpt-(?:4\.1|5)-nano"), 2.46),
    (re.compile(r"o4-mini"), 1.72),
)
# How far counts that follow a documented rule may differ, by rounding and padding.
ROUNDING = 0.03


def image_bounds(width: int, height: int, model: str = "") -> tuple[float, float, float]:
    """Return the lowest, the expected and the highest number of tokens of an image.

    For a model with a known rule, they are its number and 3 % less or more. For other models, low and high
    are the lowest and highest result of the three rules; `expected` is the geometric mean of Claude's rule and
    the one with tiles.

    Args:
        width: in pixels, above 0; likewise `height`.
        height: see `width`.
        model: name of the model; empty for any.
    """
    family, name = family_of(model).name, base_name(model)
    if family == CLAUDE_EARLY:
        return _about(claude_tokens(width, height))
    if family == CLAUDE_LATE:
        most = claude_tokens(width, height, CLAUDE_LATE_EDGE, CLAUDE_LATE_MOST)
        return claude_tokens(width, height) * (1 - ROUNDING), most, most * (1 + ROUNDING)
    for models, base, each in _TILES:
        if models.match(name):
            return _about(tile_tokens(width, height, base, each))
    for models, factor in _PATCHES:
        if models.match(name):
            return _about(patch_tokens(width, height, factor))
    claude, tiles, patches = (
        by(width, height) for by in (claude_tokens, tile_tokens, patch_tokens)
    )
    return min(claude, tiles, patches), sqrt(claude * tiles), max(claude, tiles, patches)


def _about(tokens: float) -> tuple[float, float, float]:
    return tokens * (1 - ROUNDING), tokens, tokens * (1 + ROUNDING)


def claude_tokens(
    width: int, height: int, edge: int = CLAUDE_EDGE, most: int = CLAUDE_MOST
) -> float:
    """Return the tokens of an image for Claude."""
    scale = min(1.0, edge / max(width, height))
    return max(1.0, min(width * height * scale**2 / CLAUDE_PIXELS, most))


def tile_tokens(width: int, height: int, base: int = IMAGE_BASE, each: int = TILE_TOKENS) -> float:
    """Return the tokens of an image in high detail for models of OpenAI that count tiles."""
    scale = min(1.0, TILES_WITHIN / max(width, height))
    scale *= min(1.0, TILES_EDGE / (min(width, height) * scale))
    # A pixel more or less by rounding does not add a tile.
    tiles = ceil(width * scale / TILE - 1e-9) * ceil(height * scale / TILE - 1e-9)
    return base + each * tiles


def patch_tokens(width: int, height: int, factor: float = PATCH_FACTOR) -> float:
    """Return the tokens of an image for models of OpenAI that count patches."""
    return min(MOST_PATCHES, ceil(width / PATCH) * ceil(height / PATCH)) * factor
