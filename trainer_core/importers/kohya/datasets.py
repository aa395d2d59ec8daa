"""kohya's keys of datasets, and how its three levels, its folders and its command line become sections."""

from __future__ import annotations

from collections.abc import Mapping

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
from trainer_core.importers.core.tool_config import Section
from trainer_core.types import JSON


def _resolution(value: JSON, context: Context) -> JSON:
    """A side, or width and height: with buckets only the area counts."""
    sides = [int(amount(side)) for side in several_numbers(value)]
    if not sides or not all(sides):
        return dropped("It is off in the other tool.")
    if len(set(sides)) == 1:
        return [sides[0]]
    side = side_of(sides[0], sides[1])
    if truth(context.get("enable_bucket")):
        note = f"With buckets its {sides[0]}x{sides[1]} is an area: that of a square of {side}."
        return Conversion({"datasets.resolutions": [side]}, note=note)
    return changed({"datasets.resolutions": [side]}, f"{sides[0]}x{sides[1]} without buckets: ours are square then.")


def _crop(value: JSON, context: Context) -> JSON:
    if context.key == "face_crop_aug_range":
        return changed({"augment.crop": "face"}, "Ours cuts around the largest face, without a range.")
    return Conversion({"augment.crop": "random"})


def _keeps_size(context: Context) -> bool:
    """Say whether buckets come from the pictures' own sizes, so that their longest side does not count."""
    return truth(context.get("bucket_no_upscale"))


def _masks(value: JSON, context: Context) -> JSON:
    if truth(context.get("masked_loss")):
        return Conversion({"datasets.mask_path": path(value, context)}, note="White is trained, there and here.")
    return refused("ControlNet's conditions are not trained here; with `masked_loss` these would be masks.")


def _wildcard(value: JSON, context: Context) -> JSON:
    return Conversion(
        {"caption.wildcards": True, "caption.multiline": "random"}, note="It draws one of several lines too, as we do."
    )


def _batch(value: JSON, context: Context) -> JSON:
    return Conversion({"train.batch_size": int(amount(value))})


def _extension(value: JSON, context: Context) -> JSON:
    word = str(value)
    return [word if word.startswith(".") else f".{word}"]


def _step(value: JSON, context: Context) -> JSON:
    if amount(value) < 8:
        return changed({"bucket.step": 8}, "The VAE needs multiples of 8, to which kohya rounds as well.")
    return number(value)


def _layout(value: JSON, context: Context) -> JSON:
    if str(value) == "kohya":
        return Conversion(
            {"datasets.layout": "kohya"}, note="`5_cat` means 5 repeats, and `cat` without a caption file."
        )
    return Conversion({"datasets.layout": "flat"}, note="In dataset files kohya does not read `5_cat` as repeats.")


def _regularisation(value: JSON, context: Context) -> JSON:
    return Conversion({"datasets.regularisation": True}) if truth(value) else dropped("It is off in the other tool.")


ROWS: list[Row] = [
    to("image_dir", "datasets.path", path),
    to("num_repeats", "datasets.repeats", unless_off(number)),
    to("class_tokens", "datasets.class_tokens", unless_off(text)),
    several("is_reg", "datasets.regularisation", _regularisation),
    several("(layout)", "datasets.layout", _layout),
    several("resolution", "datasets.resolutions bucket.resolution", _resolution),
    several("conditioning_data_dir", "datasets.mask_path", unless_off(_masks)),
    to("alpha_mask", "datasets.alpha_mask", on),
    to("validation_split", "datasets.held_out", number, "Without it kohya trains on every picture."),
    several("batch_size", "train.batch_size", _batch),
    to(
        "enable_bucket",
        "bucket.table",
        lambda value, context: "grid" if truth(value) else "square",
        "It is off by default.",
    ),
    to("min_bucket_reso", "bucket.min_side", unless_off(number)),
    to("max_bucket_reso", "bucket.max_side", unless_off(number)),
    to("bucket_reso_steps", "bucket.step", unless_off(_step)),
    to("bucket_no_upscale", "bucket.upscale", lambda value, context: not truth(value)),
    to("flip_aug", "augment.flip", on),
    several("random_crop", "augment.crop", unless_off(_crop)),
    several("face_crop_aug_range", "augment.crop", unless_off(_crop), status="changed"),
    to("color_aug", "augment.color", unless_off(lambda value, context: 0.1), "0.1 is similar.", "changed"),
    to(
        "caption_extension",
        "caption.extensions",
        unless_off(_extension),
        "Its default is `.caption`: check that your caption files end so.",
    ),
    to("caption_prefix", "caption.prefix", unless_off(text)),
    to("caption_suffix", "caption.suffix", unless_off(text)),
    to("caption_dropout_rate", "caption.dropout", number),
    to("caption_dropout_every_n_epochs", "caption.dropout_every_n_epochs", unless_off(number)),
    to("caption_tag_dropout_rate", "tags.dropout", number),
    several("enable_wildcard", "caption.wildcards caption.multiline", unless_off(_wildcard)),
    to(
        "(picture without a caption)",
        "caption.missing",
        text,
        "kohya trains pictures without a caption on the empty caption.",
    ),
    to("shuffle_caption", "tags.shuffle", on),
    to("caption_separator", "tags.separator", unless_off(text)),
    to("keep_tokens", "tags.keep_tokens", unless_off(number)),
    to("keep_tokens_separator", "tags.keep_tokens_separator", unless_off(text)),
    to("secondary_separator", "tags.secondary_separator", unless_off(text)),
    no("token_warmup_step", "All tags are used from the first step on."),
    *irrelevant("token_warmup_min", "See `token_warmup_step`."),
    no("metadata_file", "Export its captions to text files beside the pictures."),
    no("network_multiplier", "Weight the folder's loss with `loss_weight`.", (None, 1, 1.0)),
    no(
        "resize_interpolation",
        "Pictures are resized by Lanczos, as diffusers' pipelines do.",
        (None, "", "lanczos", "area"),
    ),
    *irrelevant(
        "validation_seed debug_dataset cache_info masked_loss",
        "It belongs to the other program, or is read with another key.",
    ),
    no("custom_attributes", "We have no such setting."),
]

