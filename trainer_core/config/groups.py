"""The settings of a project, one frozen group a topic. The text under a field is its documentation everywhere.

A field marked `NEUTRAL` changes how the work is done, never what comes out, so no key contains it. Paths are neutral
too: what lies at the path is hashed instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

NEUTRAL = Field(json_schema_extra={"affects_result": False})

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Group(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class ModelConfig(Group):
    """The base model that the LoRA is trained on."""

    family: str
    """Model family: `sd15`, `sdxl`, `flux1`, `qwen_image`, `qwen_image_edit` or `kandinsky5`."""
    path: Annotated[Path, NEUTRAL]
    """A diffusers-format folder, or a single-file `.safetensors` checkpoint. Read only."""
    config_path: Annotated[Path | None, NEUTRAL] = None
    """For a single-file checkpoint: a diffusers-format folder with the configs and tokenizers (no weights needed)."""


class DatasetConfig(Group):
    """One folder of pictures. Read only: nothing is ever written into it."""

    path: Annotated[Path, NEUTRAL]
    """The folder: flat with `.txt`/`.caption` sidecars, kohya `N_concept` folders, or Hugging Face imagefolder."""
    name: Annotated[str | None, Field(pattern=r"^[^/\\]+$")] = None
    """First part of every sample id; the folder's own name unless given."""
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How often each picture is seen in one epoch; multiplies the repeats of kohya folder names. kohya:
    `num_repeats`."""
    held_out: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    """Share of the pictures kept out of training to measure held-out loss, in [0, 0.5]; at least one of four
    or more pictures if above 0."""
    trigger_word: str | None = None
    """In place of `caption.trigger_word` for this folder; empty for pictures that do not show the concept and are only
    there so that the LoRA does not forget what the base can do."""
    layout: Literal["auto", "flat", "kohya", "imagefolder"] = "auto"
    """How captions and repeats are found; `auto` looks at the folder and `check` prints what it found."""

    @property
    def label(self) -> str:
        """The name, or else the folder's."""
        return self.name or self.path.name or "dataset"


class BucketConfig(Group):
    """Aspect-ratio buckets: each picture is resized and cropped to the bucket nearest to its own shape."""

    resolution: Annotated[int, Field(ge=16, le=8192)] = 512
    """Side in pixels of the square whose area no bucket exceeds. kohya: `resolution`."""
    step: Annotated[int, Field(ge=8, le=512)] = 64
    """Bucket sides are multiples of this many pixels. kohya: `bucket_reso_steps`."""
    min_side: Annotated[int, Field(ge=8, le=8192)] = 256
    """Shortest side of a bucket in pixels. kohya: `min_bucket_reso`."""
    max_side: Annotated[int, Field(ge=8, le=16384)] = 1024
    """Longest side of a bucket in pixels. kohya: `max_bucket_reso`."""
    upscale: bool = True
    """Enlarge pictures that are smaller than their bucket; `false` gives them a smaller bucket of their own. kohya:
    `bucket_no_upscale`, inverted."""


class CaptionConfig(Group):
    """How the text beside a picture becomes its caption."""

    extensions: tuple[str, ...] = (".txt", ".caption")
    """Sidecar endings, in order of preference. kohya: `caption_extension`."""
    missing: Literal["error", "exclude", "empty"] = "error"
    """A picture without a caption: stop, leave the picture out (named in the ledger), or train it on an empty
    caption."""
    multiline: Literal["first_line", "whole"] = "first_line"
    """A caption file of several lines: its first line (kohya's rule), or all of it joined by spaces (ai-toolkit's)."""
    trigger_word: str = ""
    """Put before every caption that does not contain it already, followed by a comma."""


class LatentsConfig(Group):
    """How pictures are encoded by the VAE."""

    precision: Precision = "auto"
    """Precision of the VAE; latents are stored in fp32 for fp32, else in fp16, the finer of the two. `auto` is the
    hardware profile's choice."""
    batch_size: Annotated[int, Field(ge=0, le=256), NEUTRAL] = 0
    """Pictures encoded at once; 0 is the hardware profile's choice."""


