"""What is trained on: the base model, pictures, captions, and how both are encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from trainer_core.config.groups.base import KEYED_IF_SET, NEUTRAL, Group, OwnSide, Paths, Precision, Probability, Sides


class ModelConfig(Group):
    """The base model that the LoRA is trained on."""

    family: str
    """Model family: `sd15`, `sdxl`, `sd3`, `flux1`, `flux2`, `qwen_image`, `qwen_image_edit`, `kandinsky5`, `z_image`,
    `chroma`, `sana` or `lumina2`. Variants (Kontext, Klein, Edit-Plus) are recognised from the model."""
    path: Annotated[Path, NEUTRAL]
    """A diffusers-format folder, a single-file `.safetensors` checkpoint, or the id of a model on the Hugging Face hub
    (`owner/name`, where no such folder is there). Read only. `train` and `sample` download what is not in the hub's
    cache; what is there is used without asking the hub. kohya: `pretrained_model_name_or_path`. ai-toolkit:
    `model.name_or_path`."""
    revision: Annotated[str | None, NEUTRAL] = None
    """Branch, tag or commit of a model on the hub; its main branch unless given."""
    config_path: Annotated[Path | None, NEUTRAL] = None
    """For a single-file checkpoint: a diffusers-format folder, or an id on the hub, with the configs and tokenizers (no
    weights needed)."""
    vae_path: Annotated[Path | None, NEUTRAL] = None
    """Another VAE than the base's own: a diffusers-format folder, or the `.safetensors` file of an AutoencoderKL
    (`ae.safetensors`, `sdxl_vae.safetensors`). kohya: `vae`, `ae`. ai-toolkit: `vae_path`."""
    text_encoder_paths: Annotated[Paths, NEUTRAL] = ()
    """Other text encoders than the base's own: folders in transformers' format, or `.safetensors` files of CLIP or T5
    encoders (`clip_l`, `clip_g`, `t5xxl_fp16`), each recognised by its tensors. Tokenizers stay the base's. kohya:
    `clip_l`, `clip_g`, `t5xxl`."""
    allow_pickle: Annotated[bool, NEUTRAL] = False
    """Read a pickled single file (`.ckpt`, `.pt`) with torch's `weights_only` loader, which runs no code from it, and
    keep a `.safetensors` copy in the store. Off, such files are refused. Default: off, as pickles can hold code."""


class DatasetConfig(Group):
    """One folder of pictures. Read only: nothing is ever written into it."""

    path: Annotated[Path, NEUTRAL]
    """The folder: flat with `.txt`/`.caption` sidecars, kohya `N_concept` folders, or Hugging Face imagefolder. kohya:
    `image_dir`, `train_data_dir`. ai-toolkit: `folder_path`."""
    name: Annotated[str | None, Field(pattern=r"^[^/\\]+$")] = None
    """First part of every sample id; the folder's own name unless given."""
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How often each picture is seen in one epoch; multiplies the repeats of kohya folder names. Default: once. kohya:
    `num_repeats`. ai-toolkit: `num_repeats`."""
    held_out: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Share of the pictures kept out of training to measure held-out loss, in [0, 1]; at least one of four or more
    pictures if above 0; 1 holds out the whole dataset. Default: enough to see overfitting. kohya:
    `validation_split`."""
    held_out_group: str = ""
    """Pictures that belong together are held out together or not at all: `folder` groups by subfolder, else a regex
    that is searched in the sample id, whose first group (or whole match) names the group. Empty: each picture alone."""
    trigger_word: str | None = None
    """In place of `caption.trigger_word` for this folder; empty for pictures that do not show the concept and are only
    there so that the LoRA does not forget what the base can do."""
    class_tokens: str | None = None
    """Caption of pictures that have no caption file. kohya: `class_tokens`. ai-toolkit: `default_caption`."""
    layout: Literal["auto", "flat", "kohya", "imagefolder"] = "auto"
    """How captions and repeats are found; `auto` looks at the folder and `check` prints what it found."""
    control_path: Annotated[Paths, NEUTRAL] = ()
    """For edit families: the folder of control pictures (what an edit starts from), matched by the relative name
    without its ending; several folders are several control pictures a sample, in order. May lie inside `path`. kohya:
    `conditioning_data_dir`. ai-toolkit: `control_path`."""
    mask_path: Annotated[Path | None, NEUTRAL] = None
    """Folder of masks (white is trained, black is not, grey in between), matched like `control_path`; a picture without
    a mask is trained whole. kohya: `conditioning_data_dir` with `masked_loss`. ai-toolkit: `mask_path`."""
    alpha_mask: bool = False
    """Take the mask from the pictures' own alpha channel: opaque is trained. kohya: `alpha_mask`. ai-toolkit:
    `alpha_mask`."""
    resolutions: Sides = ()
    """In place of `bucket.resolution` for this folder, in pixels; with several, each picture is trained at each of them
    (`@768` is then a part of its sample id). kohya: a dataset of its own each. ai-toolkit: `resolution`."""
    regularisation: bool = False
    """Pictures of the class rather than the concept (prior preservation, arXiv 2208.12242): repeated until an epoch has
    as many of them as of the others, weighted by `loss.prior_weight`, never held out, without the trigger word unless
    `trigger_word` gives one. kohya: `is_reg`. ai-toolkit: `is_reg`."""
    loss_weight: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    """What the loss of this folder's pictures is multiplied by. Default: all count alike. ai-toolkit:
    `loss_multiplier`."""

    @property
    def label(self) -> str:
        """The name, or else the folder's."""
        return self.name or self.path.name or "dataset"


