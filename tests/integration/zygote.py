"""A process that has imported everything and forks a child for each run, so that runs to be killed start at once.

Reads configs from stdin, one a line; answers `started PID` and `ended PID STATUS`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import pandas  # noqa: F401
    import peft  # noqa: F401
    import torch

    from trainer_core import run
    from trainer_core.stages import lora_checkpoint  # noqa: F401

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            session = run.open_session(Path(line.strip()))
            run.run_until(session)
            session.close()
            os._exit(0)
        print(f"started {child}", flush=True)
        _, status = os.waitpid(child, 0)
        print(f"ended {child} {status}", flush=True)


if __name__ == "__main__":
    main()
