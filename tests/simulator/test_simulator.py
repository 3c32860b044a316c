"""What the simulator answers, read by the vendors' own clients."""

from __future__ import annotations

import json
import re
import time

import anthropic
import openai
import pytest

from batchrun.simulator import SimulatorConfig
from batchrun.simulator.calls import SimulatedFormat, count_tokens
from batchrun.simulator.chat_api import SimulatedChat
from batchrun.simulator.composition import compose
from batchrun.simulator.labels import find_labels
from batchrun.simulator.messages_api import SimulatedMessages
from batchrun.simulator.provider import SimulatedProvider
from tests.support.simulated import (
    BOTH,
    CHAT,
    MESSAGES,
    MODEL,
    body,
    serving,
    text_of,
)

pytestmark = pytest.mark.anyio

TRIAGE = "Answer with exactly one of these labels: billing, bug, how_to, account, feature_request, cancellation."


async def test_the_anthropic_client_understands_a_message() -> None:
    async with (
        serving() as peer,
        anthropic.AsyncAnthropic(base_url=peer.url, api_key="any", max_retries=0) as client,
    ):
        message = await client.messages.create(
            model=MODEL,
            max_tokens=100,
            system="Be brief.",
            messages=[{"role": "user", "content": "Why was my invoice charged twice?"}],
        )
    (block,) = message.content
    assert block.type == "text"
    assert block.text.startswith("(simulated) ")
    assert "charged" in block.text
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert (message.model, message.role, message.type) == (MODEL, "assistant", "message")
    assert re.fullmatch(r"msg_sim_[0-9a-f]{24}", message.id)
    assert message._request_id == "req_sim_0000000000000001"
    assert message.usage.input_tokens == (9 + 3) + (3 + 3)  # 33 and 9 characters, and two turns
    assert message.usage.output_tokens == count_tokens(block.text)
    assert message.usage.cache_creation_input_tokens == 0
    assert message.usage.cache_read_input_tokens == 0
    assert message.usage.service_tier == "standard"


async def test_the_openai_client_understands_a_completion() -> None:
    async with (
        serving() as peer,
        openai.AsyncOpenAI(base_url=f"{peer.url}/v1", api_key="any", max_retries=0) as client,
    ):
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL,
            n=5,
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Why was my invoice charged twice?"},
            ],
        )
    completion = raw.parse()
    texts = [choice.message.content or "" for choice in completion.choices]
    assert len(set(texts)) == 5
    assert all(text.startswith("(simulated) ") for text in texts)
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3, 4]
    assert {choice.finish_reason for choice in completion.choices} == {"stop"}
    assert completion.object == "chat.completion"
    assert re.fullmatch(r"chatcmpl-sim-[0-9a-f]{24}", completion.id)
    assert abs(completion.created - time.time()) < 60
    assert raw.headers["x-request-id"] == "req_sim_0000000000000001"
    assert completion.usage
    assert completion.usage.prompt_tokens == (9 + 3) + (3 + 3)
    assert completion.usage.completion_tokens == sum(map(count_tokens, texts))
    assert completion.usage.total_tokens == 18 + completion.usage.completion_tokens


async def test_chat_usage_has_the_shape_of_the_gateways() -> None:
    async with serving() as peer:
        usage = (await peer.post(CHAT)).json()["usage"]
    assert usage["prompt_tokens_details"] == {
        "cached_tokens": 0,
        "text_tokens": 0,
        "audio_tokens": 0,
        "image_tokens": 0,
    }
    assert usage["completion_tokens_details"] == {
        "text_tokens": 0,
        "audio_tokens": 0,
        "reasoning_tokens": 0,
    }
    assert usage["input_tokens_details"] is None
    assert usage["claude_cache_creation_5_m_tokens"] == 0


