"""A loopback server that speaks both wire formats: the rehearsal stage of every run.

    connection            HTTP/1.1 over one socket: bounded requests in, responses out
    server                the path of a request: route, key, answer or refusal
    provider              its way inside: quota, fate, bill, answer
    messages, chat        the two dialects; `dialect` is what they have in common
      *_request           what they take, by the checks of `fields`, `content`, `tool_fields`
      *_answer            what they write: whole, or events
    calls                 a request, checked and neutral
    refusals              why a request gets an error instead of an answer
    answers               what is said, and how it ends: `labels`, `prose`, `schemas`, `tools`
    streams               how it is cut, spread over time and broken off
    caching               which part of a prompt was seen before
    quota                 rates per minute
    ledger                what was billed, and how often
    dice                  every choice, as a function of the request

Nothing here leaves 127.0.0.1, and every answer says that it is simulated, unless the prompt asked
for exactly one of its own labels.
"""

from batchrun.simulator.command import serve_simulator
from batchrun.simulator.config import SimulatorConfig
from batchrun.simulator.ledger import Ledger
from batchrun.simulator.server import Simulator

__all__ = ["Ledger", "Simulator", "SimulatorConfig", "serve_simulator"]
