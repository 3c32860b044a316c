"""Computes costs: `Usage`, provider, model and tier → `Cost`, exact to the pico-dollar.

If the provider states a cost, that is the cost. Otherwise it is computed with `[price]` of the job file, or
with genai-prices' offline list. Without a known price the cost is unknown, never 0.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
