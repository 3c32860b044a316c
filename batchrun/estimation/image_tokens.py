"""The tokens of an image by its size, as the documentation of providers counts them. Pure.

Claude: width x height / 750, after scaling to at most 1,568 pixels on the long edge and about 1,600
tokens. OpenAI by tiles (GPT-4o): scaled into 2,048 x 2,048, then to 768 pixels on the short edge, 170
tokens for each tile of 512 pixels and 85 for the image. OpenAI by patches (GPT-4.1 mini and others):
one token for each of at most 1,536 patches of 32 pixels, times 1.62.
"""

from __future__ import annotations

from math import ceil, sqrt

CLAUDE_EDGE, CLAUDE_PIXELS, CLAUDE_MOST = 1_568, 750, 1_600
TILES_WITHIN, TILES_EDGE, TILE, TILE_TOKENS, IMAGE_BASE = 2_048, 768, 512, 170, 85
PATCH, MOST_PATCHES, PATCH_FACTOR = 32, 1_536, 1.62


def image_bounds(width: int, height: int) -> tuple[float, float, float]:
    """Return the lowest, the expected and the highest number of tokens of an image.

    Low and high are the lowest and highest of the ways of counting; `expected` is between Claude's and
    that by tiles, as their geometric mean.

    Args:
        width: in pixels, above 0; likewise `height`.
        height: see `width`.
    """
    claude, tiles, patches = (
        by(width, height) for by in (claude_tokens, tile_tokens, patch_tokens)
    )
    return min(claude, tiles, patches), sqrt(claude * tiles), max(claude, tiles, patches)


def claude_tokens(width: int, height: int) -> float:
    """Return the tokens of an image for Claude."""
    scale = min(1.0, CLAUDE_EDGE / max(width, height))
    return max(1.0, min(width * height * scale**2 / CLAUDE_PIXELS, CLAUDE_MOST))


def tile_tokens(width: int, height: int) -> float:
    """Return the tokens of an image in high detail for models of OpenAI that count tiles."""
    scale = min(1.0, TILES_WITHIN / max(width, height))
    scale *= min(1.0, TILES_EDGE / (min(width, height) * scale))
    # A pixel more or less by rounding does not add a tile.
    tiles = ceil(width * scale / TILE - 1e-9) * ceil(height * scale / TILE - 1e-9)
    return IMAGE_BASE + TILE_TOKENS * tiles


def patch_tokens(width: int, height: int) -> float:
    """Return the tokens of an image for models of OpenAI that count patches."""
    return min(MOST_PATCHES, ceil(width / PATCH) * ceil(height / PATCH)) * PATCH_FACTOR
