"""A training step of full-size models on a GPU, with random weights made there: nothing is downloaded.

    python -m benchmarks.gpu [--only sdxl] [--blocks 2] [--json FILE]
    python -m benchmarks.gpu --rehearse         # tiny sizes on the CPU: shows that it runs, measures nothing

Ours and the step of diffusers' training scripts (PEFT under autocast) take turns within one run, on the same weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._common import Figure, Goal, Result, as_record, from_rounds, ratios, write_record
from tests.full_size import write_configs
from trainer_core.adapters.adapter import ADAPTERS
from trainer_core.config.project import Project
from trainer_core.hardware.profiles import PROFILES
from trainer_core.memory import fakes, training_step
from trainer_core.memory.ask import Data, question_of, read_configs
from trainer_core.memory.measure import family_of, step_model
from trainer_core.memory.training_step import StepModel, fake_batch
from trainer_core.train.objective import training_loss
from trainer_core.types import Batch

MATMUL = 8192
WARMUP, ROUNDS, STEPS = 3, 5, 5


@dataclass(frozen=True)
class Case:
    """A model and how it is trained."""

    batch: int
    side: int
    least_gib: float
    """Weights and a step of the whole model need about this much; less leaves blocks out."""
    goal: Goal | None = None
    tiny: Mapping[str, Any] = None  # type: ignore[assignment]
    """What a rehearsal puts in the denoiser's config."""


_SMALL = {"num_layers": 1, "num_attention_heads": 2}
CASES: Mapping[str, Case] = {
    "sdxl": Case(
        4,
        1024,
        40,
        Goal(1.3, "at least"),
        {
            "block_out_channels": [32, 64, 64],
            "attention_head_dim": [1, 2, 2],
            "transformer_layers_per_block": [1, 1, 1],
        },
    ),
    "flux1": Case(1, 1024, 60, Goal(1.3, "at least"), _SMALL | {"num_single_layers": 1}),
    "qwen_image": Case(1, 1024, 90, None, _SMALL),
    "flux2": Case(1, 1024, 130, None, _SMALL | {"num_single_layers": 1}),
}


def model_of(name: str, folder: Path, rehearse: bool) -> StepModel:
    """Return a model by its published config, and what trains it."""
    case = CASES[name]
    settings = {
        "name": "bench",
        "model": {"family": name, "path": str(write_configs(name, folder / name))},
        "datasets": [{"path": str(folder)}],
        "bucket": {"resolution": case.side},
        "train": {"batch_size": case.batch},
        "adapter": {"rank": 16, "alpha": 16},
    }
    project, side = Project.model_validate(settings), 64 if rehearse else case.side
    profile = next(row for row in PROFILES if row.name == ("cpu_fp32" if rehearse else "h100"))
    base = read_configs(project)
    if rehearse:
        denoiser = base.spec.denoiser
        base = replace(base, configs={**base.configs, denoiser: {**base.configs[denoiser], **case.tiny}})
    question = question_of(project, base, profile, Data(sizes=((side, side),)))
    return step_model(question, family_of(question))


def random_weights(denoiser: nn.Module, device: torch.device) -> nn.Module:
    """Give a model without weights random ones, on the device."""
    for module in denoiser.modules():
        for name, parameter in module.named_parameters(recurse=False):
            made = torch.empty(parameter.shape, dtype=parameter.dtype, device=device).normal_(0, 0.02)
            setattr(module, name, nn.Parameter(made, requires_grad=False))
    return denoiser.to(device)


def same_weights(denoiser: nn.Module, other: nn.Module) -> nn.Module:
    """Give a model without weights those of another one, not a copy of them."""
    tensors = dict(other.named_parameters())
    for path, module in denoiser.named_modules():
        for name, _ in list(module.named_parameters(recurse=False)):
            setattr(module, name, tensors[f"{path}.{name}".lstrip(".")])
    return denoiser.to(next(other.parameters()).device)


