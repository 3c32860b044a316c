"""A server on loopback that answers in both wire formats: no API key, no cost.

    http_server              HTTP/1.1 over sockets, event streams, a router; independent of formats
    service                  routes and keys; takes a request to its answer or refusal
    provider                 the same without HTTP: admission, outcome, bill, answer
    settings                 limits, latency and shares of faults
    accounting               bills, rates per minute, prompts seen before
    messages_api, chat_api   the two formats: request schemas, answers, events, errors, headers
    message_batch_api, chat_batch_api   the batch endpoints of both; `batch_processing` processes batches,
                             `batch_store` stores them, `uploads` reads uploads of clients
    request_schema           terms of these schemas; reads checked requests
    calls                    a request and its answer in neutral terms
    composition              content of answers: `labels`, `prose`, `generator` (for JSON Schemas)
    draws                    random choices, as functions of the request

Nothing leaves 127.0.0.1. Every answer says that it is simulated, unless the prompt asks for exactly
one of its own labels.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
