"""OneTrainer's keys of concepts and samples."""

from __future__ import annotations

from trainer_core.importers.core.convert import (
    amount,
    number,
    on,
    path,
    several_numbers,
    side_of,
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
    changed,
    dropped,
    irrelevant,
    refused,
    several,
    to,
)
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.types import JSON

SAMPLE_KEYS = ("negative_prompt", "width", "height", "seed", "diffusion_steps", "cfg_scale", "noise_scheduler")
"""Keys of a sample that become settings of all samples."""


def _balancing(value: JSON, context: Context) -> JSON:
    """Repeats may be fractions there; with SAMPLES they count pictures."""
    if str(context.get("balancing_strategy", "REPEATS")) == "SAMPLES":
        return refused(f"It uses {value} pictures an epoch; we use each picture `repeats` times.")
    repeats = amount(value)
    if repeats == int(repeats) and repeats >= 1:
        return int(repeats)
    return changed(
        {"datasets.repeats": max(1, round(repeats))}, f"It sees each picture {repeats:g} times; ours a whole number."
    )


def _kind(value: JSON, context: Context) -> JSON:
    if str(value) == "VALIDATION":
        return Conversion({"datasets.held_out": 1.0}, note="These pictures are measured, not trained.")
    if str(value) == "PRIOR_PREDICTION":
        note = "Its target is the base's own prediction; ours are the pictures, weighted by `loss.prior_weight`."
        return changed({"datasets.regularisation": True, "datasets.held_out": 0.0}, note)
    return Conversion({"datasets.held_out": 0.0}, note="It trains on every picture.")


def _override(value: JSON, context: Context) -> JSON:
    return (
        sides(value)
        if truth(context.get("image.enable_resolution_override"))
        else dropped("It is off in the other tool.")
    )


def _shared_resolution(value: JSON, context: Context) -> JSON:
    return (
        dropped("The concept has its own.") if truth(context.get("image.enable_resolution_override")) else sides(value)
    )


def sides(value: JSON) -> JSON:
    """Read `512`, `512,768` (several) or `768x1024` (an area)."""
    found: list[JSON] = []
    for part in str(value).split(","):
        pair = several_numbers(part.lower().replace("x", ","))
        if pair:
            found.append(int(amount(pair[0])) if len(pair) == 1 else side_of(amount(pair[0]), amount(pair[1])))
    return found or dropped("It is empty.")


