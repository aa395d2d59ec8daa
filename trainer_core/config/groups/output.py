"""What comes out: samples, the examination, files, and what is logged on the way."""

from __future__ import annotations

from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from trainer_core.config.groups.base import NEUTRAL, Group, Paths


class SampleConfig(Group):
    """Pictures rendered from the exported file, base beside LoRA."""

    prompts: tuple[str, ...] = ()
    """One row of the grid each; the first captions of the held-out (else training) samples when empty."""
    prompt_file: Annotated[Path | None, NEUTRAL] = None
    """In place of `prompts`: a file with a prompt a line and kohya's marks for what differs (`--n` negative prompt,
    `--w` and `--h` size, `--d` seed, `--l` guidance, `--s` steps, `--ss` sampler), or JSON or TOML with the same; docs/
    samples.md has examples. kohya: `sample_prompts`. ai-toolkit: `sample.prompts`."""
    control_paths: Annotated[tuple[Paths, ...], NEUTRAL] = ()
    """For edit families: the picture, or list of pictures, that each of `prompts` edits. Captions bring their own."""
    negative_prompt: str = ""
    """What classifier-free guidance steers away from."""
    every: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Also render the LoRA as it was every N steps; 0 renders the finished one only. Samples are a stage of their own:
    that one fails never stops training. kohya: `sample_every_n_steps`. ai-toolkit: `sample_every`."""
    every_epochs: Annotated[float, Field(ge=0, le=1_000_000)] = 0
    """The same counted in epochs. kohya: `sample_every_n_epochs`."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 25
    """Denoising steps. Default: diffusers' pipelines take 28 to 50; 25 shows enough. ai-toolkit: `sample_steps`."""
    sampler: str = ""
    """Sampler: a name of the table in docs/samples.md (`ddim`, `euler`, `euler_a`, `dpmpp_2m` ...), or a scheduler
    class of diffusers; empty for the base's own. kohya: `sample_sampler`. ai-toolkit: `sampler`."""
    guidance: Annotated[float, Field(ge=0, le=100)] = 5.0
    """Classifier-free guidance scale, or the embedded guidance of FLUX.1-dev. Default: diffusers' SDXL pipeline.
    ai-toolkit: `guidance_scale`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the first prompt; prompt i uses seed + i, the same for base and LoRA."""
    width: Annotated[int, Field(ge=0, le=8192)] = 0
    """Width in pixels; 0 is `bucket.resolution`."""
    height: Annotated[int, Field(ge=0, le=8192)] = 0
    """Height in pixels; 0 is `bucket.resolution`."""
    strengths: Annotated[tuple[Annotated[float, Field(gt=0, le=4)], ...], Field(min_length=1)] = (0.5, 1.0, 1.5)
    """Strengths of the LoRA, one column of the grid each, beside the base. Default: half, as trained, and too much:
    what overfits shows there first."""

    quantise: Annotated[Literal["trained", "dense", "fp8", "int8", "nf4"], NEUTRAL] = "trained"
    """How the base is held while pictures are rendered, those of the examination too: `trained` as it was trained on
    (`memory.base`), else as is said. What differs from dense is in the key of the pictures. Default: pictures show what
    the run saw."""


MAX_PICTURES = 64
"""Of one prompt of the gate."""