class BucketConfig(Group):
    """Aspect-ratio buckets: each picture is resized and cropped to the bucket nearest to its own shape."""

    table: Literal["grid", "sdxl_sizes", "square"] = "grid"
    """Which sizes there are: every size of the grid below, the 40 sizes that SDXL was trained on (`resolution` 1024
    only, arXiv 2307.01952, appendix I), or the square alone. Default: most pictures are not square. kohya:
    `enable_bucket` (`false` is `square`)."""
    resolution: OwnSide = 0
    """Side in pixels of the square whose area no bucket exceeds; 0 (or null) is what the base was trained at: what its
    config says, else 512 for SD1.5 and 1024 for all others. kohya: `resolution`. ai-toolkit: `resolution`."""
    step: Annotated[int, Field(ge=8, le=512)] = 64
    """Bucket sides are multiples of this many pixels. Default: kohya's. kohya: `bucket_reso_steps`. ai-toolkit:
    `bucket_tolerance`."""
    min_side: Annotated[int, Field(ge=8, le=8192)] = 256
    """Shortest side of a bucket in pixels. Default: kohya's. kohya: `min_bucket_reso`."""
    max_side: OwnSide = 0
    """Longest side of a bucket in pixels; 0 (or null) is twice the largest resolution that is trained: SDXL at 1024
    then has its 1216x832 and all others up to 2048x512. kohya: `max_bucket_reso`."""
    upscale: bool = True
    """Enlarge pictures that are smaller than their bucket; `false` gives them a smaller bucket of their own. Default:
    kohya's. kohya: `bucket_no_upscale`, inverted."""
    control_resolution: Annotated[int, Field(ge=0, le=8192)] = 0
    """Side in pixels of the square whose area a control picture is resized to; 0 is the family's own. ai-toolkit:
    `match_target_res`."""


class AugmentConfig(Group):
    """How a picture differs from draw to draw. Every difference is encoded and cached once, as an entry of its own."""

    flip: bool = False
    """Train each picture and its mirror image, half of the draws each. Default: off, as faces and letters are not
    symmetric. kohya: `flip_aug`. ai-toolkit: `flip_x`."""
    crop: Literal["center", "random", "face", "mask"] = "center"
    """Where a picture that has not its bucket's shape is cut: its centre, a random place, around the largest face that
    is found, or around what its mask shows. Default: centre, kohya's. kohya: `random_crop`, `face_crop_aug_range`."""
    crop_scale: Annotated[float, Field(ge=1.0, le=4.0)] = 1.0
    """With `crop: random`, pictures are first enlarged by a random factor from 1 to this. Default: 1, kohya's."""
    color: Probability = 0.0
    """Strength of random changes of brightness, contrast, saturation and hue, in [0, 1]. Default: off, kohya's. kohya:
    `color_aug` (0.1 comes close)."""
    variants: Annotated[int, Field(ge=1, le=64)] = 4
    """Random crops and colours of each picture that are encoded; each draw picks one. Each costs a cached latent.
    Default: enough that few pictures do not look alike, at four times the cache."""


