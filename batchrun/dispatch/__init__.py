"""Sends requests until each has a result; judges answers and faults; runs the tools of conversations.

A `DispatcherFactory` is a way to dispatch: it makes the `Dispatcher` of a run. `LIVE` sends one HTTP
exchange for each attempt. `judgement` says what an answer or a fault means, for every way to dispatch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
