"""The results of a run for people and for programs: `summary.json`, the terminal, `report.html`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