class TextConfig(Group):
    """How captions are encoded by the text encoders."""

    precision: Precision = "auto"
    """Precision of the encoders and of the stored embeddings; `auto` is the hardware profile's choice."""
    batch_size: Annotated[int, Field(ge=0, le=256), NEUTRAL] = 0
    """Captions encoded at once; 0 is the hardware profile's choice."""
    max_length: Annotated[int, Field(ge=0, le=4096)] = 0
    """Tokens of a caption for families that let one choose (T5: 512 for FLUX.1-dev, 256 for schnell); 0 is the
    family's own."""
    clip_skip: Annotated[int, Field(ge=0, le=11)] = 0
    """CLIP layers left out at the end (SD1.5); the final layer norm is always applied. kohya counts one more."""


class AdapterConfig(Group):
    """The trained part."""

    type: Literal["lora"] = "lora"
    """Kind of adapter."""
    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    """Rank of the two factors. kohya: `network_dim`."""
    alpha: Annotated[float, Field(gt=0, le=8192)] = 16.0
    """The update is scaled by alpha / rank. kohya: `network_alpha`."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the adapter's inputs dropped while training. kohya: `network_dropout`."""
    targets: str = "attention"
    """Modules to adapt: `attention`, `attention+mlp`, `all-linear` (inside blocks), or a regex matched against the
    whole module name."""


class OptimizerConfig(Group):
    """How weights are updated."""

    name: Literal["adamw", "adamw8bit"] = "adamw"
    """Optimizer; `adamw8bit` (bitsandbytes) keeps its two moments in 8 bits. kohya: `optimizer_type`."""
    lr: Annotated[float, Field(gt=0, le=10.0)] = 1e-4
    """Peak learning rate. kohya: `learning_rate`."""
    weight_decay: Annotated[float, Field(ge=0, le=1.0)] = 0.01
    """Decoupled weight decay."""
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    """Decay of the first and second moment."""
    eps: Annotated[float, Field(gt=0, le=1e-2)] = 1e-8
    """Added to the denominator."""
    max_grad_norm: Annotated[float, Field(ge=0, le=1000.0)] = 1.0
    """Gradients are scaled down to this global norm; 0 turns clipping off. kohya: `max_grad_norm`."""


class ScheduleConfig(Group):
    """How the learning rate moves."""

    name: Literal["constant", "cosine", "linear"] = "constant"
    """Shape after the warm-up: level, half a cosine to 0, or a line to 0. kohya: `lr_scheduler`."""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Optimizer steps over which the rate rises from 0 to its peak. kohya: `lr_warmup_steps`."""


class NoiseConfig(Group):
    """Which noise levels are trained."""

    timestep_sampling: Literal["auto", "uniform", "logit_normal"] = "auto"
    """Distribution of timesteps; `auto` is uniform for diffusion families and logit-normal for flow matching."""
    logit_mean: Annotated[float, Field(ge=-5, le=5)] = 0.0
    """Mean of the logit of sigma (share of noise); above 0 means more noise."""
    logit_std: Annotated[float, Field(gt=0, le=5)] = 1.0
    """Standard deviation of the logit of sigma."""
    shift: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Flow shift k in s' = k*s / (1 + (k-1)*s); 0 is the family's own rule (FLUX.1: by number of packed tokens), 1
    is none."""
    offset: Annotated[float, Field(ge=0, le=1.0)] = 0.0
    """Strength of the per-channel noise offset of diffusion families. kohya: `noise_offset`."""
    guidance: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Guidance value given to guidance-distilled denoisers (FLUX.1-dev) while training. kohya: `guidance_scale`."""


class LossConfig(Group):
    """How errors are weighted."""

    min_snr_gamma: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Min-SNR weighting for diffusion families (arXiv 2303.09556); 5 is usual, 0 turns it off. kohya:
    `min_snr_gamma`."""


