"""The job file: TOML → a validated, frozen `Job`.

A `Job` says what to do and never holds a row. It can be rebuilt from its `document` (the TOML as
data, with command line overrides applied) and the folder that its relative paths start from;
that is how a run directory can write its outputs again without the job file.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
