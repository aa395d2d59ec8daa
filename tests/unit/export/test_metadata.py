from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer_core.config.groups import LossConfig, NoiseConfig
from trainer_core.export.metadata.lora_metadata import Training, training_metadata
from trainer_core.export.metadata.objective_metadata import objective_metadata
from trainer_core.export.safetensors_file import read_metadata
from trainer_core.export.write import check_lora, write_lora
from trainer_core.families import get_family
from trainer_core.types import Bucket, Geometry, Sample


def sample(name: str, caption: str, bucket: Bucket, size: tuple[int, int], repeats: int = 1) -> Sample:
    target = (bucket.height, bucket.width)
    geometry = Geometry(original=size, resized=target, crop=(0, 0), target=target)
    return Sample(name, Path("/home/someone") / name, "0" * 64, caption, bucket, geometry, repeats, "train")


TRAINING = Training(
    name="cats",
    base_name="runwayml/stable-diffusion-v1-5",
    rank=16,
    alpha=8.0,
    dropout=0.1,
    resolution=512,
    step=1500,
    epoch=8,
    samples=(
        sample("cats/a.png", "sks cat, on a  Sofa, sks cat", Bucket(512, 512), (600, 600), 10),
        sample("cats/b.png", "sks cat, outdoors", Bucket(640, 384), (400, 600), 10),
        sample("others/c.png", "", Bucket(512, 512), (512, 512)),
    ),
    trigger_word="sks cat",
    prediction="v_prediction",
)
SD15 = get_family("sd15").spec


def test_tags_are_counted_by_dataset_and_the_trigger_word_comes_first() -> None:
    told = json.loads(training_metadata(SD15, TRAINING, "kohya")["ss_tag_frequency"])
    assert told == {"cats": {"sks cat": 3, "on a sofa": 1, "outdoors": 1}, "others": {}}
    assert next(iter(told["cats"])) == "sks cat"


def test_images_count_as_often_as_they_are_repeated() -> None:
    told = training_metadata(SD15, TRAINING, "kohya")
    assert told["ss_num_train_images"] == "21"
    assert json.loads(told["ss_dataset_dirs"])["cats"] == {"n_repeats": 10, "img_count": 2}
    info = json.loads(told["ss_bucket_info"])
    assert info["buckets"]["0"] == {"resolution": [512, 512], "count": 11}
    assert info["mean_img_ar_error"] == pytest.approx((0 + abs(1.5 - 640 / 384) + 0) / 3, abs=1e-6)


def test_alpha_is_that_of_the_files_tensors() -> None:
    assert training_metadata(SD15, TRAINING, "kohya")["ss_network_alpha"] == "8"
    assert training_metadata(SD15, TRAINING, "peft")["ss_network_alpha"] == "16"


def test_what_is_not_known_is_not_told() -> None:
    told = training_metadata(SD15, replace(TRAINING, trigger_word="", prediction="sample"), "kohya")
    assert not {"modelspec.trigger_phrase", "modelspec.prediction_type"} & told.keys()
    flux = training_metadata(get_family("flux1").spec, TRAINING, "peft")
    assert "modelspec.prediction_type" not in flux


@pytest.mark.parametrize(
    ("family", "version", "architecture"),
    [
        ("sd15", "sd_v1", "stable-diffusion-v1/lora"),
        ("sdxl", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
        ("flux1", "flux1", "flux-1-dev/lora"),
    ],
)
def test_the_base_is_called_as_readers_know_it(family: str, version: str, architecture: str) -> None:
    told = training_metadata(get_family(family).spec, TRAINING, "peft")
    assert (told["ss_base_model_version"], told["modelspec.architecture"]) == (version, architecture)


def test_every_value_is_a_string_without_a_place_on_this_machine() -> None:
    for value in training_metadata(SD15, TRAINING, "kohya").values():
        assert isinstance(value, str)
        assert "/home" not in value


def test_hashes_are_of_the_bytes_after_the_header_whatever_the_metadata(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b.alpha": torch.tensor(2.0)}
    found: list[tuple[str, str, str]] = []
    for metadata in ({}, {"x": "y" * 100}):
        path = tmp_path / "lora.safetensors"
        weights = write_lora(path, tensors, metadata)
        data = path.read_bytes()
        body = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
        told = read_metadata(path)
        assert (told["sshs_model_hash"], told["modelspec.hash_sha256"]) == (body, f"0x{body}")
        assert check_lora(path) == (weights, weights)
        found.append((body, told["sshs_model_hash"], weights))
    assert found[0] == found[1]


def test_without_metadata_only_the_format_is_told(tmp_path: Path) -> None:
    write_lora(tmp_path / "lora.safetensors", {"a": torch.ones(1)}, None)
    assert read_metadata(tmp_path / "lora.safetensors") == {"format": "pt"}


@pytest.mark.setting("noise.zero_terminal_snr", "noise.prediction", "loss.type")
def test_changed_settings_of_noise_and_loss_are_told_in_kohyas_words() -> None:
    assert objective_metadata(NoiseConfig(), LossConfig()) == {}
    noise = NoiseConfig(zero_terminal_snr=True, prediction="v_prediction", multires_iterations=6, shift=3.0)
    told = objective_metadata(noise, LossConfig(type="huber", min_snr_gamma=5.0))
    assert told == {
        "ss_zero_terminal_snr": "True",
        "ss_v_parameterization": "True",
        "ss_multires_noise_iterations": "6",
        "ss_discrete_flow_shift": "3.0",
        "ss_loss_type": "huber",
        "ss_min_snr_gamma": "5.0",
    }
    assert training_metadata(SD15, replace(TRAINING, objective=told), "kohya").items() >= told.items()
