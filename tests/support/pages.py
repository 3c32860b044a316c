"""The documents, and the commands in them."""

from __future__ import annotations

import re

CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
