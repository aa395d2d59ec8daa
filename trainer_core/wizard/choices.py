"""The choices of a first project: a table of rules, each from the situation to a setting and the reason for it.

Figures of memory are those of the memory plan (`trainer_core.wizard.fitting`); the rest is what the documentation of
the peers and the papers named in docs/config.md advise. Add a choice: write a function, append it to `CHOICES`, test
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trainer_core.data.names import pluralize
from trainer_core.types import JSON
from trainer_core.wizard.fitting import Fit, fit_into
from trainer_core.wizard.situation import Effort, Goal, Situation


@dataclass(frozen=True)
class Choice:
    """A setting with the reason for it."""

    path: str
    """`group.field`."""
    value: JSON
    reason: str


Rule = Callable[[Situation], Iterator[Choice]]


@dataclass(frozen=True)
class _Aim:
    rank: int
    draws: int
    """How often each picture is trained."""
    why: str
    prompt: str
    """Shows what was trained in surroundings that the pictures may not have."""


@dataclass(frozen=True)
class _Push:
    rank: float
    lr: float
    draws: float
    batch: int
    targets: str


AIMS: dict[Goal, _Aim] = {
    "character": _Aim(16, 100, "one face or figure needs few weights", "{} on a beach at sunset"),
    "object": _Aim(16, 80, "one thing needs few weights", "{} on a wooden table"),
    "style": _Aim(32, 60, "a style changes everything that is drawn, and needs more weights", "a house by a lake, {}"),
}
PUSHES: dict[Effort, _Push] = {
    "conservative": _Push(0.5, 0.5, 0.6, 1, "attention"),
    "balanced": _Push(1.0, 1.0, 1.0, 2, "attention+mlp"),
    "aggressive": _Push(2.0, 2.0, 1.6, 4, "all-linear"),
}
USUAL_LR = 1e-4
LEAST_DRAWS, MOST_DRAWS = 600, 12_000
SIDES = (1024, 896, 768, 640, 512)
_LITTLE_GPU_GIB = 16
_GIB_A_WORKER = 2
_TEXT_MIB = 2
"""A cached text embedding, at most."""


def fit(situation: Situation) -> Fit:
    """Return resolution and batch that the memory holds, and the plan for them."""
    return fit_into(situation.base, situation.machine, natural_side(situation), PUSHES[situation.answers.effort].batch)


def natural_side(situation: Situation) -> int:
    """Return the resolution that base and pictures ask for, in pixels."""
    base, dataset = situation.base, situation.dataset
    if dataset.small <= 0.5:
        return base.side
    step = 64 if dataset.median_side >= 256 else 16
    return max(step, min(base.side, dataset.median_side // step * step))


def length(situation: Situation) -> int:
    """Return the optimizer steps of the run: pictures x times each is trained / effective batch, in fifties."""
    aim, push = AIMS[situation.answers.goal], PUSHES[situation.answers.effort]
    draws = min(MOST_DRAWS, max(LEAST_DRAWS, situation.dataset.pictures * aim.draws)) * push.draws
    return max(50, round(draws / push.batch / 50) * 50)


def resolution(situation: Situation) -> Iterator[Choice]:
    """Resolution, and the sides that go with it."""
    side = fit(situation).side
    natural, base = natural_side(situation), situation.base
    why = "what this base was trained at"
    if side < natural:
        why = f"{natural} would not fit into {situation.machine.memory_gib:.0f} GiB (predicted)"
    elif natural < base.side:
        why = f"most pictures are smaller than the {base.side} that the base was trained at"
    yield Choice("bucket.resolution", side, why)
    if side < 256:
        yield Choice("bucket.step", 16, "in steps of 64, pictures this small would have few buckets")
        yield Choice("bucket.min_side", side // 2, "half the resolution")
    yield Choice("bucket.max_side", 2 * side, "for wide and tall pictures")


def small_pictures(situation: Situation) -> Iterator[Choice]:
    """From enlarged pictures a LoRA learns blur."""
    share = situation.dataset.small
    if 0.1 < share <= 0.5:
        why = f"{share:.0%} of the pictures are small: if they were enlarged, the LoRA would learn blur"
        yield Choice("bucket.upscale", False, why)


def mirrored(situation: Situation) -> Iterator[Choice]:
    """Mirror images double few pictures, where left and right do not matter."""
    answers, pictures = situation.answers, situation.dataset.pictures
    if answers.goal == "style" and answers.effort != "conservative" and pictures < 50:
        yield Choice("augment.flip", True, f"few pictures ({pictures}), and a style has no left and right")


def captions(situation: Situation) -> Iterator[Choice]:
    """Trigger word, missing captions, dropout."""
    answers, dataset = situation.answers, situation.dataset
    if answers.trigger_word:
        yield Choice("caption.trigger_word", answers.trigger_word, "put before captions that do not have it")
    if dataset.captioned < 1:
        why = f"{1 - dataset.captioned:.0%} of the pictures have no caption"
        fix = "their caption is the trigger word" if answers.trigger_word else "their caption is empty"
        yield Choice("caption.missing", "empty", f"{why}: {fix}")
    if answers.effort != "conservative" and dataset.captioned > 0:
        yield Choice("caption.dropout", 0.05, "some pictures are trained without a caption, which guidance needs")


def tags(situation: Situation) -> Iterator[Choice]:
    """Lists of tags have no order."""
    if not situation.dataset.tags:
        return
    yield Choice("tags.shuffle", True, "captions are tags, whose order should not matter")
    kept = 1 if situation.answers.trigger_word else 0
    if kept:
        yield Choice("tags.keep_tokens", kept, "the trigger word stays in front")


def adapter(situation: Situation) -> Iterator[Choice]:
    """Size of the LoRA."""
    aim, push = AIMS[situation.answers.goal], PUSHES[situation.answers.effort]
    rank = max(4, int(aim.rank * push.rank))
    yield Choice("adapter.rank", rank, aim.why)
    yield Choice("adapter.alpha", rank, "equal to the rank, so that every program loads it at the same strength")
    yield Choice("adapter.targets", push.targets, f"{situation.answers.effort}: how much of each block is trained")


def optimizer(situation: Situation) -> Iterator[Choice]:
    """Optimizer, rate and schedule."""
    push, machine = PUSHES[situation.answers.effort], situation.machine
    if machine.device == "cuda" and machine.memory_gib < _LITTLE_GPU_GIB:
        yield Choice(
            "optimizer.name", "adamw8bit", f"{machine.memory_gib:.0f} GiB: its state takes a quarter of the memory"
        )
    lr = USUAL_LR * push.lr
    yield Choice("optimizer.lr", lr, f"{situation.answers.effort}; `lora-assets find-lr` measures a rate")
    yield Choice("schedule.name", "cosine", "the rate falls slowly to zero")
    yield Choice(
        "schedule.warmup_ratio", 0.05, "the rate rises slowly, because the first gradients are the least reliable"
    )


def loss(situation: Situation) -> Iterator[Choice]:
    """Weights of noise levels."""
    if situation.base.prediction == "diffusion":
        yield Choice("loss.min_snr_gamma", 5, "makes the training of diffusion models steadier (arXiv 2303.09556)")


def run(situation: Situation) -> Iterator[Choice]:
    """Length, batch and memory."""
    answers, dataset = situation.answers, situation.dataset
    found, steps = fit(situation), length(situation)
    batch, wanted = found.batch, PUSHES[answers.effort].batch
    passes = round(steps * wanted / max(1, dataset.pictures))
    yield Choice("train.steps", steps, f"{pluralize(dataset.pictures, 'picture')}, each trained about {passes} times")
    memory = f"about {found.gib:.0f} of {situation.machine.memory_gib:.0f} GiB (predicted)"
    yield Choice("train.batch_size", batch, memory)
    if wanted > batch:
        why = f"gives an effective batch of {wanted}, where memory holds {batch}"
        yield Choice("train.gradient_accumulation_steps", wanted // batch, why)
    if found.checkpointing != "false":
        value = True if found.checkpointing == "true" else found.checkpointing
        yield Choice("train.gradient_checkpointing", value, "without it the step would not fit; the result is the same")
    if found.base != "dense":
        why = f"{found.base} on this machine: the base's own weights would not fit, and the LoRA is exported plain"
        yield Choice("memory.base", "auto", why)


def held_out(situation: Situation) -> Iterator[Choice]:
    """Which pictures measure the loss."""
    pictures = situation.dataset.pictures
    if pictures < 10:
        yield Choice("datasets.0.held_out", 0.0, f"{pluralize(pictures, 'picture')}: too few to hold one out")
    else:
        kept = pluralize(max(1, round(0.1 * pictures)), "picture")
        yield Choice("datasets.0.held_out", 0.1, f"the loss of {kept} that training leaves out chooses the best step")


def regularisation(situation: Situation) -> Iterator[Choice]:
    """Pictures of the class."""
    if situation.answers.regularisation is not None:
        why = "pictures of the class, so that the base keeps what it knows of it"
        yield Choice("datasets.1.regularisation", True, why)


def samples(situation: Situation) -> Iterator[Choice]:
    """What is rendered during training."""
    steps = length(situation)
    yield Choice("sample.every", max(50, steps // 4), "samples of the LoRA at each quarter of the run")
    trigger = situation.answers.trigger_word
    if not trigger:
        return  # a caption without the concept would show what the base draws anyway
    captions = [
        caption if trigger in caption else f"{trigger}, {caption}" for caption in situation.dataset.captions[:2]
    ]
    prompts = [AIMS[situation.answers.goal].prompt.format(trigger), *captions]
    yield Choice("sample.prompts", prompts, "the first shows what was trained in other surroundings")


def hardware(situation: Situation) -> Iterator[Choice]:
    """Threads and where caches lie."""
    machine = situation.machine
    workers = max(1, min(machine.cores, int(machine.ram_gib // _GIB_A_WORKER), 16))
    yield Choice(
        "hardware.decode_threads", workers, f"{pluralize(machine.cores, 'core')}, {machine.ram_gib:.0f} GiB of memory"
    )
    cache, available_mib = cache_mib(situation), int(1024 * machine.memory_gib // 8)
    where = "kept on the device" if cache <= available_mib else "read from disk as it is needed"
    why = f"caches of about {cache:.0f} MiB are {where} (an eighth of its memory at most)"
    yield Choice("hardware.resident_cache_mib", available_mib, why)


def cache_mib(situation: Situation) -> float:
    """Estimate the cached latents and text embeddings of the dataset, in MiB."""
    side = fit(situation).side
    return situation.dataset.pictures * (side**2 * situation.base.latent_bytes / 2**20 + _TEXT_MIB)


CHOICES: tuple[Rule, ...] = (
    held_out,
    regularisation,
    resolution,
    small_pictures,
    mirrored,
    captions,
    tags,
    adapter,
    optimizer,
    loss,
    run,
    samples,
    hardware,
)


def choose(situation: Situation) -> list[Choice]:
    """Return all choices, in the order of `CHOICES`."""
    return [choice for rule in CHOICES for choice in rule(situation)]


def warnings(situation: Situation) -> list[str]:
    """Say what no setting can correct."""
    messages: list[str] = []
    found, machine = fit(situation), situation.machine
    if not found.fits:
        messages.append(
            f"{situation.base.title} needs about {found.gib:.0f} GiB at {found.side} pixels, and this machine has "
            f"{machine.memory_gib:.0f}: expect to run out of memory. Use a smaller base."
        )
    needed = cache_mib(situation) / 1024 + 1
    if needed > machine.disk_gib:
        messages.append(
            f"caches and checkpoints take about {needed:.0f} GiB, and {machine.disk_gib:.0f} GiB of disk are free. "
            "Set LORA_ASSETS_HOME to a folder on a larger disk."
        )
    if not situation.answers.trigger_word and situation.dataset.captioned == 0:
        messages.append(
            "there is neither a trigger word nor a caption, so no prompt can ask for what is trained. "
            "Give --trigger WORD, or write a caption file beside each picture."
        )
    if (count := situation.dataset.pictures) < 5:
        messages.append(
            f"few pictures: the LoRA will repeat the {pluralize(count, 'picture')}. Add more; 15 to 50 are usual."
        )
    return messages
