"""Tests of the guest fork. They run in a fresh interpreter (`test_guest.py`): the fork of a process
that has run threads may hang.
"""

from __future__ import annotations

import os

FRESH = "POSTTRAIN_TEST_IN_A_FRESH_PROCESS"

collect_ignore_glob = [] if os.environ.get(FRESH) else ["guest/*"]