class GateConfig(Group):
    """What a finished LoRA is examined on, and what it must keep to be promoted over the project's champion."""

    judge: Annotated[Path | None, NEUTRAL] = None
    """Python file with a function `score(picture, prompt)`: given a PIL image, it returns how much of the prompt is
    there, in [0, 1]. Its code is run: name only files that you trust."""
    clip_path: Annotated[Path | None, NEUTRAL] = None
    """Folder of a CLIP model in transformers format: adds the CLIP score of picture and prompt. It favours what CLIP
    knows; a new concept is not among that."""
    concept_prompts: tuple[str, ...] = ()
    """Prompts that name the concept: their mean score is the concept score."""
    other_prompts: tuple[str, ...] = ()
    """Prompts without the concept: their mean score is prompt following, which overfitting lowers."""
    control_paths: Annotated[tuple[Paths, ...], NEUTRAL] = ()
    """For edit families: the picture, or list of pictures, that each prompt edits: those of `concept_prompts`, then
    those of `other_prompts`."""
    pictures: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = 4
    """Pictures of each prompt, each from a seed of its own; diversity is measured between them. Default: the fewest
    whose diversity can be measured."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1000
    """Seed of the first picture of each prompt. Default: away from the seeds of samples."""
    min_concept_score: Annotated[float, Field(ge=0.0, le=1.0), NEUTRAL] = 0.0
    """Concept score that a promoted LoRA must reach, in [0, 1]; 0 asks for none."""
    max_following_loss: Annotated[float, Field(ge=0.0, le=1.0), NEUTRAL] = 0.1
    """Points of prompt following that a LoRA may lose against its base, in [0, 1]; more, and it is not promoted.
    Default: what a person would hardly see."""
    max_held_out_rise: Annotated[float, Field(ge=0.0, le=10.0), NEUTRAL] = 0.01
    """How much higher than the champion's, as a share, the held-out loss of a promoted LoRA may be. A rise within the
    noise of the held-out samples refuses nothing. Default: a rise that is more than rounding."""


def _modules_of(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(module.name for module in iter_modules([str(folder)])))


if TYPE_CHECKING:
    FormatName = str
else:
    # A module of the package is a format. They stand above the settings, so their files are listed, not imported.
    FormatName = Literal[_modules_of(Path(__file__).parents[2] / "export" / "formats")]


class ExportConfig(Group):
    """The published LoRA files."""

    formats: Annotated[tuple[FormatName, ...], Field(min_length=1)] = ("diffusers", "comfyui")
    """Formats to write. The first becomes NAME.safetensors, the others NAME.FORMAT.safetensors. docs/exports.md says
    what loads each, docs/adapters.md which adapters each can hold. Default: the two that most people load."""
    metadata: bool = True
    """Describe training in the file's header: kohya's `ss_*`, modelspec and lineage. `false` writes the tensors alone.
    Default: kohya's. kohya: `no_metadata`, inverted."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Precision of the weights in the file. Default: kohya's. kohya: `save_precision`."""


class SaveConfig(Group):
    """LoRA files published on the way, each with its formats and proof, and how much disk they and states may take."""

    every: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Publish NAME-stepN.safetensors every N steps; 0 publishes the finished LoRA only. kohya: `save_every_n_steps`.
    ai-toolkit: `save_every`."""
    every_epochs: Annotated[float, Field(ge=0, le=1_000_000)] = 0
    """The same counted in epochs. kohya: `save_every_n_epochs`."""
    keep_last: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Files of the last N of those to keep; 0 keeps all. kohya: `save_last_n_steps`, `save_last_n_epochs`. ai-toolkit:
    `max_step_saves_to_keep`."""
    keep_best: Annotated[int, Field(ge=0, le=1000)] = 0
    """Also keep the files with the N lowest held-out losses."""
    max_age_days: Annotated[float, Field(ge=0, le=36500), NEUTRAL] = 0
    """Runs of this project whose resumable checkpoints were not touched for so long lose them; 0 keeps them."""
    disk_budget_gib: Annotated[float, Field(ge=0, le=1_000_000), NEUTRAL] = 0
    """Gibibytes that this project's runs (checkpoints and snapshots) may take; the oldest that nothing needs go first,
    and a run that cannot fit is refused before it starts; 0 is no limit."""
    output_name: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"), NEUTRAL] = None
    """Name of the published files without ending; the project's unless given. kohya: `output_name`. ai-toolkit:
    `name`."""


class HardwareConfig(Group):
    """What the work runs on."""

    profile: Annotated[str, NEUTRAL] = "auto"
    """A row of the profile table (`cpu`, `rtx4090`, `h100`, `dgx_spark`), or `auto` to detect one. Precisions it
    chooses enter the keys."""
    num_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Training processes, one a GPU; multiplies the effective batch. Default: one GPU."""
    threads: Annotated[int, Field(ge=0, le=1024), NEUTRAL] = 0
    """CPU threads of torch; 0 is torch's own choice. Models of a few million parameters run best on 1, above all beside
    other programs: threads that wait for a busy core cost more than they bring."""
    resident_cache_mib: Annotated[int, Field(ge=0, le=10_000_000), NEUTRAL] = 2048
    """Caches up to this many mebibytes are kept whole on the training device; larger ones are read from their mapped
    shards as they are needed. Default: what a 24 GB GPU can spare. kohya: `cache_latents_to_disk`."""
    decode_threads: Annotated[int, Field(ge=0, le=256), NEUTRAL] = 0
    """Threads that decode pictures while the VAE works; 0 is the profile's choice."""
    compile: Annotated[Literal["auto", "off", "blocks"], NEUTRAL] = "auto"
    """Compile each kind of block of the denoiser by torch.compile, which takes minutes before the first step and saves
    10 to 25 % of each (reported, not measured here); `auto` is what the profile's row says. Not together with swapped
    blocks."""
    attention: Annotated[Literal["auto", "native", "cudnn", "flash"], NEUTRAL] = "auto"
    """Kernels of attention that are tried first on a GPU: torch's choice, cuDNN's or flash; `auto` is what the
    profile's row says."""
    tf32: Annotated[Literal["auto", "on", "off"], NEUTRAL] = "auto"
    """Round float32 products to TF32 on a GPU: faster, 10 bits instead of 23; `auto` is off. Enters the key of a run
    in fp32. Default: what is asked for in fp32 is computed in fp32."""
    lora: Annotated[Literal["auto", "peft"], NEUTRAL] = "auto"
    """Compute plain LoRAs on linear layers as one operation, or by PEFT's own layers. Default: the one is 1.02 to 1.16
    times as fast in a step on CPUs, and rounds less (docs/performance.md)."""


class LoggingConfig(Group):
    """What is logged while training. Keys of services come from the environment (`WANDB_API_KEY`) and nowhere else."""

    every: Annotated[int, Field(ge=1, le=100_000), NEUTRAL] = 10
    """Steps between lines of metrics; the only times at which a GPU is waited for. Default: often enough for a curve,
    seldom enough to cost nothing. ai-toolkit: `performance_log_every`."""
    tensorboard: Annotated[bool, NEUTRAL] = False
    """Write TensorBoard events into `outputs/NAME/tensorboard/`. kohya: `log_with`, `logging_dir`. ai-toolkit:
    `log_dir`."""
    wandb: Annotated[Literal["off", "offline", "online"], NEUTRAL] = "off"
    """Tell Weights & Biases: not at all, into `outputs/NAME/wandb/` for `wandb sync` later, or at once. Default:
    nothing leaves the machine unasked. kohya: `log_with`."""
    wandb_project: Annotated[str, NEUTRAL] = "lora-assets"
    """Project there. Default: this project's name. kohya: `log_tracker_name`."""
    wandb_run: Annotated[str, NEUTRAL] = ""
    """Name of the run there; the project's unless given. kohya: `wandb_run_name`."""
