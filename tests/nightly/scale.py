"""How much a test tries, and which dice it throws: the nightly run asks for more, and for others each time."""

from __future__ import annotations

import os

FULL = os.environ.get("SWITCHTOWER_TEST_SCALE") == "full"
SEED = int(os.environ.get("SWITCHTOWER_TEST_SEED", "0"))
"""Which of a test's many nights this is; each step of a part that is split has its own."""
