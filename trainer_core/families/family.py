"""What the rest of the house knows of a model family: a `FamilySpec` (data) and at most ten methods.

A family module defines `FAMILY`, an object that satisfies `Family`. Importing it must not import torch: the spec is
read on every no-op. Methods import torch, diffusers and transformers when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor, nn

    from trainer_core.config.groups import NoiseConfig, TextConfig
    from trainer_core.diffusion.schedule import NoiseSchedule
    from trainer_core.families.model_source import ModelSource
    from trainer_core.types import Conditioning, TextCondition

PrecisionName = Literal["fp32", "bf16", "fp16"]
KeyStyle = Literal["peft", "kohya"]
"""`peft`: `transformer.<module>.lora_A.weight`, no alpha; `kohya`: `lora_unet_<module>.lora_down.weight`, and alpha."""


@dataclass(frozen=True)
class ComponentSpec:
    """A part of a pipeline: what loads it, and hence which of the files in its folder count."""

    kind: Literal["model", "tokenizer", "processor", "scheduler"]
    """`processor`: a tokenizer with an image processor, loaded without torchvision where there is none."""
    library: Literal["diffusers", "transformers"]
    loader: str
    """Class of the library; empty for schedulers, whose config names their class."""


@dataclass(frozen=True)
class BaseKind:
    """A model of a family that the metadata of LoRA files call by another name than the family's own."""

    setting: str
    """Setting of the denoiser's config ..."""
    value: object
    """... and what it is in this model."""
    architecture: str
    base_model_version: str = ""
    """That of the family if empty."""


