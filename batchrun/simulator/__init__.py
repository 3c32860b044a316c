"""A loopback server that speaks both wire formats: the rehearsal stage of every run.

    connection        HTTP/1.1 over one socket: bounded requests in, responses out
    server            the path of a request: route, key, quota, fate, bill, answer
    messages, chat    the two dialects; `dialect` is what they have in common
    calls             a request's body, checked and neutral
    refusals          why a request gets an error instead of an answer
    answers, labels   what is said, and how it ends
    quota             rates per minute
    ledger            what was billed, and how often
    dice              every choice, as a function of the request

Nothing here leaves 127.0.0.1, and every answer says that it is simulated, unless the prompt asked
for exactly one of its own labels.
"""

from batchrun.simulator.command import serve_simulator
from batchrun.simulator.ledger import Ledger
from batchrun.simulator.server import Simulator, SimulatorConfig

__all__ = ["Ledger", "Simulator", "SimulatorConfig", "serve_simulator"]
