"""Commands on a run directory that send nothing: status, export, score; and loading a job."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
