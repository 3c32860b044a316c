"""Scores answers: compares them with expected values, and computes metrics. No I/O.

`Scorer` scores one row; `score_facts` and `score_lines` describe the scores of many.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
