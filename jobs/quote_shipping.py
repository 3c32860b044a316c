"""The tools of shipping_quotes.toml. The model receives exceptions as errors."""

BASE_EUR = {"FR": 4.90, "DE": 5.40, "GB": 9.80}
EUR_PER_KG = 0.85
MOST_KG = 30


def shipping_cost(weight_kg: float, country: str) -> dict[str, float | str]:
    """Return the cost of one parcel in euros."""
    if weight_kg > MOST_KG:
        raise ValueError(f"a parcel weighs at most {MOST_KG} kg; this one needs a carrier")
    cost = BASE_EUR[country] + EUR_PER_KG * weight_kg
    return {"eur": round(cost, 2), "country": country}