class CaptionConfig(Group):
    """How the text beside a picture becomes its caption."""

    extensions: tuple[str, ...] = (".txt", ".caption")
    """Sidecar endings, in order of preference. Default: what people have on their disks, then kohya's. kohya:
    `caption_extension`. ai-toolkit: `caption_ext`."""
    missing: Literal["error", "exclude", "empty"] = "error"
    """A picture without a caption: stop, leave the picture out (named in the ledger), or train it on an empty
    caption. Default: stop, as a forgotten caption is the commonest mistake."""
    multiline: Literal["first_line", "whole", "each", "random"] = "first_line"
    """A caption file of several lines: its first line (kohya's rule); all of it joined by spaces (ai-toolkit's); each
    line in turn, one an epoch; or a random line each draw (SimpleTuner's and OneTrainer's). Default: kohya's. kohya:
    `enable_wildcard` (`random`)."""
    trigger_word: str = ""
    """Put before every caption that does not contain it already, followed by a comma; stands in place of `[trigger]`
    where a caption has that. ai-toolkit: `trigger_word`."""
    prefix: str = ""
    """Put before every caption, followed by a space. kohya: `caption_prefix`."""
    suffix: str = ""
    """Put after every caption, after a space. kohya: `caption_suffix`."""
    wildcards: bool = False
    """Replace each `{a|b|c}` of a caption by one of its choices, drawn anew each time. kohya: `enable_wildcard`."""
    dropout: Probability = 0.0
    """Share of the draws that train on the empty caption, in [0, 1]. Default: off, kohya's. kohya:
    `caption_dropout_rate`. ai-toolkit: `caption_dropout_rate`."""
    dropout_every_n_epochs: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Every N-th epoch trains on empty captions only; 0 never. kohya: `caption_dropout_every_n_epochs`."""
    variants: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Texts of each caption that are encoded where it differs from draw to draw (shuffled tags, tag dropout, wildcards,
    lines): all of them where there are no more than this, else this many drawn by seed. `check` and `plan` tell.
    Without effect where nothing is cached (`text.cache`). Default: a caption of five tags has 120 orders, of which 16
    differ enough."""


class TagsConfig(Group):
    """What is done with the tags of a caption, its parts between separators, from draw to draw."""

    shuffle: bool = False
    """Bring the tags into another order each draw. Default: off, kohya's. kohya: `shuffle_caption`. ai-toolkit:
    `shuffle_tokens`."""
    separator: Annotated[str, Field(min_length=1)] = ","
    """What stands between tags. Default: kohya's. kohya: `caption_separator`."""
    keep_tokens: Annotated[int, Field(ge=0, le=1000)] = 0
    """Tags at the front that are neither moved nor dropped. kohya: `keep_tokens`. ai-toolkit: `keep_tokens`."""
    keep_tokens_separator: str = ""
    """In place of a number: tags before this mark (and after a second one) are neither moved nor dropped; the marks are
    taken out. kohya: `keep_tokens_separator`, usually `|||`."""
    secondary_separator: str = ""
    """Joins tags that are moved and dropped as one; becomes `separator` in the text. kohya: `secondary_separator`,
    usually `;;;`."""
    dropout: Probability = 0.0
    """Probability that a tag is left out of a draw, in [0, 1]. Default: off, kohya's. kohya:
    `caption_tag_dropout_rate`. ai-toolkit: `token_dropout_rate`."""


class LatentsConfig(Group):
    """How pictures are encoded by the VAE."""

    precision: Precision = "auto"
    """Precision of the VAE; latents are stored in fp32 for fp32, else in fp16, the finer of the two. `auto` is the
    hardware profile's choice. kohya: `no_half_vae` (fp32)."""
    batch_size: Annotated[int, Field(ge=0, le=256), NEUTRAL] = 0
    """Pictures encoded at once; 0 is the hardware profile's choice. kohya: `vae_batch_size`."""
    tiling: Annotated[bool, KEYED_IF_SET] = False
    """Encode large pictures tile by tile: less memory, and latents that differ a little where tiles meet."""


class TextConfig(Group):
    """How captions are encoded by the text encoders."""

    precision: Precision = "auto"
    """Precision of the encoders and of the stored embeddings; `auto` is the hardware profile's choice."""
    batch_size: Annotated[int, Field(ge=0, le=256), NEUTRAL] = 0
    """Captions encoded at once; 0 is the hardware profile's choice. kohya: `text_encoder_batch_size`."""
    max_length: Annotated[int, Field(ge=0, le=4096)] = 0
    """Tokens of a caption for families that let one choose (T5: 512 for FLUX.1-dev, 256 for schnell); 0 is the
    family's own. kohya: `t5xxl_max_token_length`."""
    clip_tokens: Literal[75, 150, 225] = 75
    """Tokens of a caption that CLIP reads (SD1.5 and SDXL); beyond 75 they are read in pieces of 75. Default: what CLIP
    was trained on. kohya: `max_token_length`."""
    clip_skip: Annotated[int, Field(ge=0, le=11)] = 0
    """CLIP layers left out at the end (SD1.5); the final layer norm is always applied. kohya: `clip_skip`, which counts
    one more."""
    cache: Literal["auto", "always", "never"] = "auto"
    """Whether captions are encoded before training: `auto` does unless a text encoder is trained; `never` keeps the
    encoders in memory and encodes each batch, so that every shuffle can be drawn. kohya:
    `cache_text_encoder_outputs`. ai-toolkit: `cache_text_embeddings`."""
