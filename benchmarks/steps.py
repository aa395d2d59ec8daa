"""Training: steps/s of our trainer over those of a hand-written loop, and whether the profile's row is the fastest."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks._bare import Choice, Preloaded, Step, bare_step
from benchmarks._common import Figure, Goal, Result, from_rounds, in_child, ratios
from benchmarks._projects import UNET, VAE, small_sd15, write_pictures, write_project
from trainer_core.types import silent

if TYPE_CHECKING:
    from trainer_core.hardware.profiles import HardwareProfile
    from trainer_core.stages.stage import StageContext
    from trainer_core.train.trainer import TrainerParts
    from trainer_core.types import ProgressEvent

GOAL = Goal(1.05, "at least")
ROUND = 10
"""Steps of a round: `logging.every`, so that each round writes metrics once."""
WARMUP = 3
"""Steps before the first that counts."""
BATCHES = (1, 4)
CHOICES = tuple(
    Choice(precision, attention, channels_last)
    for precision, attention, channels_last in product(("fp32", "bf16"), ("sdpa", "math"), (False, True))
)


def run(quick: bool) -> Result:
    """Compare our loop with a bare one, step by step in turn; then all choices of precision, attention and layout."""
    figures: list[Figure] = []
    config: dict[str, Any] = {"unet": UNET, "vae": VAE, "pixels": 256, "round": ROUND, "warmup": WARMUP}
    with tempfile.TemporaryDirectory() as folder:
        settings = {"bucket": {"resolution": 256}, "adapter": {"rank": 8, "alpha": 8}, "logging": {"every": ROUND}}
        project = in_child("benchmarks.steps:prepare_project", {"folder": folder, "settings": settings})
        batches = BATCHES[:1] if quick else BATCHES
        for batch in batches:
            arguments = {"project": project, "batch": batch, "rounds": 2 if quick else 8 - batch}
            figures += _ratio_figures(batch, in_child("benchmarks.steps:compare", arguments))
        figures += _judged_figures(
            in_child("benchmarks.steps:judge", {"project": project, "steps": 8 if quick else 50})
        )
        for batch in batches:
            arguments = {"project": project, "batch": batch, "rounds": 3 if quick else 7 - batch}
            answer = in_child("benchmarks.steps:alternatives", arguments)
            figures += _choice_figures(batch, answer)
            config |= {"profile": answer["profile_name"], "threads": answer["threads"]}
    title = "Training step, SD1.5-shaped UNet of 37.5 M parameters at 256 px"
    return Result("steps", title, tuple(figures), config | settings)


def _ratio_figures(batch: int, told: dict[str, list[float]]) -> list[Figure]:
    ours, bare, again = told["ours"], told["bare"], told["bare_again"]
    name = f"batch {batch}: ours over bare loop, steps/s"
    noise = ratios(bare, again)
    note = f"the bare loop over itself in the same rounds: {median(noise):.3f}"
    cpu = ratios(told["bare_cpu"], told["ours_cpu"])
    return [
        from_rounds(name, ratios(bare, ours), goal=GOAL, note=note),
        from_rounds(f"batch {batch}: the same in CPU time", cpu, note="less moved by other work on these cores"),
        from_rounds(f"batch {batch}: our step", [seconds / ROUND * 1000 for seconds in ours], "ms"),
        from_rounds(f"batch {batch}: bare step", [seconds / ROUND * 1000 for seconds in bare], "ms"),
    ]


def _judged_figures(told: dict[str, float]) -> list[Figure]:
    steps = int(told["steps"])
    return [
        Figure(
            f"after {steps} steps: distance of the learnt updates from those by PEFT's layers",
            told["distance"],
            note=f"norm of the difference over the norm; {told['noise']:.2g} between PEFT's own in bf16 and in fp32",
        ),
        Figure(
            f"after {steps} steps: largest difference of a weight",
            told["largest"],
            note=f"the largest weight is {told['weight']:.2g}, the learning rate times the steps {told['reach']:.2g}",
        ),
    ]


def _choice_figures(batch: int, told: dict[str, Any]) -> list[Figure]:
    seconds, chosen = told["seconds"], told["profile"]
    cpu = {name: median(values) for name, values in told["cpu"].items()}
    fastest = min(cpu, key=lambda name: cpu[name])
    rows = [
        from_rounds(
            f"batch {batch}: {name}",
            [value * 1000 for value in values],
            "ms",
            note=f"CPU time {cpu[name] * 1000:.0f} ms" + ", the profile's choice" * (name == chosen),
        )
        for name, values in seconds.items()
    ]
    name = f"batch {batch}: speed of the profile's choice over the fastest"
    note = f"{chosen} over {fastest}, chosen and compared by CPU time; 1 means that the row is right"
    return [*rows, from_rounds(name, ratios(told["cpu"][fastest], told["cpu"][chosen]), note=note)]


def prepare_project(folder: str, settings: dict[str, Any]) -> str:
    """Make model and pictures and fill both caches; return the project's path. Runs in a child."""
    from trainer_core import run as pipeline

    root = Path(folder)
    small_sd15(root / "model")
    write_pictures(root / "data", 16, 256)
    project = write_project(root, settings)
    session = pipeline.open_session(project)
    pipeline.run_until(session, "cached_latents")
    pipeline.run_until(session, "cached_text_embeddings")
    session.close()
    return str(project)


