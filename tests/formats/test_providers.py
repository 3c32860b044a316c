"""Each provider: its requests are those of `provider_requests.json`, and docs/providers.md lists it.

The fixture is what `preview` prints, reviewed against the vendor's documentation. After a change that is
meant: `python -m tests.formats.test_providers` writes the fixture and the page anew; review the difference.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from batchrun import Job, preview
from batchrun.formats.providers import PROVIDERS, ProviderPreset, blanks
from tests.conftest import ROOT

FIXTURE = Path(__file__).parent / "provider_requests.json"
PAGE = ROOT / "docs" / "providers.md"
START, END = "<!-- table -->\n", "<!-- end of table -->"
# A user fills these in.
OWN = {
    "RESOURCE": "contoso",
    "PROJECT": "my-project",
    "ACCOUNT_ID": "0123abc",
    "WORKSPACE": "dbc-1234",
}
# Models that want other parameters than most of a provider's.
OTHER_MODELS = {("openai", "chat"): "gpt-5-mini", ("azure", "chat"): "o3"}


def filled(address: str) -> str:
    for word in blanks(address):
        address = address.replace(word, OWN[word])
    return address


def previewed(preset: ProviderPreset, wire_format: str, model: str, folder: Path) -> dict[str, Any]:
    """What `preview` prints for the first row of a small table."""
    (folder / "t.csv").write_text("q\nWhat is 2 + 2?\n")
    document: dict[str, dict[str, Any]] = {
        "input": {"path": "t.csv"},
        "request": {
            "provider": preset.id,
            "format": wire_format,
            "model": model,
            "system": "Be brief.",
            "prompt": "{{ q }}",
            "max_tokens": 100,
            "temperature": 0.5,
        },
    }
    address = preset.addresses[wire_format]
    if blanks(address):
        document["request"]["base_url"] = filled(address)
    [line] = preview(Job.from_document(document, folder), 1)
    found: dict[str, Any] = json.loads(line)
    del found["custom_id"]
    return found


def cases() -> list[tuple[ProviderPreset, str, str]]:
    found = []
    for preset in PROVIDERS:
        for name in preset.addresses:
            found.append((preset, name, preset.example_model))
            if (other := OTHER_MODELS.get((preset.id, name))) is not None:
                found.append((preset, name, other))
    return found


def key_of(preset: ProviderPreset, wire_format: str, model: str) -> str:
    return f"{preset.id} {wire_format} {model}"


@pytest.mark.parametrize(
    ("preset", "wire_format", "model"), cases(), ids=lambda v: getattr(v, "id", v)
)
def test_a_request_is_the_reviewed_one(
    preset: ProviderPreset, wire_format: str, model: str, tmp_path: Path
) -> None:
    reviewed = json.loads(FIXTURE.read_text(encoding="utf-8"))
    found = previewed(preset, wire_format, model, tmp_path)
    assert found == reviewed[key_of(preset, wire_format, model)]


def test_nothing_else_is_in_the_fixture() -> None:
    reviewed = json.loads(FIXTURE.read_text(encoding="utf-8"))
    assert list(reviewed) == [key_of(*case) for case in cases()]


def row(preset: ProviderPreset) -> str:
    addresses = "<br>".join(f"{name}: `{address}`" for name, address in preset.addresses.items())
    header = {None: "of the format", "bearer": "bearer"}.get(preset.auth, f"`{preset.auth}`")
    key = f"`{preset.key_env}`" if preset.key_env else "none"
    return f"| `{preset.id}` | {preset.title} | {addresses} | {key} | {header} |"


def table() -> str:
    head = "| `provider` | who | `base_url` by format, the default first | `api_key_env` | `auth` |"
    return "\n".join([head, "|---|---|---|---|---|", *map(row, PROVIDERS), ""])


def test_the_page_lists_every_provider() -> None:
    assert f"{START}{table()}{END}" in PAGE.read_text(encoding="utf-8")


def _write() -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(START)
    PAGE.write_text(f"{before}{START}{table()}{END}{rest.split(END)[1]}", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        found = {key_of(*case): previewed(*case, Path(folder)) for case in cases()}
    FIXTURE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
