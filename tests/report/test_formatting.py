"""Tables for people: as wide as their cells, or as a terminal."""

from __future__ import annotations

from batchrun.report.formatting import in_columns

MODEL = "anthropic/claude-sonnet-4-5-20250929-preview-with-a-long-suffix"
HEADS = ["run", "model", "rows", "ok", "score", "95 % CI", "cost", "per correct", "p50", "p90"]
ROWS = [
    HEADS,
    ["triage", f"{MODEL}:thinking", "40", "39", "0.0 %", "0.0 to 8.8", "$0.0046", "", "1 s", "2 s"],
    [
        "other",
        f"{MODEL}:plain",
        "40",
        "40",
        "42.5 %",
        "28.5 to 57.8",
        "$0.0020",
        "$0.1",
        "1 s",
        "2 s",
    ],
]


def test_a_table_without_a_width_has_every_cell_whole() -> None:
    lines = in_columns(ROWS)
    assert len(lines) == len(ROWS)
    assert f"{MODEL}:thinking" in lines[1]


def test_names_are_cut_before_columns_are_left_out() -> None:
    lines = in_columns(ROWS, 120)
    assert max(map(len, lines)) <= 120
    assert lines[0].split() == " ".join(HEADS).split()
    assert "…" in lines[1]
    assert ":thinking" in lines[1]
    assert len(lines) == len(ROWS)


def test_what_matters_stays_at_60_and_80_columns() -> None:
    for width in (60, 80):
        *lines, said = in_columns(ROWS, width)
        assert max(map(len, lines)) <= width
        for head in ("run", "model", "score", "95 % CI", "cost"):
            assert head in lines[0]
        assert "p90" not in lines[0]
        assert said.startswith("no room for: p90, p50")
        assert "$0.0046" in lines[1]
        assert "28.5 to 57.8" in lines[2]


def test_a_table_that_has_room_is_left_alone_and_names_never_look_alike() -> None:
    assert in_columns(ROWS, 400) == in_columns(ROWS)
    alike = [["run"], ["a" * 20 + "b" + "a" * 20], ["a" * 20 + "c" + "a" * 20]]
    assert len(set(in_columns(alike, 20))) == 3
    near = [["run"], [MODEL + ":thinking"], [MODEL + ":nothinking"]]
    assert in_columns(near, 9)[1:] == ["anthropic…:thinking", "anthropic…othinking"]
