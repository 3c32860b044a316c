"""A loopback server that speaks both wire formats: the rehearsal stage of every run.

    connection   HTTP/1.1 over one socket: bounded requests in, responses out
    server       the path of a request: route, key, quota, fate, bill, answer
    messages     the Claude Messages dialect            chat      the Chat Completions dialect
    calls        a validated request body, neutral      refusals  why a request is not answered
    answers      what is said and how it ends           labels    choosing one of the prompt's labels
    quota        rates per minute                       ledger    what was billed, and how often
    dice         every choice, as a function of the request

Nothing here leaves 127.0.0.1, and every answer says that it is simulated, unless the prompt asked
for exactly one of its own labels.
"""

from batchrun.simulator.command import serve_simulator
from batchrun.simulator.ledger import Ledger
from batchrun.simulator.server import Simulator, SimulatorConfig

__all__ = ["Ledger", "Simulator", "SimulatorConfig", "serve_simulator"]
