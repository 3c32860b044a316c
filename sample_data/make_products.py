"""Write products.parquet, the typed sample table, beside this script.

    python sample_data/make_products.py

600 invented products, one row each, in columns of many types: text with leading zeros, an enum, an
exact decimal, floats, a boolean, a date, a UTC time stamp, lists and a struct. Some values are null
and some lists empty, since a template has to cope with both. The seed is fixed: the same script
gives the same table.
"""

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import NamedTuple

import polars as pl

SEED = 417
ROWS = 600
TARGET = Path(__file__).with_name("products.parquet")
FIRST_LAUNCH = date(2017, 3, 1)
CATALOGUE_DATE = datetime(2025, 10, 31, 18, tzinfo=UTC)  # no row was updated after this

CATEGORIES = ("home", "kitchen", "outdoor", "office", "garden", "travel")

SCHEMA = pl.Schema(
    {
        "sku": pl.String(),
        "name": pl.String(),
        "category": pl.Enum(CATEGORIES),
        "price": pl.Decimal(10, 2),
        "weight_kg": pl.Float64(),
        "in_stock": pl.Boolean(),
        "launched": pl.Date(),
        "updated_at": pl.Datetime("us", "UTC"),
        "tags": pl.List(pl.String()),
        "dimensions": pl.Struct(
            {"width_cm": pl.Int64(), "height_cm": pl.Int64(), "depth_cm": pl.Int64()}
        ),
        "materials": pl.List(pl.String()),
        "rating": pl.Float32(),
        "notes": pl.String(),
    }
)

# A product's name is its range, its main material and its kind: "Skerry Walnut Desk Tray".
# fmt: off
RANGES = (
    "Alder", "Brook", "Cairn", "Dune", "Fjell", "Harbour", "Juniper", "Kelp", "Lark",
    "Moss", "Nordvik", "Orchard", "Pebble", "Quay", "Rowan", "Skerry", "Tern", "Willow",
)
# fmt: on


class Kind(NamedTuple):
    """What the products of one kind have in common; numbers are typical and vary by product."""

    category: str
    noun: str
    price: int
    weight_kg: float
    size_cm: tuple[int, int, int]  # width, height, depth
    materials: tuple[str, ...]  # each product has one of these,
    extras: tuple[str, ...]  # and some of these in addition
    tags: tuple[str, ...]