async def test_a_label_of_the_system_prompt_is_the_whole_answer() -> None:
    tickets = {
        "I was billed twice.": "billing",
        "There are bugs.": "bug",
        "Please cancel it.": "cancellation",
        "I cannot open my account.": "account",
    }
    async with serving() as peer:
        for ticket, label in tickets.items():
            system = {"role": "system", "content": TRIAGE}
            chat = await peer.post(CHAT, messages=[system, {"role": "user", "content": ticket}])
            message = await peer.post(MESSAGES, ticket, system=[{"type": "text", "text": TRIAGE}])
            assert [text_of(chat), text_of(message)] == [label, label]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Labels: positive, negative", "positive|negative"),
        ("Labels:\n\n- billing: payments\n- bug (crashes)\n- how_to\n\nText", "billing|bug|how_to"),
        ("Choose one of these categories:\n1. Bug report\n2. Other", "Bug report|Other"),
        ("Reply with one of: a, b or c", "a|b|c"),
        ("choose from a, b, or c.", "a|b|c"),
        ("Please choose between yes and no.", "yes|no"),
        ("Is it one of billing, bug or account?", "billing|bug|account"),
        ('One of these labels: "how to", \'bug\' or `other`.\nIt said "no".', "how to|bug|other"),
        ('Reply with one of ["a", "b", "c"]', "a|b|c"),
        ("one of the labels (a/b/c) and nothing else", "a|b|c"),
        ("One of these labels: a, b, c and nothing else", "a|b|c"),
        ("Answer with exactly one word: good, bad or mixed.", "good|bad|mixed"),
        ("Reply with a single word: yes or no.", "yes|no"),
        ("Is this urgent? Answer yes or no.", "yes|no"),
        (
            "Answer only with positive, negative or neutral.\nReview: it works",
            "positive|negative|neutral",
        ),
        ('Respond with either "spam" or "ham": I won', "spam|ham"),
        (
            "Classify the review as positive, negative or neutral: it works",
            "positive|negative|neutral",
        ),
        ("Classify as spam or ham.", "spam|ham"),
        ("Is it true or false? Answer with true or false", "true|false"),
        ("Output just one letter: A, B, C or D", "A|B|C|D"),
        ("Sentiment (positive/negative/neutral):", "positive|negative|neutral"),
        ("Options: red, green, blue", "red|green|blue"),
        ("Answer with one word: what is the capital of France?", None),
        ("Answer the question or explain why you cannot.", None),
        ("Reply with a short summary, in plain words, and sign it.", None),
        ("Answer in English or in French.", None),
        ("Describe it as well as you can: red, green, blue", None),
        ("Allowed labels are billing, bug, and other.", "billing|bug|other"),
        ("I went to one of the best, most beautiful places, really", None),
        ("I bought one of each and it broke", None),
        ("I could not choose between the two.", None),
        ("Labels are assigned by humans.", None),
        ("Labels: none", None),
        ("", None),
    ],
)
def test_labels_are_found_where_a_prompt_offers_them(text: str, labels: str | None) -> None:
    offer = find_labels(text)
    assert (offer and "|".join(offer.labels)) == labels


async def test_the_offer_itself_speaks_for_no_label() -> None:
    prompt = "One of these labels: cancellation, billing. Ticket {}: I was billed twice."
    async with serving() as peer:
        answers = {text_of(await peer.post(MESSAGES, prompt.format(n))) for n in range(10)}
    assert answers == {"billing"}


@BOTH
async def test_the_last_user_message_is_answered(path: str) -> None:
    turns = [("user", "Apples"), ("assistant", "Fine"), ("user", "Invoices"), ("user", "Pears")]
    messages = [{"role": role, "content": content} for role, content in turns]
    async with serving() as peer:
        text = text_of(await peer.post(path, messages=messages))
    assert "Pears" in text
    assert "Apples" not in text


def test_all_choices_differ() -> None:
    call = SimulatedChat().parse(body("Hi", n=128), {})
    assert len({answer.text for answer in compose(call, 0)}) == 128


async def test_labels_without_a_hint_differ_from_ticket_to_ticket() -> None:
    async with serving() as peer:
        labels = {text_of(await peer.post(MESSAGES, f"No. {n}", system=TRIAGE)) for n in range(40)}
    assert labels == {"billing", "bug", "how_to", "account", "feature_request", "cancellation"}