@dataclass
class Turns:
    """A reporter that times our steps, and runs one step of every other loop after each of them."""

    others: dict[str, Step]
    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    _left: tuple[float, float] = (0.0, 0.0)

    def begin(self) -> None:
        """Start the clock of our first step."""
        self._left = _clocks()

    def __call__(self, event: ProgressEvent) -> None:
        """Count our step, then let the others do theirs."""
        self._count("ours", self._left)
        for name, step in self.others.items():
            began = _clocks()
            step()
            self._count(name, began)
        self._left = _clocks()

    def _count(self, name: str, began: tuple[float, float]) -> None:
        wall, cpu = _clocks()
        self.seconds.setdefault(name, []).append(wall - began[0])
        self.seconds.setdefault(f"{name}_cpu", []).append(cpu - began[1])


def compare(project: str, batch: int, rounds: int) -> dict[str, list[float]]:
    """Train with our loop and, after each of its steps, with two equal bare loops; seconds a round. Runs in a child."""
    from trainer_core.train.accelerator import make_accelerator
    from trainer_core.train.loop import run as train
    from trainer_core.train.trainer import prepare

    steps = WARMUP + rounds * ROUND
    context = training_context(Path(project), [f"train.batch_size={batch}", f"train.steps={steps}"])
    workspace = context.workspace
    accelerator = make_accelerator(workspace.profile, workspace.precision("train", "auto"), 1)
    parts = parts_of(context, accelerator.device)
    choice = profile_choice(workspace.profile)
    turns = Turns({name: _bare(context, parts, choice, batch) for name in ("bare", "bare_again")})
    with tempfile.TemporaryDirectory() as workdir:
        trainer = prepare(parts, Path(workdir), turns, accelerator)
        turns.begin()
        train(trainer)
    workspace.store.close()
    return {name: _rounds(values[steps - rounds * ROUND :]) for name, values in turns.seconds.items()}


def judge(project: str, steps: int) -> dict[str, float]:
    """Train the same steps with our LoRA layers and with PEFT's, and compare the weights. Runs in a child."""
    ours = _trained(project, steps, [])
    pefts = _trained(project, steps, ["hardware.lora=peft"])
    exact = _trained(project, steps, ["hardware.lora=peft", "train.precision=fp32"])
    rate = training_context(Path(project), []).settings.optimizer.lr
    return {
        "steps": steps,
        "distance": _distance(ours, pefts),
        "noise": _distance(pefts, exact),
        "largest": max((ours[name] - pefts[name]).abs().max().item() for name in pefts),
        "weight": max(tensor.abs().max().item() for tensor in pefts.values()),
        "reach": rate * steps,
    }