# fmt: off
KINDS = (
    Kind("home", "Table Lamp", 89, 1.8, (26, 45, 26), ("brass", "ceramic", "oak"),
         ("linen", "steel"), ("lighting", "dimmable", "bedroom", "led")),
    Kind("home", "Throw Blanket", 69, 1.2, (130, 2, 190), ("wool", "cotton", "linen"),
         ("polyester",), ("textile", "sofa", "gift", "washable")),
    Kind("home", "Storage Basket", 32, 0.9, (34, 30, 34), ("seagrass", "felt", "rattan"),
         ("cotton", "leather"), ("storage", "handmade", "nursery")),
    Kind("home", "Wall Mirror", 139, 6.2, (60, 80, 3), ("oak", "brass", "aluminium"),
         ("glass",), ("hallway", "bathroom", "wall-mounted")),
    Kind("home", "Side Table", 169, 8.5, (45, 50, 45), ("walnut", "marble", "steel"),
         ("brass", "cork"), ("furniture", "living room", "easy assembly")),
    Kind("home", "Candle Holder", 19, 0.5, (9, 14, 9), ("glass", "brass", "stoneware"),
         ("cork",), ("decor", "gift", "table setting")),
    Kind("home", "Doormat", 34, 2.1, (70, 2, 45), ("coir", "jute", "recycled cotton"),
         ("rubber",), ("hallway", "non-slip")),
    Kind("kitchen", "Serving Board", 44, 1.3, (24, 2, 42), ("oak", "olive wood", "slate"),
         ("leather",), ("table setting", "gift", "cheese")),
    Kind("kitchen", "Kettle", 79, 1.2, (21, 24, 18), ("steel", "enamel", "copper"),
         ("beech",), ("stovetop", "tea", "whistle")),
    Kind("kitchen", "Mixing Bowl", 28, 1.0, (26, 13, 26), ("stoneware", "steel", "bamboo"),
         ("silicone",), ("baking", "stackable", "non-slip")),
    Kind("kitchen", "Pepper Mill", 39, 0.4, (6, 22, 6), ("beech", "walnut", "acrylic"),
         ("ceramic", "steel"), ("adjustable grind", "refillable", "gift")),
    Kind("kitchen", "Chef's Knife", 119, 0.24, (4, 2, 33), ("carbon steel", "damascus steel"),
         ("walnut", "pakkawood"), ("hand wash only", "forged", "professional")),
    Kind("kitchen", "Storage Jar", 16, 0.8, (11, 18, 11), ("glass", "stoneware", "tin"),
         ("cork", "bamboo", "silicone"), ("airtight", "stackable", "pantry")),
    Kind("kitchen", "Tea Towel", 14, 0.12, (48, 1, 70), ("linen", "cotton", "hemp"),
         (), ("textile", "washable", "plastic-free")),
    Kind("outdoor", "Camping Chair", 99, 2.6, (57, 80, 60), ("aluminium", "ash", "bamboo"),
         ("canvas", "polyester"), ("foldable", "lightweight", "festival")),
    Kind("outdoor", "Lantern", 49, 1.1, (16, 27, 16), ("steel", "bamboo", "aluminium"),
         ("glass", "rope"), ("rechargeable", "weatherproof", "led")),
    Kind("outdoor", "Picnic Rug", 59, 1.5, (150, 1, 180), ("wool", "canvas", "recycled polyester"),
         ("leather",), ("waterproof base", "rollable", "family")),
    Kind("outdoor", "Hammock", 79, 1.5, (130, 4, 250), ("cotton", "parachute nylon", "canvas"),
         ("rope", "steel"), ("two-person", "machine washable", "summer")),
    Kind("outdoor", "Fire Bowl", 189, 14.0, (68, 32, 68), ("corten steel", "cast iron"),
         (), ("patio", "heavy", "all year")),
    Kind("outdoor", "Mug Set", 32, 0.7, (21, 10, 21), ("enamel", "titanium", "steel"),
         ("cotton",), ("set of four", "camp kitchen", "gift")),
    Kind("office", "Desk Tray", 36, 0.8, (26, 5, 34), ("walnut", "felt", "steel"),
         ("cork",), ("stackable", "a4", "organiser")),
    Kind("office", "Monitor Stand", 74, 2.3, (56, 11, 24), ("birch", "bamboo", "aluminium"),
         ("cork", "felt"), ("ergonomic", "cable slot", "home office")),
    Kind("office", "Notebook", 18, 0.35, (15, 2, 21), ("recycled paper", "stone paper"),
         ("linen", "leather"), ("dotted", "lay-flat", "refillable", "gift")),
    Kind("office", "Desk Lamp", 109, 2.2, (20, 48, 30), ("steel", "aluminium", "ash"),
         ("brass",), ("led", "dimmable", "clamp included")),
    Kind("office", "Pen Holder", 19, 0.5, (8, 10, 8), ("concrete", "brass", "oak"),
         ("cork",), ("organiser", "gift")),
    Kind("office", "Footrest", 54, 2.0, (43, 14, 32), ("beech", "foam", "cork"),
         ("cotton", "steel"), ("ergonomic", "adjustable", "non-slip")),
    Kind("garden", "Watering Can", 44, 1.1, (18, 31, 44), ("steel", "zinc", "recycled plastic"),
         ("brass",), ("long spout", "indoor plants", "rust-proof")),
    Kind("garden", "Planter", 52, 4.6, (36, 34, 36), ("terracotta", "fibre clay", "zinc"),
         (), ("frost-proof", "drainage hole", "balcony")),
    Kind("garden", "Hand Trowel", 24, 0.3, (8, 5, 31), ("carbon steel", "bronze", "copper"),
         ("ash", "leather"), ("forged", "gift", "lifetime guarantee")),
    Kind("garden", "Bird House", 39, 2.1, (19, 29, 19), ("larch", "cedar", "wood concrete"),
         ("zinc",), ("wildlife", "wall-mounted", "easy to clean")),
    Kind("garden", "Kneeling Pad", 22, 0.4, (45, 4, 24), ("foam", "cork", "canvas"),
         ("rubber",), ("waterproof", "non-slip")),
    Kind("garden", "Bench", 329, 18.0, (140, 86, 58), ("teak", "acacia", "cast aluminium"),
         ("steel",), ("furniture", "two-seater", "weatherproof", "easy assembly")),
    Kind("travel", "Weekend Bag", 149, 1.5, (50, 31, 23), ("canvas", "leather", "recycled nylon"),
         ("brass", "cotton"), ("cabin size", "water-repellent", "laptop sleeve")),
    Kind("travel", "Wash Bag", 36, 0.2, (24, 15, 10), ("waxed cotton", "cork", "recycled nylon"),
         ("brass",), ("water-repellent", "hanging hook", "gift")),
    Kind("travel", "Insulated Bottle", 39, 0.4, (8, 25, 8), ("steel", "titanium"),
         ("bamboo", "silicone"), ("leak-proof", "bpa-free", "keeps hot 12 h")),
    Kind("travel", "Travel Pillow", 44, 0.5, (28, 12, 27), ("memory foam", "buckwheat", "merino"),
         ("cotton",), ("washable cover", "compact", "long-haul")),
    Kind("travel", "Passport Wallet", 39, 0.1, (11, 1, 14), ("leather", "cork", "waxed canvas"),
         ("cotton",), ("rfid blocking", "personalised", "gift")),
    Kind("travel", "Packing Cube Set", 42, 0.4, (30, 10, 24), ("recycled nylon", "organic cotton"),
         (), ("set of three", "lightweight", "machine washable")),
)
# fmt: on