def _text_encoder_prefixes() -> dict[str, str]:
    return {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2", "text_encoder_3": "lora_te3"}


@dataclass(frozen=True)
class LoraNames:
    """What LoRA files of a family look like: names of modules, and what the metadata call the base.

    The defaults are right for a family whose modules have the same names in ComfyUI as in diffusers: ComfyUI reads the
    PEFT file, and kohya keys are `lora_unet_` + the module's name with `_` for `.`. Such a family gives only
    `architecture` and `base_model_version`, and `diffusers_reads=("peft", "kohya")` if diffusers converts kohya keys
    for it (`lora_conversion_utils.py`; try it: the proof of export tells).

    A family whose original code names or cuts its modules in another way lists them in `native`, one row a module:

        native={
            "double_blocks.{}.img_attn.qkv": (
                "transformer_blocks.{}.attn.to_q", "transformer_blocks.{}.attn.to_k", "transformer_blocks.{}.attn.to_v",
            ),
            "double_blocks.{}.img_attn.proj": ("transformer_blocks.{}.attn.to_out.0",),
        }

    `{}` is a number, the same on both sides. A module with several parts holds their output rows one below the other in
    this order. Rows whose parts a model lacks are left out for it; a module that no row names cannot be written in
    kohya's format nor be read by ComfyUI, so list everything that `targets` can match. `comfyui="kohya"` if ComfyUI
    knows these names alone, and not those of diffusers (`comfy/lora.py`).
    """

    architecture: str = ""
    """`modelspec.architecture` without its `/lora`; the family's name unless given."""
    base_model_version: str = ""
    """`ss_base_model_version`; the family's name unless given."""
    kinds: tuple[BaseKind, ...] = ()
    """Models that the denoiser's config tells apart, where they have other names; the first that fits counts."""
    network_module: str = "networks.lora"
    """`ss_network_module`: the module of kohya's trainer that writes such keys."""
    comfyui: KeyStyle | None = "peft"
    """Keys that ComfyUI reads for this family; None if it reads none."""
    diffusers_reads: tuple[KeyStyle, ...] = ("peft",)
    """Keys that diffusers' pipeline of this family reads with the right strength."""
    lokr_in_diffusers: bool = False
    """Whether it reads LoKr too, under PEFT's names of modules."""
    native: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Module of the original code -> modules of diffusers that its rows consist of; empty if the names are the same."""
    also_read: Mapping[str, str] = field(default_factory=dict[str, str])
    """Start of a module's name in files of others -> start of its name in diffusers; read, never written."""
    text_encoders: Mapping[str, str] = field(default_factory=_text_encoder_prefixes)
    """Text encoder -> prefix of its kohya keys."""


@dataclass(frozen=True)
class TextLimit:
    """How much of a caption the text encoder reads that reads most of it; told by its tokenizer alone."""

    tokenizer: str
    """Component that cuts captions into tokens."""
    reader: str
    """What people call the encoder."""
    spare: int = 0
    """Tokens that count and are not the caption's: start, end."""
    before: str | Callable[[], str] = ""
    """Text in front of the caption whose tokens count too."""


@dataclass(frozen=True)
class TextLora:
    """Where a LoRA goes on a text encoder."""

    targets: str
    """Regex matched in full against the names of its modules."""
    unread: int = 0
    """Layers at the end of its stack `layers` whose states the family does not read: they would learn nothing."""


@dataclass(frozen=True)
class ControlSpec:
    """What a family does with control pictures, the pictures that an edit starts from."""

    most: int
    """How many a sample may have."""
    required: bool
    """Whether a sample without one is an error."""
    in_text: bool
    """Whether the text encoder reads them too, so that a text embedding depends on them."""
    fit: Callable[[int, int, int], tuple[int, int]]
    """(width, height, side of the square whose area is aimed at; 0 for the family's own) -> (width, height) that the
    VAE encodes, in pixels."""
    crop: bool = False
    """How a picture gets that size where its shape is another: False squeezes it (FLUX.1 Kontext, Qwen-Image-Edit),
    True scales it to cover the size and cuts its centre (FLUX.2)."""


@dataclass(frozen=True)
class FamilySpec:
    """A family as data."""

    name: str
    title: str
    prediction: Literal["diffusion", "flow"]
    """`diffusion`: DDPM noise with eps or v targets; `flow`: x_t = (1-s)*x0 + s*noise with target noise - x0."""
    pipeline: str
    """Class of diffusers that renders samples."""
    components: Mapping[str, ComponentSpec]
    """Every part that is read from the base model, by the name of its folder."""
    denoiser: Literal["unet", "transformer"]
    """Component that carries the LoRA, and the prefix of its keys in the file."""
    vae_components: tuple[str, ...]
    """Components that decide what a latent is."""
    text_components: tuple[str, ...]
    """Components that decide what a text embedding is."""
    denoiser_components: tuple[str, ...]
    """Components that decide a training step: the denoiser, and the scheduler for its noise levels."""
    size_multiple: int
    """Picture sides must be multiples of this many pixels."""
    text_length: int
    """Default number of tokens of the (longest) text encoder."""
    latents_version: int
    """Raise it when `encode_latents` changes what it returns: every latent of the family is encoded again."""
    text_version: int
    """Raise it when `encode_text` changes what it returns."""
    targets: Mapping[str, str]
    """Named choices of `adapter.targets` -> regex matched in full against module names of the denoiser."""
    file_has: tuple[str, ...]
    """Single-file checkpoints: each of these must be a part of some tensor's name (none given: no file is the family's)
    ..."""
    file_lacks: tuple[str, ...] = ()
    """... and none of these may be."""
    file_parts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Components that a single file keeps as a part of another name (`_single_file.PARTS`)."""
    file_names: Literal["original", "diffusers"] = "original"
    """How single files name the denoiser's tensors: as its authors did, which diffusers converts, or as diffusers does,
    which leaves a prefix of ComfyUI to be taken off."""
    vae_precisions: tuple[PrecisionName, ...] = ("fp32", "bf16", "fp16")
    """Precisions in which the VAE does not overflow; the first is the fallback."""
    overflows_in_fp16: bool = False
    """Whether the denoiser reaches values above fp16's 65504: it was trained in bf16."""
    clip_skip: bool = False
    choosable_text_length: bool = False
    long_captions: bool = False
    """Whether captions may be read in several pieces of 75 tokens (`text.clip_tokens`)."""
    text_limits: tuple[TextLimit, ...] = ()
    """Where captions are cut; empty if they never are."""
    text_lora: Mapping[str, TextLora] = field(default_factory=dict[str, Any])
    """Text encoders that can carry a LoRA: those whose LoRA diffusers' pipeline of the family loads."""
    latent_factor: int = 8
    """Pixels to one step of a stored latent, each way."""
    control: ControlSpec | None = None
    """None for families that take no control pictures."""
    guidance_argument: str = "guidance_scale"
    """Argument of the pipeline's call that takes `sample.guidance`."""
    no_negative_prompt: str | None = ""
    """What the pipeline's call is given for no negative prompt; None where it takes none as text."""
    variant: str = ""
    """Name of the variant, such as `kontext`; empty for the family's main model."""
    variants: tuple[FamilySpec, ...] = ()
    """Other models of the family, recognised by their `pipeline`. A variant shares the family's methods, which read
    `self.spec`, and so what differs should be data."""
    lora: LoraNames = LoraNames()
    """How LoRA files name its modules."""

    @property
    def identity(self) -> str:
        """Name and variant: what a key holds of which code encodes and predicts."""
        return f"{self.name} {self.variant}" if self.variant else self.name


class Family(Protocol):
    """The behaviour of a family: a frozen dataclass that holds its spec and nothing else.

    All latents are normalised: scaled and shifted as the denoiser expects them.
    """

    spec: FamilySpec

    def load_vae(self, source: ModelSource, dtype: torch.dtype) -> nn.Module:
        """Load the VAE alone, frozen, in eval mode, on the CPU."""
        ...

    def load_text_encoders(self, source: ModelSource, dtype: torch.dtype) -> Mapping[str, Any]:
        """Load `spec.text_components` by name (encoders frozen, in eval mode; tokenizers as they are)."""
        ...

    def load_denoiser(self, source: ModelSource, dtype: torch.dtype) -> nn.Module:
        """Load the denoiser alone, frozen."""
        ...

    def load_pipeline(self, source: ModelSource, dtype: torch.dtype) -> Any:
        """Load the whole diffusers pipeline for sampling, on the CPU, every model in `dtype`."""
        ...

    def noise_schedule(self, source: ModelSource, noise: NoiseConfig) -> NoiseSchedule:
        """Return the schedule that the base was trained with."""
        ...

    def encode_latents(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Encode pixels [B, 3, H, W] in [-1, 1] to latents [B, C, h, w]: the posterior's mode, normalised.

        Pixels are moved to the VAE's device and dtype; latents come back there as float32 (normalised in float32).
        """
        ...

    def encode_text(
        self,
        encoders: Mapping[str, Any],
        captions: Sequence[str],
        text: TextConfig,
        controls: Sequence[Sequence[Image.Image]] = (),
    ) -> list[TextCondition]:
        """Encode captions, one unbatched `TextCondition` each, on the encoders' device and in their dtype.

        `controls`: RGB control pictures of each caption in their own size; empty unless `spec.control.in_text`.
        """
        ...

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the denoiser. noisy [B, C, h, w]; timesteps [B] as `NoiseSchedule.timesteps` gave them; `given` batched.

        Inputs may be on another device or in another dtype than the denoiser. Captions of a batch may differ in length
        and must not read each other's padding. Returns a prediction [B, C, h, w], in the dtype that the denoiser gave,
        comparable with `NoiseSchedule.target`.
        """
        ...

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the arguments that tell `pipeline` what to render: the prompt as text or encoded, and the pictures."""
        ...
