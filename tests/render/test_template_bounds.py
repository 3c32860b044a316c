"""Templates of strangers: they cannot climb out of their values, nor take all memory and time."""

from __future__ import annotations

import datetime as dt
import json
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from batchrun.errors import JobError, RenderError
from batchrun.render.bounds import BUDGET
from batchrun.render.template import Text

if TYPE_CHECKING:
    from pathlib import Path

MEMORY_BYTES = 1_500 * 2**20
CPU_S = 90

_DOUBLED = "{%% set ns = namespace(x=%s) %%}{%% for i in range(99) %%}%s{%% endfor %%}{{ ns.x }}"


def doubled(start: str, change: str) -> str:
    """A template that doubles a value 99 times."""
    return _DOUBLED % (start, "{% set ns.x = " + change + " %}")


TOO_MUCH = {
    "power": "{{ 9 ** (9 ** 9) }}",
    "power of a cell": "{{ n ** (n ** n) }}",
    "text repeated": "{{ 'a' * 10 ** 10 }}",
    "list repeated": "{{ ([1] * 10 ** 10) | length }}",
    "text repeated often": "{{ (('a' * 10 ** 7) * 10) ~ (('a' * 10 ** 7) * 10) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent by star": "{{ '%*d' % (10 ** 9, 1) }}",
    "percent by a name in brackets": "{{ '%(a(b))999999999d' % {'a(b)': 1} }}",
    "percent many times": "{{ ('%(a)s' * 99999) % {'a': 'x' * 99999} }}",
    "format filter": "{{ '%.1000000000f' | format(1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format in a format": "{{ '{:{w}}'.format(1, w=10 ** 9) }}",
    "center": "{{ 'a' | center(10 ** 10) }}",
    "ljust": "{{ 'a'.ljust(10 ** 10) }}",
    "zfill": "{{ 'a'.zfill(10 ** 10) }}",
    "indent": "{{ ('a\n' * 10000) | indent(10 ** 6) }}",
    "indent by text": "{{ ('a\n' * 10000) | indent('x' * 10 ** 6) }}",
    "tabs": "{{ '\t'.expandtabs(10 ** 10) }}",
    "replace": "{{ ('a' * 10 ** 6) | replace('a', 'b' * 10 ** 6) }}",
    "replace method": "{{ ('a' * 10 ** 6).replace('', 'b' * 10 ** 6) }}",
    "join": "{{ range(99999) | join('x' * 99999) }}",
    "join method": "{{ ('x' * 10 ** 6).join('y' * 10 ** 6) }}",
    "join method of an iterator": "{{ ('x' * 10 ** 6).join(range(99999) | map('string')) }}",
    "nested loops": "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3,
    "a loop of text": "{% for a in range(99999) %}" + "x" * 9999 + "{% endfor %}",
    "a loop of constants": "{% for a in range(99999) %}{{ 'x' | center(9999) }}{% endfor %}",
    "a loop in a set block": (
        "{% set y %}{% for a in range(99999) %}" + "x" * 9999 + "{% endfor %}{% endset %}"
    ),
    "a recursive loop": (
        "{% for x in range(9) recursive %}{{ loop(range(99999)) if loop.depth < 9 }}{% endfor %}"
    ),
    "doubled by +": doubled("'a'", "ns.x + ns.x"),
    "doubled by ~": doubled("'a'", "ns.x ~ ns.x"),
    "doubled list": doubled("[1]", "[ns.x, ns.x]"),
    "doubled tuple as a key": doubled("(1,)", "(ns.x, ns.x)") + "{{ {ns.x: 1} }}",
    "doubled mapping": doubled("{}", "dict(a=ns.x, b=ns.x)"),
    "macro": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "batch": "{{ [1] | batch(10 ** 10, 'x') | list }}",
    "round": "{{ 5 | round(-(10 ** 9)) }}",
    "round up": "{{ 5 | round(10 ** 9, 'ceil') }}",
    "json": "{{ [[1]] | tojson(indent=10 ** 9) }}",
    "word wrap": "{{ ('a' * 10 ** 6) | wordwrap(1) }}",
    "urlize": "{{ ('http://a.b ' * 99999) | urlize(rel='x' * 99999) }}",
    "strip tags": "{{ ('<!---->' * 10 ** 6) | striptags }}",
    "strip": "{{ ('b' * 10 ** 7).strip('a' * 10 ** 7 ~ 'b') }}",
    "trim": "{{ ('b' * 10 ** 7) | trim(chars='a' * 10 ** 7 ~ 'b') }}",
    "split": "{{ ('aa ' * 10 ** 7).split() | length }}",
    "list": "{{ ('é€' * 10 ** 7) | list | length }}",
    "comparisons": (
        "{% set a = 'x' * 10 ** 6 %}{% set b = 'x' * 10 ** 6 %}"
        "{% for i in range(99999) %}{{ '.' if a == b }}{% endfor %}"
    ),
    "slices": (
        "{% set a = 'x' * 10 ** 6 %}{% for i in range(99999) %}{{ '.' if a[1:] }}{% endfor %}"
    ),
    "a huge number": "{{ ('f' * 10 ** 7) | int(0, 16) // 3 }}",
}
CLEAR = ("the template exceeds the limit for one row", "is wider than", "digits", "cannot contain")


