"""A process that searches texts for regular expressions: one that runs for hours can be killed.

Run as `python -m posttrain.rewards.pattern_worker`. Each line of standard input is a JSON list
[regex, text]; each line of standard output is true or false.
"""

from __future__ import annotations

import functools
import json
import re
import sys


@functools.lru_cache(maxsize=64)
def _compiled(regex: str) -> re.Pattern[str]:
    return re.compile(regex, re.DOTALL)


def main() -> None:
    """Answer until the input ends, which it does when the parent is gone."""
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        regex, text = json.loads(line)
        print(json.dumps(_compiled(regex).search(text) is not None), flush=True)


if __name__ == "__main__":
    main()