class Step:
    """One training step of a model: loss, gradients, update."""

    def __init__(self, model: StepModel, denoiser: nn.Module, ours: bool) -> None:
        settings, spec = model.settings, model.family.spec
        if ours:
            training_step.attach(model, denoiser)
        else:
            adapter = ADAPTERS[settings.adapter.type]
            adapter.attach(denoiser, settings.adapter, settings.adapter_options, spec.targets, 0, None)
        denoiser.train()
        self.device = next(denoiser.parameters()).device
        self.trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, fused=self.device.type == "cuda")
        cast = nullcontext if model.dtype == torch.float32 else lambda: torch.autocast(self.device.type, model.dtype)
        self.trainer: Any = training_step.trainer_like(model, denoiser)
        self.trainer.loader = SimpleNamespace(device=self.device, dtype=model.dtype)
        self.trainer.accelerator = SimpleNamespace(autocast=cast)

    def __call__(self, batch: Batch) -> float:
        """Take it, and return the seconds that it took."""
        self._wait()
        began = time.perf_counter()
        training_loss(self.trainer, batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def on_device(model: StepModel, count: int, device: torch.device) -> Batch:
    """Return a micro-batch of noise."""
    batch = fake_batch(model.shape, count, model.dtype, False)
    text = batch.text
    moved = replace(
        text,
        embeds=torch.randn_like(text.embeds).to(device),
        pooled=None if text.pooled is None else torch.randn_like(text.pooled).to(device),
        mask=None if text.mask is None else text.mask.to(device),
    )
    noise = torch.randn(batch.latents.shape, device=device)
    latents, u = torch.randn(batch.latents.shape, device=device), torch.rand(count, device=device)
    controls = tuple(torch.randn(one.shape, device=device) for one in batch.controls)
    return replace(batch, latents=latents, noise=noise, u=u, text=moved, controls=controls)


def matmul_rate(device: torch.device, side: int) -> float:
    """Return the device's rate of bf16 matrix products, in FLOP/s."""
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    times: list[float] = []
    for _ in range(10):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * side**3 / median(times)


def measure(name: str, device: torch.device, rehearse: bool, blocks: int, rate: float) -> list[Figure]:
    """Return the figures of one model."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(name, Path(folder), rehearse)
    spec = model.family.spec

    def hollow() -> nn.Module:
        made = fakes.hollow(spec, spec.denoiser, model.config, model.dtype)
        if blocks:
            members = fakes.groups(made, spec.blocks)
            fakes.shorten(made, members, {group: blocks for of_list in members.values() for group in of_list})
        return made

    base = random_weights(hollow(), device)
    theirs = Step(model, same_weights(hollow(), base), ours=False)
    ours = Step(model, base, ours=True)
    batch = on_device(model, case.batch, device)
    with FlopCounterMode(display=False) as counter:
        ours(batch)
    warmup, rounds, steps = (1, 2, 1) if rehearse else (WARMUP, ROUNDS, STEPS)
    for _ in range(warmup):
        theirs(batch), ours(batch)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for side, step in (("theirs", theirs), ("ours", ours)):
            seconds[side].append(median(step(batch) for _ in range(steps)))
    label = f"{name} {model.shape.pixels[0]} px, batch {case.batch}" + (f", {blocks} blocks" if blocks else "")
    each, flops = median(seconds["ours"]), counter.get_total_flops()
    goal = None if rehearse or blocks else case.goal
    figures = [
        from_rounds(f"{label}: our step", seconds["ours"], "s"),
        Figure(f"{label}: samples/s", case.batch / each),
        from_rounds(f"{label}: PEFT under autocast over ours", ratios(seconds["theirs"], seconds["ours"]), goal=goal),
        Figure(f"{label}: share of the matmul rate", flops / each / rate, note=f"{flops / 1e12:.1f} TFLOP a step"),
    ]
    return figures + (_memory(label, model, case, ours, batch) if device.type == "cuda" and not blocks else [])


def _memory(label: str, model: StepModel, case: Case, ours: Step, batch: Batch) -> list[Figure]:
    torch.cuda.empty_cache()
    resident = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ours(batch)
    beside = torch.cuda.max_memory_allocated() - resident
    predicted = training_step.training_costs(model, case.batch, False)[0].peak
    note = f"predicted {predicted / 2**30:.2f} GiB beside the weights, measured {beside / 2**30:.2f}"
    return [Figure(f"{label}: predicted over measured peak", predicted / beside, note=note)]


def main() -> int:
    """Measure what was asked for; write the record unless it is a rehearsal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(CASES), help="one model; may be given again")
    parser.add_argument("--blocks", type=int, default=0, help="blocks of each kind that are kept; 0 for all")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    if not asked.rehearse and not torch.cuda.is_available():
        print("There is no GPU that torch can use. `--rehearse` shows that this runs.", file=sys.stderr)
        return 1
    device = torch.device("cpu" if asked.rehearse else "cuda")
    rate = matmul_rate(device, 256 if asked.rehearse else MATMUL)
    figures = [Figure("bf16 matrix products", rate / 1e12, "TFLOP/s")]
    for name in asked.only or list(CASES):
        free = torch.cuda.mem_get_info()[0] / 2**30 if device.type == "cuda" else 0.0
        whole = asked.rehearse or asked.blocks or free >= CASES[name].least_gib
        figures += measure(name, device, asked.rehearse, asked.blocks if whole else 2, rate)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    title = "Rehearsal on the CPU: no measurement" if asked.rehearse else "Training steps on a GPU, random weights"
    result = Result("gpu", title, tuple(figures), {"rehearsal": asked.rehearse, "blocks": asked.blocks})
    for figure in figures:
        print(*figure.cells(), sep=" | ")
    command = "python -m benchmarks.gpu"
    if asked.json:
        asked.json.write_text(json.dumps(as_record(result, command), indent=2, sort_keys=True) + "\n")
    if not asked.rehearse:
        print(f"written: {write_record(result, command)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