@BOTH
async def test_a_prefill_is_continued(path: str) -> None:
    async with serving() as peer:

        async def after(prefill: str, prompt: str) -> str:
            turns = [("user", prompt), ("assistant", prefill)]
            messages = [{"role": role, "content": content} for role, content in turns]
            return text_of(await peer.post(path, messages=messages))

        assert await after("Label: fea", f"{TRIAGE} Hello") in TRIAGE
        assert await after("fea", f"{TRIAGE} Hello") == "ture_request"
        assert (await after("The answer is", "Why invoices?")).startswith(" (simulated) ")


@BOTH
async def test_max_tokens_and_stop_sequences_cut_the_answer(path: str) -> None:
    stop_field = "stop_sequences" if path == MESSAGES else "stop"
    async with serving() as peer:
        clipped = await peer.post(path, "Invoices, please", max_tokens=5)
        stopped = await peer.post(path, "Invoices, please", **{stop_field: ["zz", "'", "ces'"]})
    assert text_of(clipped).startswith("(simulated) ")
    assert len(text_of(clipped)) == 5 * 4
    assert text_of(stopped).startswith("(simulated) ")
    assert "'" not in text_of(stopped)
    if path == MESSAGES:
        assert clipped.json()["stop_reason"] == "max_tokens"
        assert clipped.json()["usage"]["output_tokens"] == 5
        assert stopped.json()["stop_reason"] == "stop_sequence"
        assert stopped.json()["stop_sequence"] == "'"
    else:
        assert clipped.json()["choices"][0]["finish_reason"] == "length"
        assert stopped.json()["choices"][0]["finish_reason"] == "stop"


def test_tokens_are_believable() -> None:
    assert count_tokens("") == 0
    assert count_tokens("a" * 400) == 100
    assert count_tokens("中" * 400) == 300


async def test_answers_follow_from_seed_and_body_alone() -> None:
    prompts = [f"Question {number} about invoices and refunds" for number in range(30)]

    async def answers(seed: int, asked: list[str]) -> dict[str, str]:
        async with serving(SimulatorConfig(seed=seed)) as peer:
            return {prompt: text_of(await peer.post(CHAT, prompt)) for prompt in asked}

    first = await answers(1, prompts)
    assert await answers(1, prompts[::-1]) == first
    assert await answers(2, prompts) != first
    assert len(set(first.values())) > 20


@BOTH
async def test_an_answer_without_http_is_the_one_that_is_served(path: str) -> None:
    wire: SimulatedFormat = SimulatedMessages() if path == MESSAGES else SimulatedChat()
    content = json.dumps(body("Invoices?")).encode()
    provider = SimulatedProvider(SimulatorConfig(), time.monotonic, time.time)
    answer = wire.completion(provider.answer(wire, content, {})[0])
    async with serving() as peer:
        served = (await peer.http.post(path, content=content)).json()
    assert served | {"created": 0} == answer | {"created": 0}
    assert provider.counter.snapshot().billed == 1


@BOTH
async def test_a_result_is_guessed_where_the_prompt_says_how_to_give_it(path: str) -> None:
    guesses = {}
    async with serving() as peer:
        for number in range(2, 40):
            asked = f"What are {number} and 3 together? End with #### and the result."
            reply = text_of(await peer.post(path, asked))
            guesses[number] = float(reply.rpartition("\n#### ")[2])
        plain = text_of(await peer.post(path, "What are 4 and 3 together?"))
    right = sum(guess == number + 3 for number, guess in guesses.items())
    assert 0 < right < len(guesses)
    assert "####" not in plain


@BOTH
async def test_only_with_a_temperature_do_answers_differ(path: str) -> None:
    async with serving() as peer, serving() as other:
        for temperature in (None, 0, 0.7):
            asked = [await peer.post(path, temperature=temperature) for _ in range(8)]
            again = [await other.post(path, temperature=temperature) for _ in range(8)]
            texts = [text_of(reply) for reply in asked]
            assert [text_of(reply) for reply in again] == texts
            assert (len(set(texts)) > 1) is bool(temperature)