class TrainConfig(Group):
    """The run itself."""

    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 1500
    """Optimizer steps. kohya: `max_train_steps`."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    """Samples in one forward pass on one device. kohya: `train_batch_size`."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=1024)] = 1
    """Forward passes to one optimizer step."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Order, noise, timesteps and initial weights are functions of this number."""
    precision: Precision = "auto"
    """Precision of the base model's arithmetic; LoRA weights and optimizer state stay fp32. kohya:
    `mixed_precision`."""
    gradient_checkpointing: Annotated[bool, NEUTRAL] = False
    """Recompute activations in the backward pass: about half the memory, a third slower, the same result."""
    select: Literal["best", "last"] = "best"
    """Which step becomes the LoRA: the one with the lowest held-out loss, or the last. With nothing held out, the
    last."""
    evaluate_every: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Steps between measurements of the held-out loss, which `select: best` chooses from; 0 is a tenth of the run."""
    checkpoint_every: Annotated[int, Field(ge=0, le=1_000_000), NEUTRAL] = 250
    """Steps between resumable checkpoints; 0 saves only when stopping. kohya: `save_every_n_steps` with
    `save_state`."""
    keep_last: Annotated[int, Field(ge=1, le=1000), NEUTRAL] = 2
    """Resumable checkpoints to keep. kohya: `save_last_n_steps_state`."""


class SampleConfig(Group):
    """Pictures rendered from the exported file, base beside LoRA."""

    prompts: tuple[str, ...] = ()
    """One row of the grid each; the first captions of the held-out (else training) samples when empty."""
    negative_prompt: str = ""
    """What classifier-free guidance steers away from."""
    every: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Also render the LoRA as it was every N steps; 0 renders the finished one only. kohya: `sample_every_n_steps`."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 25
    """Denoising steps."""
    guidance: Annotated[float, Field(ge=0, le=100)] = 5.0
    """Classifier-free guidance scale, or the embedded guidance of FLUX.1-dev."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the first prompt; prompt i uses seed + i, the same for base and LoRA."""
    width: Annotated[int, Field(ge=0, le=8192)] = 0
    """Width in pixels; 0 is `bucket.resolution`."""
    height: Annotated[int, Field(ge=0, le=8192)] = 0
    """Height in pixels; 0 is `bucket.resolution`."""
    strengths: Annotated[tuple[Annotated[float, Field(gt=0, le=4)], ...], Field(min_length=1)] = (0.5, 1.0, 1.5)
    """Strengths of the LoRA, one column of the grid each, beside the base."""


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
    pictures: Annotated[int, Field(ge=1, le=64)] = 4
    """Pictures of each prompt, each from a seed of its own; diversity is measured between them."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1000
    """Seed of the first picture of each prompt."""
    min_concept_score: Annotated[float, Field(ge=0.0, le=1.0), NEUTRAL] = 0.0
    """Concept score that a promoted LoRA must reach, in [0, 1]; 0 asks for none."""
    max_following_loss: Annotated[float, Field(ge=0.0, le=1.0), NEUTRAL] = 0.1
    """Points of prompt following that a LoRA may lose against its base, in [0, 1]; more, and it is not promoted."""
    max_held_out_rise: Annotated[float, Field(ge=0.0, le=10.0), NEUTRAL] = 0.01
    """How much higher than the champion's, as a share, the held-out loss of a promoted LoRA may be."""


class ExportConfig(Group):
    """The published LoRA file."""

    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Precision of the weights in the file. kohya: `save_precision`."""


class HardwareConfig(Group):
    """What the work runs on."""

    profile: Annotated[str, NEUTRAL] = "auto"
    """A row of the profile table (`cpu`, `rtx4090`, `h100`, `dgx_spark`), or `auto` to detect one. Precisions it
    chooses enter the keys."""
    num_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Training processes, one a GPU; multiplies the effective batch."""
    threads: Annotated[int, Field(ge=0, le=1024), NEUTRAL] = 0
    """CPU threads of torch; 0 is torch's own choice. Models of a few million parameters run best on 1, above all beside
    other programs: threads that wait for a busy core cost more than they bring."""
    decode_threads: Annotated[int, Field(ge=0, le=256), NEUTRAL] = 0
    """Threads that decode pictures while the VAE works; 0 is the profile's choice."""


class LoggingConfig(Group):
    """What is told while training."""

    every: Annotated[int, Field(ge=1, le=100_000), NEUTRAL] = 10
    """Steps between lines of metrics; the only times at which a GPU is waited for."""
