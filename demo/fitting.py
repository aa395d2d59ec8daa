"""One training loop for both phases of the pretraining, with a mean of the weights and resume.

Randomness and the learning rate depend on the seed and the step only, so a resumed run is the
uninterrupted one.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from demo.muon import Muon

REPORT_STEPS = 50
SAVE_SECONDS = 120.0
WARMUP_STEPS = 50
WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class Task:
    """What a phase trains."""

    name: str
    module: nn.Module
    loss: Callable[[int], Tensor]
    """From a step number to a scalar loss."""
    steps: int
    learning_rate: float
    checkpoint: Path
    matrices: Callable[[str, nn.Parameter], bool]
    """Which parameters, by name, Muon trains; AdamW trains the others."""
    mean_decay: float = 0.998


class StopRequest:
    """Whether SIGTERM or SIGINT asked the run to save and leave."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        """Note the signal; the loop looks after each step."""
        self.asked = True


@contextmanager
def stop_request() -> Generator[StopRequest, None, None]:
    """Catch SIGTERM and SIGINT for the length of a block."""
    stop = StopRequest()
    before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of `peak`."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return peak * warm * (0.51 + 0.49 * math.cos(math.pi * min(1.0, step / steps)))


def fit(task: Task) -> bool:
    """Train up to `task.steps`; return False if a signal asked to stop earlier.

    The checkpoint holds the weights, their running mean and the optimizer's state.
    """
    names = dict(task.module.named_parameters())
    matrices = {name for name, parameter in names.items() if parameter.ndim > 1 and task.matrices(name, parameter)}
    optimizer = Muon(
        [p for n, p in names.items() if n in matrices], [p for n, p in names.items() if n not in matrices], WEIGHT_DECAY
    )
    mean = {name: p.detach().clone() for name, p in names.items()}
    first = _load(task.checkpoint, names, mean, optimizer) if task.checkpoint.exists() else 0
    started = saved = time.monotonic()
    losses: list[Tensor] = []
    task.module.train()
    with stop_request() as stop:
        for step in range(first, task.steps):
            losses.append(_one_step(task, step, optimizer, mean))
            done = step + 1
            if done % REPORT_STEPS == 0:
                pace = (time.monotonic() - started) / (done - first)
                _report(task, done, float(torch.stack(losses).mean()), pace)
                losses.clear()
            if stop.asked or time.monotonic() - saved > SAVE_SECONDS or done == task.steps:
                _save(task.checkpoint, done, names, mean, optimizer)
                saved = time.monotonic()
            if stop.asked:
                return done == task.steps
    return True


def _one_step(task: Task, step: int, optimizer: torch.optim.Optimizer, mean: dict[str, Tensor]) -> Tensor:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, task.steps, task.learning_rate)
    optimizer.zero_grad(set_to_none=True)
    loss = task.loss(step)
    loss.backward()
    nn.utils.clip_grad_norm_(task.module.parameters(), 1.0)
    optimizer.step()
    # A young mean forgets faster, or it would still hold the random beginning.
    decay = min(task.mean_decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, parameter in task.module.named_parameters():
            mean[name].lerp_(parameter, 1.0 - decay)
    return loss.detach()


def _report(task: Task, done: int, loss: float, pace: float) -> None:
    minutes = pace * (task.steps - done) / 60
    progress = f"{time.strftime('%H:%M:%S')} {task.name} {done}/{task.steps} loss {loss:.4f}"
    print(f"{progress} {pace:.3f} s/step eta {minutes:.1f} min", flush=True)


def _save(
    path: Path,
    step: int,
    names: dict[str, nn.Parameter],
    mean: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the checkpoint; a kill leaves the old file or the new one."""
    tensors = {f"weight.{n}": p.detach() for n, p in names.items()}
    tensors |= {f"mean.{n}": m for n, m in mean.items()}
    for n, p in names.items():
        for key, value in optimizer.state[p].items():
            tensors[f"state.{key}.{n}"] = value
    data = save({k: v.cpu().contiguous() for k, v in tensors.items()}, {"step": str(step)})
    write_atomically(path, data)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data` as one action: temporary file, flush to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _load(
    path: Path,
    names: dict[str, nn.Parameter],
    mean: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    with safe_open(path, "pt") as file:
        for n, p in names.items():
            p.data.copy_(file.get_tensor(f"weight.{n}"))
            mean[n].copy_(file.get_tensor(f"mean.{n}"))
        for key in list(file.keys()):
            kind, name, parameter = key.split(".", 2)
            if kind == "state":
                value = file.get_tensor(key)
                optimizer.state[names[parameter]][name] = value if name == "step" else value.to(names[parameter].device)
        return int(file.metadata()["step"])


def load_mean(path: Path, module: nn.Module) -> int:
    """Put the running mean of a checkpoint into `module`; return the step it was saved at."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no checkpoint yet. Run `python -m demo.pretrain` first.")
    with safe_open(path, "pt") as file:
        for name, parameter in module.named_parameters():
            parameter.data.copy_(file.get_tensor(f"mean.{name}"))
        return int(file.metadata()["step"])