def render_all() -> None:
    """In a child process with limits: tell how each template of `TOO_MUCH` ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    for name, template in TOO_MUCH.items():
        print(json.dumps([name, outcome_of(template)]), flush=True)


def outcome_of(template: str) -> str:
    try:
        text = Text("prompt", template).text({"n": 9})
    except (JobError, RenderError) as error:
        return str(error)
    return f"rendered {len(text)} characters"


def test_no_template_takes_all_memory_or_time() -> None:
    program = "from tests.render.test_template_bounds import render_all; render_all()"
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False
    )
    outcomes = dict(json.loads(line) for line in child.stdout.splitlines())
    # The first one missing is the one that did not end.
    assert list(outcomes) == list(TOO_MUCH), child.stderr[-300:]
    unclear = {name: end for name, end in outcomes.items() if not any(c in end for c in CLEAR)}
    assert unclear == {}


def test_a_bomb_in_a_job_file_is_told_with_its_key_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\nx\n")
    (tmp_path / "job.toml").write_text(
        '[input]\npath = "rows.csv"\n'
        '[request]\nmodel = "m"\nmax_tokens = 9\nprompt = "{{ 9 ** (9 ** 9) }}"\n'
    )
    command = [sys.executable, "-m", "batchrun", "run", "job.toml", "--simulate"]
    child = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert (child.returncode, child.stdout) == (2, "")
    assert "[request] prompt: a number would have more than 3,000 digits" in child.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for x in range(20000) %}{{ x % 10 }}{% endfor %}", "0123456789" * 2_000),
        ("{{ cell | replace('a', 'bb') | upper | length }}", "2000000"),
        ("{{ cell.split('b') | length }} {{ 'a b'.split()[1] }} {{ cell[:3] }}", "1 b aaa"),
        ("{{ '%-10s|%5.2f' % ('a', 2) }} {{ '{:>5}'.format(7) }}", "a         | 2.00     7"),
        ("{{ 'Order 1234567: %s' % n }} {{ 2 ** 64 }}", "Order 1234567: 9 18446744073709551616"),
        ("{{ '{a[k]} {b.year}'.format_map({'a': {'k': 1}, 'b': day}) }}", "1 2025"),
        ("{{ [n, 1] | sum }} {{ [n] + [1] }} {{ [n] * 2 }}", "10 [9, 1] [9, 9]"),
        ("{% for x in [1, [2]] recursive %}{{ x if x is number else loop(x) }}{% endfor %}", "12"),
        (
            "{% set s = namespace(x=0) %}{% for x in [n] %}{% set s.x = s.x + x %}{% endfor %}{{ s.x }}",
            "9",
        ),
        ("{% macro m(ns) %}{{ ns.x }}{% endmacro %}{{ m(namespace(x=n)) }}", "9"),
        (
            "{% for x in [1, 2, 3] %}{{ loop.last }}{{ loop.length }}{% endfor %}",
            "False3False3True3",
        ),
        ("{{ {'k': n} | tojson(indent=1) }}", '{\n "k": 9\n}'),
        ("{{ (1, n) }} {{ {'a': n}['a'] }} {{ [1, n, 3][1:] }}", "(1, 9) 9 [9, 3]"),
    ],
)
def test_what_a_prompt_can_need_is_within_the_bounds(template: str, text: str) -> None:
    values = {"n": 9, "cell": "a" * 10**6, "day": dt.date(2025, 1, 31)}
    assert Text("prompt", template).text(values) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ a.__class__.__base__.__subclasses__() }}",
        "{{ a | attr('__class__') }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ '{x.__class__}'.format_map({'x': 1}) }}",
        "{{ cycler['__init__']['__globals__'] }}",
        "{{ self._TemplateReference__context }}",
        "{{ '' | attr('__cla' ~ 'ss__') }}",
        "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
        "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
        "{{ (1).to_bytes(10 ** 10, 'big') }}",
        "{{ 'x'.encode('punycode') }}",
    ],
)
def test_ways_out_of_the_sandbox_are_refused_before_anything_is_sent(template: str) -> None:
    with pytest.raises(JobError) as caught:
        Text("prompt", template).try_once(["a"])
    reasons = ("cannot access Python internals", "is unsafe", "cannot be used in a template")
    assert str(caught.value).startswith("[request] prompt: ")
    assert any(reason in str(caught.value) for reason in reasons)


@pytest.mark.parametrize(
    "template",
    [
        "{{ a['__class__'] }}",
        "{{ a[name] }}",
        "{{ a | attr(name) }}",
        "{{ ('{0.' ~ name ~ '}').format(a) }}",
    ],
)
def test_ways_out_by_cells_are_errors_of_their_row(template: str) -> None:
    with pytest.raises(RenderError, match=r"unsafe"):
        Text("prompt", template).text({"a": "x", "name": "__class__"})


def test_a_column_named_like_an_internal_of_pandas_can_be_used() -> None:
    text = Text("prompt", "{{ row.__index_level_0__ }}")
    assert text.text({"row": {"__index_level_0__": 5}}) == "5"


def test_a_text_longer_than_any_request_is_an_error_of_its_row() -> None:
    text = Text("prompt", "{{ cell }}")
    assert len(text.text({"cell": "a" * 2**25})) == 2**25
    with pytest.raises(RenderError, match=r"prompt: the text has 33,554,433 characters; at most"):
        text.text({"cell": "a" * (2**25 + 1)})
    # A cell alone is taken as it is; among other text it is work of the template.
    beyond = "a" * (BUDGET + 1)
    with pytest.raises(RenderError, match=r"prompt: the text has 100,000,001 characters; at most"):
        text.text({"cell": beyond})
    with pytest.raises(RenderError, match=r"use shorter loops, repeats, widths or cells"):
        Text("prompt", ".{{ cell }}").text({"cell": beyond})


def test_a_column_named_like_a_function_is_not_taken_for_it() -> None:
    text = Text("prompt", "{{ range }}!")
    text.try_once(["range"])
    assert text.text({"range": 5}) == "5!"
    with pytest.raises(JobError, match="is a function"):
        text.try_once(["other"])


def test_each_row_has_the_whole_budget() -> None:
    text = Text("prompt", "{{ (cell * 3) | length }}")
    assert [text.text({"cell": "a" * 10**7}) for _ in range(3)] == ["30000000"] * 3


# Uses up nine tenths of a row's budget, by twice its length.
NINE_TENTHS = "a" * (BUDGET * 9 // 20)


@pytest.mark.parametrize(
    ("step", "times"),
    [
        ("", 100_000),
        ("{% if cell | upper %}{% endif %}", 49_000),
        ("{% if cell is number %}{% endif %}", 49_500),
        ("{% if n + 1 %}{% endif %}", 37_500),
        ("{% if cell.isdigit() %}{% endif %}", 13_400),
        ("{% if dict() %}{% endif %}", 14_200),
        ("{% if m() %}{% endif %}", 16_500),
    ],
)
def test_a_row_may_take_a_million_steps_and_a_call_is_five(step: str, times: int) -> None:
    """What docs/job.md says; a step takes a turn of the loop beside it."""
    loop = "{% for x in items %}" + step + "{% endfor %}"
    text = Text("prompt", "{% macro m() %}{% endmacro %}{% if filler | upper %}{% endif %}" + loop)
    values = {"cell": "x", "n": 9, "filler": NINE_TENTHS}
    assert text.text({**values, "items": ["x"] * (times * 95 // 100)}) == ""
    with pytest.raises(RenderError, match="the template exceeds the limit for one row"):
        text.text({**values, "items": ["x"] * (times * 105 // 100)})
