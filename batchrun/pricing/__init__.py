"""Computes costs: `Usage`, provider, model and tier → `Cost`, exact to the pico-dollar.

If the provider states a cost, that is the cost. Otherwise it is computed with `[price]` of the job file, or
with genai-prices' offline list. Without a known price the cost is unknown, never 0.
"""

from batchrun.pricing.book import NewPrices, PriceBook, price_book
from batchrun.pricing.price_list import BATCH_TIER, known_models, near_model, near_provider
from batchrun.pricing.rates import FROM_JOB, Rates, cost_of, rates_of_job
