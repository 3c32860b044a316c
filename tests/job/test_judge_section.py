"""`[score.judge]`: what it takes from the job, what it refuses, and what the judge is asked."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from batchrun.errors import JobError
from batchrun.job import Job, JudgeConfig, RequestConfig
from batchrun.job.judge import OWN_KEYS, RUBRICS, judge_document, judge_of, rubric
from tests.conftest import ROOT
from tests.support.jobs import make, refusal

if TYPE_CHECKING:
    from pathlib import Path

JUDGE: dict[str, Any] = {"prompt": "Right? {{ response }}", "choices": {"yes": 1.0, "no": 0}}


def section(keys: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**JUDGE, **keys}.items() if value is not None}


def judged(request: dict[str, Any] | None = None, **judge: Any) -> JudgeConfig:
    job = make(request=request or {}, score={"judge": section(judge)})
    (score,) = job.scores
    assert score.judge is not None
    return score.judge


def asked(request: dict[str, Any] | None = None, **judge: Any) -> RequestConfig:
    found = judged(request, **judge).request
    assert found is not None
    return found


def problem(**judge: Any) -> str:
    return refusal(score={"judge": section(judge)})


CONNECTION = {
    "format": "chat",
    "base_url": "https://gateway.example",
    "provider": "openrouter",
    "api_key_env": "GATEWAY_KEY",
    "secret_headers": {"x-team": "TEAM_KEY"},
    "model": "small",
}


def test_a_judge_uses_the_provider_of_the_job() -> None:
    found = asked(CONNECTION, model="large")
    assert (found.base_url, found.format, found.api_key_env) == (
        "https://gateway.example",
        "chat",
        "GATEWAY_KEY",
    )
    assert (found.provider, found.model) == ("openrouter", "large")
    assert found.secret_headers == (("x-team", "TEAM_KEY"),)
    assert asked(CONNECTION).model == "small"


@pytest.mark.parametrize(
    "own", [{"base_url": "https://other.example"}, {"format": "messages"}, {"provider": "openai"}]
)
def test_nothing_of_the_job_reaches_another_server(own: dict[str, Any]) -> None:
    found = asked(CONNECTION, model="large", **own)
    assert "GATEWAY_KEY" not in repr(found)
    assert "TEAM_KEY" not in repr(found)
    assert found.base_url != "https://gateway.example"


def test_parameters_of_the_job_are_not_those_of_the_judge() -> None:
    found = asked({"temperature": 0.9, "system": "Be brief."})
    assert found.parameters == {"max_tokens": 1024}
    assert found.system == ()


def test_the_prompt_ends_with_the_verdicts() -> None:
    ((_, prompt),) = asked().turns
    assert prompt.startswith("Right? {{ response }}\n\n")
    assert prompt.endswith("Verdict: X\nX is one of: yes, no.")
    ((_, prompt),) = asked(choices=None, scale=[1, 5]).turns
    assert prompt.endswith("X is a whole number from 1 (worst) to 5 (best).")
    ((_, prompt),) = asked(answer=r"GRADE: (\w+)").turns
    assert prompt == "Right? {{ response }}"


def test_turns_end_with_the_verdicts_of_the_last_user() -> None:
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}]
    turns.append({"role": "user", "content": "Right? {{ response }}"})
    found = asked(prompt=None, messages=turns).turns
    assert found[0] == ("user", "Hello")
    assert found[2][1].endswith("X is one of: yes, no.")


@pytest.mark.parametrize("name", RUBRICS)
def test_a_rubric_can_be_copied(name: str) -> None:
    path = ROOT / "batchrun" / "job" / "rubrics" / f"{name}.toml"
    copied = tomllib.loads(path.read_text(encoding="utf-8"))
    (by_name,) = make(score={"expected": "x", "judge": {"rubric": name}}).scores
    (by_copy,) = make(score={"expected": "x", "judge": copied}).scores
    assert by_name == by_copy
    assert by_name.judge is not None
    assert by_name.judge.choices == rubric(name)["choices"]


def test_keys_replace_those_of_a_rubric() -> None:
    found = judged(
        prompt="Other: {{ response }}", choices=None, scale=[0.0, 1.0], rubric="correctness"
    )
    assert (found.scale, found.choices) == ((0.0, 1.0), {})
    assert found.request is not None
    assert found.request.turns[0][1].startswith("Other: ")
    assert "grade answers" in found.request.system[0][0]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"choices": None}, "choices: set the verdicts with their scores"),
        ({"scale": [1, 5]}, "one of the two"),
        ({"choices": {"yes": 1.0}}, "needs 2 to 100 different labels"),
        ({"choices": {"yes": 1.0, "Yes": 0.0}}, "different labels"),
        ({"choices": {"yes": True, "no": 0.0}}, "the score of yes must be a number, not True"),
        ({"choices": {"yes": float("nan"), "no": 0.0}}, "must be a number, not nan"),
        ({"choices": {"yes, or": 1.0, "no": 0.0}}, "without any of {}%,:"),
        ({"choices": ["yes", "no"]}, "must give each verdict its score"),
        ({"choices": None, "scale": [5, 1]}, "must be the lowest and the highest number"),
        ({"choices": None, "scale": 5}, "must be the lowest and the highest number"),
        ({"choices": None, "scale": [0, 10**6]}, "at most 1,000 steps"),
        ({"rubric": "corectness"}, "not 'corectness'; did you mean \"correctness\""),
        ({"prompt": None}, "set exactly one of prompt"),
        ({"tools": []}, "[score.judge] tools: is not possible for a judge"),
        ({"n": 2}, "n: is not possible for a judge"),
        ({"modle": "x"}, "[score.judge] modle: unknown key"),
        ({"temperature": "hot"}, "[score.judge] temperature"),
        ({"base_url": "https://other.example"}, "[score.judge] model: is missing"),
    ],
)
def test_what_is_wrong_is_named(keys: dict[str, Any], said: str) -> None:
    assert said in problem(**keys).replace(" (did", "; did")


def test_what_a_judge_makes_useless_is_refused() -> None:
    assert "[score] match: has no effect with a judge" in refusal(
        score={"match": "exact", "expected": "x", "judge": JUDGE}
    )


def test_a_cap_needs_a_bound_of_the_judge() -> None:
    limits = {"max_cost_usd": 1.0}
    body = {"n": 5}
    said = refusal(limits=limits, score={"judge": {**JUDGE, "extra_body": body}})
    assert "cannot be enforced with [score.judge] extra_body n" in said


def test_how_verdicts_are_read_survives_the_checkpoint() -> None:
    for config in (judged(), judged(choices=None, scale=[1, 5]), judged(answer="GRADE: (.)")):
        copy = judge_of(judge_document(config))
        assert (copy.choices, copy.scale, copy.answer) == (
            config.choices,
            config.scale,
            config.answer,
        )
        assert copy.is_whole == config.is_whole


def test_a_judge_at_the_top_is_in_the_wrong_place(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('[input]\npath = "x.csv"\n[judge]\nmodel = "m"\n')
    with pytest.raises(JobError, match=r"a judge belongs in \[score.judge\]"):
        Job.load(path)


def test_prompt_files_of_a_judge(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "job.toml"
    text = (
        '[input]\npath = "x.csv"\n[request]\nmodel = "m"\nprompt = "p"\nmax_tokens = 9\n'
        '[score.judge]\nprompt_file = "{}"\nchoices = {{ yes = 1, no = 0 }}\n'
    )
    (tmp_path / "inside" / "judge.txt").write_text("Right? {{ response }}")
    (tmp_path / "outside.txt").write_text("secret")
    path.write_text(text.format("judge.txt"))
    (score,) = Job.load(path).scores
    assert score.judge is not None
    assert score.judge.request is not None
    assert score.judge.request.turns[0][1].startswith("Right? {{ response }}")
    path.write_text(text.format("../outside.txt"))
    with pytest.raises(JobError, match=r"--set score\.judge\.prompt_file"):
        Job.load(path)


def test_the_page_has_the_keys_of_a_judge() -> None:
    page = (ROOT / "docs" / "job.md").read_text(encoding="utf-8")
    part = page[page.index("### Judges") : page.index("## `[output]`")]
    rows = re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)
    assert set(OWN_KEYS) <= set(rows)
