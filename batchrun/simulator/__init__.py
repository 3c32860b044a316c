"""A server on loopback that speaks both wire formats, for rehearsals: no key, no cost.

    http_server              HTTP/1.1 over sockets, event streams, a router; knows no format
    service                  routes and keys; the way of a request to its answer or refusal
    provider                 settings; the same way without HTTP: admission, outcome, bill, answer
    accounting               bills, rates per minute, prompts seen before
    messages_api, chat_api   the two formats: request schemas, answers, events, errors, headers
    message_batch_api, chat_batch_api   the batch endpoints of both; `batch_desk` works batches out,
                             `batch_store` keeps them, `uploads` reads what clients upload
    request_schema           terms of these schemas; how a checked request is read
    calls                    a request and its answer in neutral terms
    composition              what is answered: `labels`, `prose`, `generator` (for JSON Schemas)
    draws                    every choice, as a function of the request

Nothing leaves 127.0.0.1. Every answer says that it is simulated, unless the prompt asks for exactly
one of its own labels.
"""

from batchrun.simulator.accounting import UsageRecord
from batchrun.simulator.provider import SimulatorConfig
from batchrun.simulator.service import Simulator, serve_simulator

__all__ = ["Simulator", "SimulatorConfig", "UsageRecord", "serve_simulator"]
