"""What a LoRA file says of itself, in the names of kohya's scripts (`ss_*`) and of modelspec 1.0.1.

All values are strings, nothing looks at a clock and nothing names a place on this machine: equal runs give equal files.
Sources: kohya-ss/sd-scripts (train_network.py, library/train_util.py), Stability-AI/ModelSpec.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer_core.families.spec import STYLES_WITH_ALPHA, FamilySpec, KeyStyle
from trainer_core.types import Bucket, Sample

_MODELSPEC = "1.0.1"
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
"""diffusers' word for what a model predicts -> modelspec's, which knows these two only."""


@dataclass(frozen=True)
class Training:
    """What was trained, on what."""

    name: str
    """The project's name, hence the file's."""
    base_name: str
    """Name of the base model: no path."""
    rank: int
    alpha: float
    dropout: float
    resolution: int
    """Side in pixels of the square whose area buckets have."""
    step: int
    """The step that the weights are of."""
    epoch: int
    """Passes over the dataset that were begun by then."""
    samples: Sequence[Sample]
    """The pictures that were trained on."""
    trigger_word: str = ""
    tag_separator: str = ","
    """What stands between the tags of captions."""
    vae_name: str = ""
    """Name of the VAE where it is not the base's own."""
    prediction: str = ""
    """What the denoiser was trained to predict, in diffusers' word; empty if nothing says so."""
    objective: Mapping[str, str] = field(default_factory=dict[str, str])
    """What `objective_metadata` returned."""
    base_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The config of the base's denoiser, in which the models of a family differ."""
    module: str = ""
    """kohya's module that makes such an adapter; the family's own for plain LoRA if empty."""
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    """Its arguments there, beside the dropout."""
    one_size: bool = True
    """Whether all modules have this rank and alpha."""


def training_metadata(spec: FamilySpec, training: Training, style: KeyStyle) -> dict[str, str]:
    """Return kohya's and modelspec's metadata of a file, without the hashes of its weights."""
    return _kohya(spec, training, style) | _modelspec(spec, training)


def names_of_base(spec: FamilySpec, config: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a base is called in `modelspec.architecture`, without `/lora`, and in `ss_base_model_version`.

    Args:
        spec: the family.
        config: of the base's denoiser; empty if it is not known.
    """
    names = spec.lora
    architecture, version = names.architecture or spec.name, names.base_model_version or spec.name
    for kind in names.kinds if config else ():
        if config.get(kind.setting) == kind.value:
            return kind.architecture, kind.base_model_version or version
    return architecture, version


def _kohya(spec: FamilySpec, training: Training, style: KeyStyle) -> dict[str, str]:
    datasets = _by_dataset(training.samples)
    arguments = {**({"dropout": training.dropout} if training.dropout else {}), **training.arguments}
    # where the scale is folded in, what belongs to these tensors is alpha = rank
    alpha = training.alpha if style in STYLES_WITH_ALPHA else training.rank
    return {
        "ss_base_model_version": names_of_base(spec, training.base_config)[1],
        "ss_network_module": training.module or spec.lora.network_module,
        # kohya's word where modules differ
        "ss_network_dim": str(training.rank) if training.one_size else "Dynamic",
        "ss_network_alpha": f"{alpha:g}" if training.one_size else "Dynamic",
        "ss_network_args": _json(arguments),
        "ss_v2": "False",
        "ss_output_name": training.name,
        "ss_sd_model_name": training.base_name,
        **({"ss_vae_name": training.vae_name} if training.vae_name else {}),
        "ss_resolution": f"({training.resolution}, {training.resolution})",
        "ss_num_train_images": str(sum(sample.repeats for sample in training.samples)),
        "ss_steps": str(training.step),
        "ss_epoch": str(training.epoch),
        "ss_tag_frequency": _json({name: _tags(samples, training.tag_separator) for name, samples in datasets.items()}),
        "ss_bucket_info": _json(_buckets(training.samples)),
        "ss_dataset_dirs": _json({name: _directory(samples) for name, samples in datasets.items()}),
        **training.objective,
    }


def _modelspec(spec: FamilySpec, training: Training) -> dict[str, str]:
    values = {
        "modelspec.sai_model_spec": _MODELSPEC,
        "modelspec.architecture": f"{names_of_base(spec, training.base_config)[0]}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": training.name,
        "modelspec.resolution": f"{training.resolution}x{training.resolution}",
    }
    if spec.prediction == "diffusion" and training.prediction in _PREDICTIONS:
        values["modelspec.prediction_type"] = _PREDICTIONS[training.prediction]
    if training.trigger_word:
        values["modelspec.trigger_phrase"] = training.trigger_word
    return values


def _by_dataset(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.id.partition("/")[0], []).append(sample)
    return found


def _tags(samples: Sequence[Sample], separator: str) -> dict[str, int]:
    """Count the tags in lower case, the most frequent first: there trigger words are looked for."""
    tags = Counter(
        word for sample in samples for tag in sample.caption.split(separator) if (word := " ".join(tag.lower().split()))
    )
    return dict(sorted(tags.items(), key=lambda item: (-item[1], item[0])))


def _directory(samples: Sequence[Sample]) -> dict[str, int]:
    """Return kohya's row of a folder; where repeats differ inside one, the lowest."""
    return {"n_repeats": min(sample.repeats for sample in samples), "img_count": len(samples)}


def _buckets(samples: Sequence[Sample]) -> dict[str, object]:
    counts: Counter[Bucket] = Counter()
    for sample in samples:
        counts[sample.bucket] += sample.repeats
    rows = {
        str(number): {"resolution": [bucket.width, bucket.height], "count": counts[bucket]}
        for number, bucket in enumerate(sorted(counts))
    }
    return {"buckets": rows, "mean_img_ar_error": _mean_ratio_error(samples)}


def _mean_ratio_error(samples: Sequence[Sample]) -> float:
    """Return the mean difference between the width / height of pictures and that of their buckets."""
    errors = [
        abs(sample.geometry.original[1] / sample.geometry.original[0] - sample.bucket.width / sample.bucket.height)
        for sample in samples
    ]
    return round(sum(errors) / len(errors), 6) if errors else 0.0


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, ensure_ascii=False)
