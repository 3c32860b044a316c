"""What tokens cost: `Usage`, who answered, the model and its tier → `Cost`, exact to the pico-dollar.

A cost that the provider states is the cost. Otherwise it is counted by `[price]` of the job file, or
by genai-prices' offline list. What has no known price has an unknown cost, never 0.
"""

from batchrun.pricing.book import NewPrices, PriceBook
from batchrun.pricing.price_list import near_model, near_provider
from batchrun.pricing.rates import FROM_JOB, Rates, cost_of, rates_of_job

__all__ = [
    "FROM_JOB",
    "NewPrices",
    "PriceBook",
    "Rates",
    "cost_of",
    "near_model",
    "near_provider",
    "rates_of_job",
]
