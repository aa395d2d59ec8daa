"""SimpleTuner's keys of backends (multidatabackend.json)."""

from __future__ import annotations

from trainer_core.importers.core.convert import amount, number, on, path, side_of, text, truth, unless_off
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


def _repeats(value: JSON, context: Context) -> JSON:
    """Its repeats come on top of the first time."""
    return Conversion({"datasets.repeats": int(amount(value)) + 1}, note="It counts from 0, so ours is one more.")


def _resolution(value: JSON, context: Context) -> JSON:
    """Megapixels, the side of a square of the same area, or the shorter edge."""
    kind = str(context.get("resolution_type", "pixel_area"))
    if kind == "area":
        side = side_of(amount(value) * 1e6, 1.0)
        return Conversion({"datasets.resolutions": [side]}, note=f"{value} megapixels are a square of {side}.")
    side = int(amount(value))
    if kind == "pixel" and not _square(context):
        note = "It is the shorter edge there; ours is the side of a square of the same area, so pictures are smaller."
        return changed({"datasets.resolutions": [side]}, note)
    return Conversion({"datasets.resolutions": [side]})


def _square(context: Context) -> bool:
    return truth(context.get("crop")) and str(context.get("crop_aspect", "square")) == "square"


def _crop(value: JSON, context: Context) -> JSON:
    if _square(context):
        return Conversion({"bucket.table": "square"}, note="It crops every picture to a square.")
    resolution = context.get("resolution", 1024)
    if str(context.get("resolution_type", "pixel_area")) == "area":
        resolution = side_of(amount(resolution) * 1e6, 1.0)
    side = int(amount(resolution))
    sides: dict[str, JSON] = {"bucket.max_side": 2 * side, "bucket.min_side": max(64, side // 2)}
    return Conversion({"bucket.table": "grid", **sides}, note="Its buckets have any shape.")


def _style(value: JSON, context: Context) -> JSON:
    if not truth(context.get("crop")):
        return dropped("No picture is cropped.")
    known = {"center": "center", "centre": "center", "random": "random", "face": "face"}
    return known.get(str(value)) or refused("Choose one of `augment.crop`.")


def _conditions(value: JSON, context: Context) -> JSON:
    masks = [one for one in value if one.get("type") == "mask"]
    edits = [one for one in value if str(one.get("type") or "").startswith("reference")]
    other = sorted({str(one.get("type")) for one in value if one not in masks and one not in edits})
    found: dict[str, JSON] = {}
    if masks:
        found["datasets.mask_path"] = path(masks[0]["path"], context)
    if edits:
        found["datasets.control_path"] = [path(one["path"], context) for one in edits]
    if other:
        return Conversion(found, "unsupported", f"Conditions of type {', '.join(other)} are not trained here.")
    return Conversion(found)


def _captions(value: JSON, context: Context) -> JSON:
    kind = str(value)
    if kind == "textfile":
        whole = truth(context.get("disable_multiline_split"))
        note = "Each line is a caption there; one is drawn." if not whole else "The whole file is one caption."
        return Conversion({"caption.multiline": "whole" if whole else "random"}, note=note)
    if kind == "instanceprompt":
        prompt = str(context.get("instance_prompt", ""))
        return changed(
            {"datasets.class_tokens": prompt}, "Holds for pictures without a caption file; others keep theirs."
        )
    return refused(f"Write a caption file beside each picture: captions from `{kind}` are not read.")


def _instance_prompt(value: JSON, context: Context) -> JSON:
    if truth(context.get("only_instance_prompt")) or context.get("caption_strategy") == "instanceprompt":
        return changed(
            {"datasets.class_tokens": str(value)}, "Holds for pictures without a caption file; others keep theirs."
        )
    if truth(context.get("prepend_instance_prompt")):
        return Conversion({"caption.prefix": str(value)})
    return dropped("The other tool does not use it here.")


def _kind(value: JSON, context: Context) -> JSON:
    if str(value) == "eval":
        return Conversion({"datasets.held_out": 1.0}, note="These pictures are measured, not trained.")
    return Conversion({"datasets.held_out": 0.0}, note="It trains on every picture.")


def _storage(value: JSON, context: Context) -> JSON:
    if str(value) == "local":
        return dropped("It is the same here.")
    return refused(f"Copy the pictures into a folder: `{value}` is not read.")


def _shuffle(value: JSON, context: Context) -> JSON:
    return Conversion({"tags.shuffle": True}) if truth(value) else dropped("It is off in the other tool.")


def _split(value: JSON, context: Context) -> JSON:
    known = {"comma": ",", "space": " ", "period": "."}
    return known.get(str(value), ",")


_CACHE = "It belongs to its cache. Our cache is the store."

ROWS: list[Row] = [
    to("instance_data_dir", "datasets.path", path),
    to("id", "datasets.name", text),
    several("dataset_type", "datasets.held_out", _kind),
    several("type", "", _storage, status="irrelevant"),
    several("repeats", "datasets.repeats", _repeats),
    several("resolution", "datasets.resolutions", _resolution),
    *irrelevant("resolution_type", "See `resolution`."),
    several("crop", "bucket.table bucket.max_side bucket.min_side", _crop),
    *irrelevant("crop_aspect", "See `crop`."),
    no("crop_aspect_buckets", "The group `bucket` sets the sizes."),
    to("crop_style", "augment.crop", _style),
    several("(conditions)", "datasets.control_path datasets.mask_path", _conditions),
    *irrelevant("conditioning_data", "See the backends that it names."),
    no("conditioning", "Make the condition pictures beforehand and give their folder."),
    several("caption_strategy", "caption.multiline datasets.class_tokens", _captions),
    *irrelevant("disable_multiline_split", "See `caption_strategy`."),
    several("instance_prompt", "caption.prefix datasets.class_tokens", unless_off(_instance_prompt)),
    *irrelevant("prepend_instance_prompt only_instance_prompt", "See `instance_prompt`."),
    several("caption_shuffle.enable", "tags.shuffle", _shuffle),
    to(
        "caption_shuffle.count",
        "caption.variants",
        lambda value, context: int(amount(value)) + int(truth(context.get("caption_shuffle.include_original", True))),
    ),
    to("caption_shuffle.position_start", "tags.keep_tokens", number),
    to("caption_shuffle.split_on", "tags.separator", _split),
    *irrelevant("caption_shuffle.seed caption_shuffle.include_original", "`train.seed` decides here, or see `count`."),
    to(
        "probability",
        "datasets.loss_weight",
        lambda value, context: (
            dropped("All pictures have the same value.")
            if amount(value) == 1
            else refused("Set `repeats`: folders are not drawn by probability here.")
        ),
    ),
    to("is_regularisation_data", "datasets.regularisation", on),
    to("is_regularization_data", "datasets.regularisation", on),
    no(
        "minimum_image_size",
        "Small pictures are not left out. Remove them from the folder, or set `bucket.upscale: false`.",
    ),
    no("maximum_image_size", "Large pictures are always made smaller; no setting is needed."),
    no("minimum_aspect_ratio", "Pictures are not left out by shape. Remove them from the folder."),
    no("maximum_aspect_ratio", "Pictures are not left out by shape. Remove them from the folder."),
    *irrelevant("target_downsample_size", "Pictures are resized to their bucket at once."),
    no("max_upscale_threshold", "Use `bucket.upscale`: small pictures are enlarged, or none are."),
    no("train_batch_size", "All folders have the same batch size here."),
    no("start_epoch", "All folders are used from the first step on."),
    no("start_step", "All folders are used from the first step on."),
    *irrelevant("cache_dir_vae vae_cache_clear_each_epoch text_embeds image_embeds conditioning_image_embeds", _CACHE),
    *irrelevant(
        "hash_filenames preserve_data_backend_cache skip_file_discovery vae_cache_disable vae_cache_ondemand", _CACHE
    ),
    *irrelevant("cache_dir cache_dir_conditioning_image_embeds compress_cache default write_batch_size", _CACHE),
    *irrelevant(
        "metadata_backend metadata_update_interval scan_for_errors delete_unwanted_images",
        "It matters in the other program only.",
    ),
    *irrelevant(
        "delete_problematic_images override_dataset_config ignore_epochs aspect_bucket_alignment",
        "It matters in the other program only.",
    ),
    *irrelevant(
        "disabled disable video.* audio.* source_dataset_id conditioning_type conditioning_config",
        "It belongs to the other program, or to videos.",
    ),
    *irrelevant(
        "video audio debug_aspect_buckets bucket_report text_encoder_batch_size vae_batch_size",
        "It belongs to the other program, or to videos.",
    ),
    no(
        "parquet",
        "Write a caption file beside each picture, or a metadata.parquet in the format of datasets' imagefolder.",
    ),
    no("parquet.*", "Write a caption file beside each picture."),
    no("dataset_name", "Download it into a folder."),
    no("csv_file", "Copy the pictures into a folder."),
    to("(picture without a caption)", "caption.missing", text, "It stops after so many steps."),
]

for _secret in ("aws_access_key_id", "aws_secret_access_key"):
    ROWS.extend(irrelevant(_secret, "Pictures are read from folders."))
ROWS.extend(
    irrelevant("aws_bucket_name aws_region_name aws_endpoint_url aws_data_prefix", "Pictures are read from folders.")
)

DEFAULTS: list[Default] = [
    Default("dataset_type", "image"),
    Default("resolution", 1024),
    Default("crop", False),
    Default("caption_strategy", "filename"),
    Default("(picture without a caption)", "error"),
]

TABLE = Table("Backends (multidatabackend.json)", ROWS, DEFAULTS)
