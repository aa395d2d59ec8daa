"""A model family as data: its parts, what decides its keys, how its files name things. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PrecisionName = Literal["fp32", "bf16", "fp16"]
KeyStyle = Literal["peft", "kohya", "original"]
"""`peft`: `transformer.<module>.lora_A.weight`, no alpha; `kohya`: `lora_unet_<module>.lora_down.weight`, and alpha;
`original`: `diffusion_model.<module of the original code>.lora_A.weight`, no alpha."""
STYLES_WITH_ALPHA: frozenset[KeyStyle] = frozenset({"kohya"})
"""Files of the others have alpha / rank folded into the weights."""


@dataclass(frozen=True)
class ComponentSpec:
    """A part of a pipeline: what loads it, and hence which of the files in its folder count."""

    kind: Literal["model", "tokenizer", "processor", "scheduler"]
    """`processor`: a tokenizer with an image processor, loaded without torchvision where there is none."""
    library: Literal["diffusers", "transformers"]
    loader: str
    """Class of the library; empty for schedulers, whose config names their class."""
    after_load: Callable[[Any], Any] | None = None
    """Called with the loaded component; what it returns is used in its place. For what a library's class gets wrong."""
    most_layers: int = 0
    """Layers of a language model that are loaded: what lies above decides nothing. 0 for all."""


@dataclass(frozen=True)
class BaseKind:
    """A model of a family whose LoRA files carry another architecture name than the family's own."""

    setting: str
    """Key of the denoiser's config that tells this model apart ..."""
    value: object
    """... and its value in this model."""
    architecture: str
    base_model_version: str = ""
    """That of the family if empty."""