def _buckets(value: JSON, context: Context) -> JSON:
    if not truth(value):
        return Conversion({"bucket.table": "square"})
    given = sides(
        context.get("image.resolution_override")
        if truth(context.get("image.enable_resolution_override"))
        else context.get("(resolution)", "512")
    )
    every = given if isinstance(given, list) else [512]
    return Conversion(
        {"bucket.table": "grid", "bucket.max_side": 2 * max(every), "bucket.min_side": max(64, min(every) // 2)},
        note="Its buckets go from 1:1 to 4:1.",
    )


def _jitter(value: JSON, context: Context) -> JSON:
    variations = int(amount(context.get("image_variations", 1)))
    if not truth(value):
        return Conversion({"augment.crop": "center"})
    if variations > 1:
        return Conversion({"augment.crop": "random", "augment.variants": min(variations, 64)})
    return changed({}, "It crops each picture once, at a random position. With one variant we crop the centre.")


def _colour(value: JSON, context: Context) -> JSON:
    if not truth(value):
        return dropped("It is off in the other tool.")
    strength = amount(context.get(context.key.replace("enable_random", "random") + "_max_strength"))
    return changed(
        {"augment.color": min(1.0, strength)}, "One strength moves brightness, contrast, saturation and hue."
    )


def _captions(value: JSON, context: Context) -> JSON:
    if str(value) == "sample":
        return Conversion(
            {"caption.multiline": "random"}, note="Each line of a caption file is a caption; one is drawn."
        )
    fix = "Write a caption file beside each picture" if str(value) == "filename" else "Set `class_tokens` of the folder"
    return refused(f"{fix}: captions from `{value}` are not read.")


def _dropout(value: JSON, context: Context) -> JSON:
    if not truth(context.get("text.tag_dropout_enable")):
        return dropped("It is off in the other tool.")
    kind = str(context.get("text.tag_dropout_mode", "FULL"))
    if kind == "FULL":
        return Conversion({"caption.dropout": number(value)}, note="FULL drops all tags together.")
    if kind == "RANDOM":
        return Conversion({"tags.dropout": number(value)})
    return changed({"tags.dropout": number(value)}, f"{kind} drops later tags more often; ours drops all alike.")


def _keep(value: JSON, context: Context) -> JSON:
    some = str(context.get("text.tag_dropout_mode", "FULL")) != "FULL"
    used = truth(context.get("text.enable_tag_shuffling")) or (truth(context.get("text.tag_dropout_enable")) and some)
    return int(amount(value)) if used else dropped("Tags are neither shuffled nor dropped.")


def _masks(value: JSON, context: Context) -> JSON:
    if not truth(value):
        return dropped("It is off in the other tool.")
    return refused(
        "Put the `-masklabel.png` files into a folder of their own, named as their pictures, and set `mask_path`."
    )


_FIXED = "Change the pictures themselves."
_PROGRAM = "It matters in the other program only."

ROWS: list[Row] = [
    to("path", "datasets.path", path),
    to("name", "datasets.name", unless_off(text)),
    several("type", "datasets.held_out datasets.regularisation", _kind),
    to("balancing", "datasets.repeats", _balancing),
    to("repeats", "datasets.repeats", _balancing),
    *irrelevant("balancing_strategy", "See `balancing`."),
    several(
        "include_subdirectories",
        "",
        lambda value, context: (
            dropped("It is the same here.")
            if truth(value)
            else changed({}, "Folders inside this one are read here too. Move them elsewhere if they should not be.")
        ),
    ),
    to("loss_weight", "datasets.loss_weight", number),
    to("(resolution)", "datasets.resolutions", _shared_resolution),
    to("image.resolution_override", "datasets.resolutions", _override),
    *irrelevant("image.enable_resolution_override", "See `resolution_override`."),
    several("(aspect_ratio_bucketing)", "bucket.table bucket.max_side bucket.min_side", _buckets),
    several("(masked_training)", "datasets.mask_path", _masks, status="unsupported"),
    several("image.enable_crop_jitter", "augment.crop", _jitter),
    to("image.enable_random_flip", "augment.flip", on),
    *[
        several(f"image.enable_random_{what}", "augment.color", _colour, status="changed")
        for what in ("brightness", "contrast", "saturation", "hue")
    ],
    *irrelevant("image.random_*", "See the key that switches it on."),
    *[
        no(f"image.enable_fixed_{what}", _FIXED)
        for what in ("flip", "rotate", "brightness", "contrast", "saturation", "hue")
    ],
    no("image.enable_random_rotate", "Pictures are never rotated here."),
    no("image.enable_random_circular_mask_shrink", "Masks are used as they are; change the mask files."),
    no("image.enable_random_mask_rotate_crop", "Use `augment.crop: mask`."),
    several("text.prompt_source", "caption.multiline", _captions),
    no("text.prompt_path", "Put a caption file beside each picture, or set `class_tokens`."),
    to("text.enable_tag_shuffling", "tags.shuffle", on),
    to("text.tag_delimiter", "tags.separator", unless_off(text)),
    to("text.keep_tags_count", "tags.keep_tokens", _keep),
    several("text.tag_dropout_probability", "tags.dropout caption.dropout", _dropout),
    *irrelevant("text.tag_dropout_enable text.tag_dropout_mode", "See `tag_dropout_probability`."),
    no("text.tag_dropout_special_tags_mode", "Protect tags at the front with `tags.keep_tokens`.", (None, "NONE", "")),
    *irrelevant(
        "text.tag_dropout_special_tags text.tag_dropout_special_tags_regex", "See the mode that it belongs to."
    ),
    no("text.caps_randomize_enable", "Upper and lower case of captions are kept."),
    *irrelevant("text.caps_randomize_*", "See the key that switches it on."),
    to(
        "text_variations",
        "caption.variants",
        lambda value, context: (
            int(amount(value)) if amount(value) > 1 else dropped("Here several texts are encoded if captions vary.")
        ),
    ),
    *irrelevant("image_variations", "See `enable_crop_jitter`."),
    *irrelevant("enabled seed concept_stats __version", _PROGRAM),
    to(
        "(picture without a caption)",
        "caption.missing",
        text,
        "It trains pictures without a caption on the empty caption.",
    ),
]

DEFAULTS: list[Default] = [
    Default("type", "STANDARD"),
    Default("image.enable_crop_jitter", True),
    Default("text.prompt_source", "sample"),
    Default("text.keep_tags_count", 1),
    Default("(resolution)", "512"),
    Default("(aspect_ratio_bucketing)", True),
    Default("(picture without a caption)", "empty"),
]

TABLE = Table("Concepts", ROWS, DEFAULTS)
