"""One measurement in a process of its own: `python -m benchmarks._child MODULE:FUNCTION '{"arguments": ...}'`."""

from __future__ import annotations

import importlib
import json
import sys


def main() -> None:
    """Call the function and print its answer as the last line."""
    module, _, function = sys.argv[1].partition(":")
    answer = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    print()
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