def _text_encoder_prefixes() -> dict[str, str]:
    return {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2", "text_encoder_3": "lora_te3"}


@dataclass(frozen=True)
class LoraNames:
    """How LoRA files of a family name modules, and what their metadata call the base.

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
    """How many tokens of a caption are read, by the encoder that reads most of it. Needs its tokenizer only."""

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
class LatentSpec:
    """What the VAE makes of a picture."""

    version: int
    """Raise it when `encode_latents` changes what it returns: every latent of the family is encoded again."""
    factor: int = 8
    """Pixels per latent pixel, in each direction."""
    precisions: tuple[PrecisionName, ...] = ("fp32", "bf16", "fp16")
    """Precisions in which the VAE does not overflow; the first is the fallback."""


@dataclass(frozen=True)
class TextShape:
    """What `encode_text` gives for one caption, as the configs of a base tell it: `component.key` each."""

    width: str
    """Channels of a token."""
    pooled: str = ""
    """Numbers of the pooled output; empty where there is none."""
    more: int = 0
    """Tokens beside those of `TextSpec.tokens`."""
    varies: bool = False
    """Whether a caption has as many tokens as it is long, without pads."""


@dataclass(frozen=True)
class TextSpec:
    """How captions are read."""

    length: int
    """Default number of tokens of the (longest) text encoder."""
    version: int
    """Raise it when `encode_text` changes what it returns: every caption of the family is encoded again."""
    shape: TextShape
    """Shapes of what it returns."""
    choosable_length: bool = False
    """Whether `encode_text` reads `text.max_length`."""
    clip_skip: bool = False
    """Whether `encode_text` reads `text.clip_skip`."""
    long_captions: bool = False
    """Whether captions may be read in several pieces of 75 tokens (`text.clip_tokens`)."""
    limits: tuple[TextLimit, ...] = ()
    """Where captions are cut; empty if they never are."""
    lora: Mapping[str, TextLora] = field(default_factory=dict[str, TextLora])
    """Text encoders that can carry a LoRA: those whose LoRA diffusers' pipeline of the family loads."""

    def tokens(self, max_length: int) -> int:
        """Return how many tokens are read where `text.max_length` is `max_length` (0: the family's own length)."""
        return (max_length if self.choosable_length else 0) or self.length


@dataclass(frozen=True)
class SingleFileSpec:
    """How a checkpoint in one .safetensors file is recognised and read. Without `has` the family has no such files."""

    has: tuple[str, ...] = ()
    """Each of these must be a part of some tensor's name ..."""
    lacks: tuple[str, ...] = ()
    """... and none of these may be."""
    parts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Component -> the name that `single_file.PARTS` has for its tensors, where it is not the component's own."""
    names: Literal["original", "diffusers"] = "original"
    """Names of the denoiser's tensors: those of the original code, which diffusers converts, or those of diffusers
    below ComfyUI's prefix."""


@dataclass(frozen=True)
class StoredLayers:
    """Which linear layers of a denoiser can be held in 8 or 4 bits (`memory.base_modules`); regexes for whole names."""

    blocks: str = r"(single_)?transformer_blocks\.\d+\..*"
    """Everything in the blocks."""
    modulation: str = r"transformer_blocks\.\d+\.norm1(_context)?\.linear"
    """What turns time and text into scales and shifts; empty where that is no matrix of its own."""
    dense: str = (
        r"((all_)?x_embedder|context_embedder|(cap|t)_embedder|img_in|txt_in|visual_embeddings"
        r"|norm_out|proj_out|all_final_layer|out_layer)(\..*)?"
    )
    """The first and the last layers, which are small and sensitive: never in fewer bits, unless they are in a block."""

    def pattern(self, modules: str) -> str:
        """Return the regex of a choice: `blocks`, `blocks+modulation` or `all-linear`."""
        modulation = self.modulation or "(?!)"
        return {
            "blocks": rf"(?!(?:{modulation})\Z)(?:{self.blocks})",
            "blocks+modulation": f"{self.blocks}|{modulation}",
            "all-linear": rf"{self.blocks}|{modulation}|(?!(?:{self.dense})\Z).*",
        }[modules]


@dataclass(frozen=True)
class RenderSpec:
    """How the diffusers pipeline of the family is built and called."""

    options: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    """model_index.json -> arguments of the pipeline's constructor, besides the components."""
    after_load: Callable[[Any], Any] | None = None
    """Called with the pipeline; what it returns is used in its place."""
    guidance_argument: str = "guidance_scale"
    """Argument of the call that takes `sample.guidance`."""
    no_negative_prompt: str | None = ""
    """Value of the negative prompt for "none"; None where the pipeline takes no negative prompt as text."""


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
    text_components: tuple[str, ...]
    """Components that decide what a text embedding is: tokenizers and encoders."""
    size_multiple: int
    """Picture sides must be multiples of this many pixels."""
    latents: LatentSpec
    text: TextSpec
    targets: Mapping[str, str]
    """Named choices of `adapter.targets` -> regex matched in full against module names of the denoiser."""
    blocks: tuple[str, ...] = ()
    """Lists of the denoiser's blocks, by the names of its attributes, in the order in which they work; empty for UNets,
    whose blocks differ from one another."""
    never_recomputed: tuple[str, ...] = ()
    """Those of `blocks` that diffusers' gradient checkpointing leaves out, so that they cannot be swapped."""
    vae: str = "vae"
    """Component that decides what a latent is."""
    stored_layers: StoredLayers = StoredLayers()
    """Which layers of the denoiser `memory.base` is for."""
    single_file: SingleFileSpec = SingleFileSpec()
    rendering: RenderSpec = RenderSpec()
    lora: LoraNames = LoraNames()
    """How LoRA files name its modules."""
    resolution: int = 1024
    """Side in pixels of the square that it was trained at, where the base's config has no `sample_size`."""
    resolution_range: tuple[float, float] = (0.75, 1.5)
    """Shares of it between which the model draws well; `check` warns outside."""
    overflows_in_fp16: bool = False
    """Whether the denoiser reaches values above fp16's 65504: it was trained in bf16."""
    control: ControlSpec | None = None
    """None for families that take no control pictures."""
    variant: str = ""
    """Name of the variant, such as `kontext`; empty for the family's main model."""
    variants: tuple[FamilySpec, ...] = ()
    """Other models of the family, recognised by their `pipeline`. A variant shares the family's methods, which read
    `self.spec`, so everything that differs should be data."""

    @property
    def identity(self) -> str:
        """Name and variant: the part of a key that says which code encodes and predicts."""
        return f"{self.name} {self.variant}" if self.variant else self.name

    @property
    def swappable(self) -> tuple[str, ...]:
        """Those of `blocks` that can be swapped."""
        return tuple(name for name in self.blocks if name not in self.never_recomputed)

    @property
    def vae_components(self) -> tuple[str, ...]:
        """Components that decide what a latent is."""
        return (self.vae,)

    @property
    def denoiser_components(self) -> tuple[str, ...]:
        """Components that decide a training step: the denoiser, and the scheduler for its noise levels."""
        return (self.denoiser, "scheduler")