def _trained(project: str, steps: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the adapter's weights after some steps."""
    from trainer_core.train.accelerator import make_accelerator
    from trainer_core.train.loop import run as train
    from trainer_core.train.trainer import prepare

    context = training_context(Path(project), ["train.batch_size=1", f"train.steps={steps}", *overrides])
    workspace = context.workspace
    precision = workspace.precision("train", context.settings.train.precision)
    accelerator = make_accelerator(workspace.profile, precision, 1)
    with tempfile.TemporaryDirectory() as workdir:
        adapter = train(prepare(parts_of(context, accelerator.device), Path(workdir), silent, accelerator)).adapter
    workspace.store.close()
    return dict(adapter)


def _distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the norm of the difference of two adapters' updates B A over the norm of the second's."""
    difference, whole = 0.0, 0.0
    for name in other:
        if name.endswith("lora_A.weight"):
            up = name.replace("lora_A", "lora_B")
            first, second = one[up] @ one[name], other[up] @ other[name]
            difference += (first - second).square().sum().item()
            whole += second.square().sum().item()
    return (difference / whole) ** 0.5


def alternatives(project: str, batch: int, rounds: int) -> dict[str, Any]:
    """Time a bare step for every choice of precision, attention and layout, in turn. Runs in a child."""
    import torch

    context = training_context(Path(project), [f"train.batch_size={batch}"])
    parts = parts_of(context, torch.device("cpu"))
    steps = {str(choice): _bare(context, parts, choice, batch) for choice in CHOICES}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARMUP + rounds):
        for name, step in steps.items():
            began = _clocks()
            step()
            if number >= WARMUP:
                wall, used = _clocks()
                seconds[name].append(wall - began[0])
                cpu[name].append(used - began[1])
    profile = context.workspace.profile
    context.workspace.store.close()
    chosen = str(profile_choice(profile))
    timed = {"seconds": seconds, "cpu": cpu}
    return timed | {"profile": chosen, "profile_name": profile.name, "threads": torch.get_num_threads()}


def training_context(project: Path, overrides: Sequence[str]) -> StageContext:
    """Return what the training stage sees, its caches being there."""
    from trainer_core import run as pipeline
    from trainer_core.stages import STAGES

    session = pipeline.open_session(project, ["train.checkpoint_every=0", *overrides])
    stage = STAGES["lora_checkpoint"]
    results = [result for name in stage.needs for result in pipeline.run_until(session, name)]
    upstream = {result.name: result.published for result in results if result.name in stage.needs}
    return stage.context(session, upstream)


def parts_of(context: StageContext, device: Any) -> TrainerParts:
    """Return what our trainer is made of, by the training stage's own function."""
    from trainer_core.stages.training.training_run import training_parts

    return training_parts(context, device)


def profile_choice(profile: HardwareProfile) -> Choice:
    """Return the profile's row as a choice."""
    precision = "bf16" if profile.train_precision == "bf16" else "fp32"
    return Choice(precision, "math" if profile.attention == "math" else "sdpa", profile.channels_last)


def _bare(context: StageContext, parts: TrainerParts, choice: Choice, batch: int) -> Step:
    import torch

    from trainer_core.diffusion.ddpm import DDPMSchedule

    assert isinstance(parts.schedule, DDPMSchedule), "the measured family is SD1.5"
    cache = parts.loader.cache
    latents = torch.stack([cache.latents[name] for name in sorted(cache.latents)]).float()
    text = torch.stack([cache.text[name].embeds for name in sorted(cache.text)])
    data = Preloaded(latents, text, parts.schedule.alphas_cumprod, batch)
    settings = context.settings
    return bare_step(context.settings.model.path / "unet", choice, data, settings.adapter, settings.optimizer)


def _rounds(values: Sequence[float]) -> list[float]:
    return [sum(values[start : start + ROUND]) for start in range(0, len(values), ROUND)]


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