DEFAULTS: list[Default] = [
    Default("enable_bucket", False),
    Default("max_bucket_reso", 1024, lambda context: truth(context.get("enable_bucket")) and not _keeps_size(context)),
    Default("caption_extension", ".caption"),
    Default("validation_split", 0.0),
    Default("(picture without a caption)", "empty"),
]

TABLE = Table("Datasets", ROWS, DEFAULTS)

_COMMAND_LINE: Mapping[str, str] = {"train_batch_size": "batch_size", "dataset_repeats": "num_repeats"}
"""Options of the command line that datasets call otherwise."""
_HERE = frozenset(row.key for row in ROWS) - {
    "(layout)",
    "(picture without a caption)",
    "image_dir",
    "is_reg",
    "metadata_file",
    "masked_loss",
}


def split_options(values: Mapping[str, JSON]) -> tuple[dict[str, JSON], dict[str, JSON], dict[str, str]]:
    """Part the command line's options of datasets from the rest.

    Returns:
        the rest; the options, named as in dataset files; how the command line calls each.
    """
    options = {_COMMAND_LINE.get(key, key): value for key, value in values.items() if _of_dataset(key)}
    names = {_COMMAND_LINE.get(key, key): key for key in values if _of_dataset(key)}
    rest = {key: value for key, value in values.items() if not _of_dataset(key)}
    return rest, options, names


def _of_dataset(key: str) -> bool:
    return _COMMAND_LINE.get(key, key) in _HERE


def folder_sections(
    train: JSON, reg: JSON, options: Mapping[str, JSON], names: Mapping[str, str], masked: bool
) -> list[Section]:
    """Make the sections of folder mode: `train_data_dir` with `N_concept` folders, and perhaps `reg_data_dir`."""
    found: list[Section] = []
    for key, folder in (("train_data_dir", train), ("reg_data_dir", reg)):
        if not folder:
            continue
        own: dict[str, JSON] = {"image_dir": folder, "(layout)": "kohya", **options, "masked_loss": masked or None}
        if key == "reg_data_dir":
            own["is_reg"] = True
        labels = {**names, "image_dir": key, "is_reg": key, "masked_loss": "masked_loss"}
        found.append(Section({name: one for name, one in own.items() if one is not None}, TABLE, "", labels))
    return found


def file_sections(
    data: Mapping[str, JSON], options: Mapping[str, JSON], names: Mapping[str, str], masked: bool
) -> list[Section]:
    """Make the sections of a dataset file: what a subset lacks is its dataset's, then `[general]`'s, then an option."""
    general = {key: value for key, value in (data.get("general") or {}).items()}
    found: list[Section] = []
    for number_, dataset in enumerate(data.get("datasets") or []):
        upper = {key: value for key, value in dataset.items() if key != "subsets"}
        for count, subset in enumerate(dataset.get("subsets") or []):
            prefix = f"datasets.{number_}.subsets.{count}."
            labels = {key: f"general.{key}" for key in general}
            labels |= {key: f"datasets.{number_}.{key}" for key in upper}
            labels = {**names, **labels, **{key: prefix + key for key in subset}, "(layout)": "(layout)"}
            values = {**options, **general, **upper, **subset, "(layout)": "flat"}
            if masked:
                values["masked_loss"] = True
                labels["masked_loss"] = "masked_loss"
            found.append(Section(values, TABLE, prefix, labels))
    return found


def unused(
    sections: list[Section], options: Mapping[str, JSON], names: Mapping[str, str]
) -> list[tuple[str, JSON, Conversion]]:
    """Report options that every folder has set otherwise, so that they never counted."""
    why = dropped("The dataset file sets it itself.")
    return [
        (names[key], value, why)
        for key, value in options.items()
        if not any(section.label(key) == names[key] for section in sections)
    ]
