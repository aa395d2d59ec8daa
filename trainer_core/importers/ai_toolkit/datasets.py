"""ai-toolkit's keys of datasets."""

from __future__ import annotations

from trainer_core.importers.core.convert import (
    amount,
    number,
    on,
    path,
    paths,
    text,
    truth,
    unless_off,
)
from trainer_core.importers.core.key_table import (
    Context,
    Conversion,
    Default,
    Row,
    Table,
    irrelevant,
    several,
    to,
)
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.types import JSON

CACHED = "Latents and embeddings are always cached here, and every change is noticed."


def _resolution(value: JSON, context: Context) -> JSON:
    sides = value if isinstance(value, list) else [value]
    return [int(amount(side)) for side in sides]


def _extension(value: JSON, context: Context) -> JSON:
    word = str(value)
    return [word if word.startswith(".") else f".{word}"]


def _buckets(value: JSON, context: Context) -> JSON:
    """Its buckets have any shape; ours have a longest and a shortest side."""
    if not truth(value) or truth(context.get("square_crop")):
        return Conversion({"bucket.table": "square"})
    sides = _resolution(context.get("resolution", 512), context)
    limits: dict[str, JSON] = {
        "bucket.table": "grid",
        "bucket.max_side": 2 * max(sides),
        "bucket.min_side": max(64, min(sides) // 2),
    }
    return Conversion(
        {**limits, "bucket.upscale": False}, note="Its buckets have any shape and never enlarge a picture."
    )


def _extra_control(value: JSON, context: Context) -> JSON:
    keys = ("control_path", "control_path_1", "control_path_2", "control_path_3")
    every = [context.get(key) for key in keys if context.get(key)]
    return Conversion({"datasets.control_path": [one for value in every for one in paths(value, context)]})


DATASET: list[Row] = [
    to("folder_path", "datasets.path", path),
    to("dataset_path", "datasets.path", path),
    several("control_path", "datasets.control_path", unless_off(_extra_control)),
    *[several(f"control_path_{count}", "datasets.control_path", unless_off(_extra_control)) for count in (1, 2, 3)],
    to("mask_path", "datasets.mask_path", unless_off(path), "White is trained, there and here."),
    to("alpha_mask", "datasets.alpha_mask", on),
    to("mask_min_value", "loss.mask_floor", unless_off(number)),
    no("invert_mask", "White is trained here: invert the masks."),
    to("resolution", "datasets.resolutions", _resolution, "Its default is 512."),
    several("buckets", "bucket.table bucket.max_side", _buckets),
    *irrelevant("square_crop", "See `buckets`."),
    to("bucket_tolerance", "bucket.step", number),
    to("caption_ext", "caption.extensions", _extension, "Its default is `.txt`."),
    to("caption_type", "caption.extensions", _extension),
    to("default_caption", "datasets.class_tokens", unless_off(text)),
    to("trigger_word", "datasets.trigger_word", unless_off(text)),
    to("caption_dropout_rate", "caption.dropout", number),
    to("token_dropout_rate", "tags.dropout", number),
    to("shuffle_tokens", "tags.shuffle", on),
    to("keep_tokens", "tags.keep_tokens", unless_off(number)),
    to("(lines of a caption)", "caption.multiline", text, "It reads the whole caption file."),
    to(
        "(picture without a caption)",
        "caption.missing",
        text,
        "It trains pictures without a caption on the empty caption.",
    ),
    to("(held out)", "datasets.held_out", number, "It trains on every picture."),
    to("num_repeats", "datasets.repeats", number),
    to("is_reg", "datasets.regularisation", on),
    no(
        "prior_reg",
        "Use `datasets.regularisation` for regularisation pictures, and `loss.preservation_weight` to keep the base's "
        "own prediction.",
    ),
    to("loss_multiplier", "datasets.loss_weight", number),
    no("network_weight", "All folders have the same strength here.", (None, 1, 1.0)),
    to("flip_x", "augment.flip", on),
    no("flip_y", "Pictures are mirrored left to right only."),
    to("random_crop", "augment.crop", unless_off(lambda value, context: "random")),
    no("random_scale", "Use `augment.crop_scale` with `augment.crop: random`."),
    no("scale", "Pictures are resized to their bucket.", (None, 1, 1.0)),
    no("augments", "See `augment` for what there is."),
    no("augmentations", "See `augment` for what there is."),
    no("controls", "Make the control pictures beforehand and give their folder."),
    no("inpaint_path", "Inpainting is not trained here."),
    no("unconditional_path", "We have no such setting."),
    no("clip_image_path", "Image adapters are not trained here."),
    no("control_from_same_folder", "Give the folder of control pictures as `control_path`."),
    no("random_triggers", "A folder has one `trigger_word`."),
    no("replacements", "Change the caption files."),
    no("use_short_captions", "Give captions as text files."),
    no("standardize_images", "Pictures are scaled to [-1, 1], as the VAE was trained."),
    no("diff_output_preservation", "Here it is the same for all folders: `loss.preservation_weight`."),
    no("diff_output_preservation_class", "Here it is the same for all folders: `loss.preservation_class`."),
    *irrelevant("cache_latents cache_latents_to_disk cache_text_embeddings cache_clip_vision_to_disk", CACHED),
    *irrelevant("cache_tensors_to_disk load_image_when_caching_latents cache_latents_num_workers", CACHED),
    *irrelevant(
        "num_workers prefetch_factor fast_image_size debug replay_transforms", "It matters in the other program only."
    ),
    *irrelevant(
        "type full_size_control_images control_transparent_color guidance_type batch_size",
        "It matters in the other program only.",
    ),
    *irrelevant(
        "num_frames shrink_video_to_frames fps auto_frame_count trim_auto_frame_count_tail do_i2v", "It is for videos."
    ),
    *irrelevant(
        "do_audio audio_preserve_pitch audio_normalize extra_values shuffle_augmentations", "It is for videos."
    ),
]

DATASET_DEFAULTS: list[Default] = [
    Default("resolution", 512),
    Default("buckets", True),
    Default("caption_ext", ".txt"),
    Default("(lines of a caption)", "whole"),
    Default("(picture without a caption)", "empty"),
    Default("(held out)", 0.0),
]

DATASET_TABLE = Table("Datasets", DATASET, DATASET_DEFAULTS)