NOTES = (
    "Bestseller in its category for two seasons.",
    "Colour may differ slightly from the photographs.",
    'Customers call it "the good one"; do not rename.',
    "Limited edition, numbered. No reprint planned.",
    "Made in a family workshop near Porto.",
    "New supplier since spring: item no. 0047-B.",
    "Packaging is plastic-free and fully recyclable.",
    "Photos show an older version.\nNew ones are due in November.",
    "Price to be reviewed (raw material +8 %).",
    "Repairable: spare parts are kept for ten years.",
    "Sells best as a set with others of the same range.",
    "Ships separately; allow 3-5 working days.",
    "Won a regional design award 🏅 in its launch year.",
)


def chance(rng: random.Random, probability: float) -> bool:
    """Return true with this probability."""
    return rng.random() < probability


def pick_some(rng: random.Random, values: Sequence[str], least: int) -> list[str]:
    """Pick some of the values, at least so many, in their own order."""
    chosen = rng.sample(values, rng.randint(least, len(values)))
    return [value for value in values if value in chosen]


def make_row(rng: random.Random, sku: int, range_name: str, kind: Kind) -> dict[str, object]:
    """Invent one product of a kind: its size sets its weight and, roughly, its price."""
    material = rng.choice(kind.materials)
    scale = rng.uniform(0.8, 1.25)
    width, height, depth = (max(1, round(length * scale)) for length in kind.size_cm)
    dimensions = {"width_cm": width, "height_cm": height, "depth_cm": depth}
    whole_price = max(5, round(kind.price * scale * rng.uniform(0.8, 1.3)))
    cents = rng.choice(("0.00", "0.50", "0.90", "0.95"))
    launched = FIRST_LAUNCH + timedelta(days=rng.randrange(3120))
    earliest = datetime(launched.year, launched.month, launched.day, 8, tzinfo=UTC)
    return {
        "sku": f"{sku:06d}",
        "name": f"{range_name} {material.title()} {kind.noun}",
        "category": kind.category,
        "price": whole_price + Decimal(cents),
        "weight_kg": None if chance(rng, 0.06) else round(kind.weight_kg * scale, 2),
        "in_stock": chance(rng, 0.83),
        "launched": launched,
        "updated_at": earliest + (CATALOGUE_DATE - earliest) * rng.random(),
        "tags": [] if chance(rng, 0.06) else pick_some(rng, kind.tags, least=1),
        "dimensions": None if chance(rng, 0.08) else dimensions,
        "materials": [material, *pick_some(rng, kind.extras, least=0)],
        "rating": None if chance(rng, 0.14) else round(min(5.0, rng.gauss(4.2, 0.5)), 1),
        "notes": rng.choice(NOTES) if chance(rng, 0.4) else None,
    }


def make_products() -> pl.DataFrame:
    """Make the whole table; no two products share a range and a kind, so names are unique."""
    rng = random.Random(SEED)
    pairs = rng.sample(list(product(RANGES, KINDS)), ROWS)
    skus = sorted(rng.sample(range(1, 100_000), ROWS))
    rows = [
        make_row(rng, sku, range_name, kind)
        for sku, (range_name, kind) in zip(skus, pairs, strict=True)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


if __name__ == "__main__":
    make_products().write_parquet(TARGET, compression="zstd")
