from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from trainer_core.config.fields import field_rows
from trainer_core.config.load import load_project
from trainer_core.config.rules import check_rules
from trainer_core.families import get_family
from trainer_core.families.facts import family_facts
from trainer_core.memory.question import Measured
from trainer_core.types import JSON
from trainer_core.wizard.choices import CHOICES, choose, fit, length, warnings
from trainer_core.wizard.document import write_yaml
from trainer_core.wizard.situation import (
    EFFORTS,
    GOALS,
    Answers,
    BaseFacts,
    DatasetFacts,
    MachineFacts,
    Situation,
    are_tags,
)

ANSWERS = Answers("cats", Path("/pictures"), "/base", "sdxl", trigger_word="ohwx")
RTX_4090 = MachineFacts("cuda", memory_gib=24, ram_gib=64, disk_gib=500, cores=16)


def measured(weights: float, plain: float, saving: float, convolutions: bool) -> Measured:
    """Return what a full-size base needs at 1024 pixels and batch 1, in GiB, as measured from its config."""
    gib = 2**30
    names = ("dense", "fp8 blocks+modulation", "int8 blocks+modulation", "nf4 blocks+modulation")
    shares = dict(zip(names, (1.0, 0.51, 0.51, 0.27), strict=True))
    step = {"false": plain, "every_second": (plain + saving) / 2, "true": saving}
    return Measured(
        weights={name: round(weights * share * gib) for name, share in shares.items()},
        blocks=dict.fromkeys(names, []),
        matrix=dict.fromkeys(names, 0),
        trained=20_000_000,
        optimizer=160_000_000,
        averages=0,
        step={mode: {1: round(size * gib)} for mode, size in step.items()},
        kept={1: 0},
        forward={1: gib, 2: gib},
        vae=gib // 6,
        encode={1: gib, 2: 2 * gib},
        decode=gib,
        encoders={},
        read={1: 0},
        convolutions=convolutions,
    )


SDXL_NEEDS, FLUX_NEEDS = measured(4.78, 6.14, 0.53, convolutions=True), measured(22.17, 25.55, 2.31, convolutions=False)
SDXL = BaseFacts("SDXL", "diffusion", weights_gib=4.8, side=1024, latent_bytes=0.125, measured=SDXL_NEEDS)
FLUX = BaseFacts("FLUX.1", "flow", weights_gib=22.2, side=1024, latent_bytes=0.5, measured=FLUX_NEEDS)
PICTURES = DatasetFacts(30, 1400, small=0.0, captioned=1.0, tags=False, captions=("ohwx at home", "ohwx outside"))
USUAL = Situation(ANSWERS, RTX_4090, SDXL, PICTURES)


def chosen(situation: Situation) -> dict[str, JSON]:
    return {choice.path: choice.value for choice in choose(situation)}


def answers(**changes: object) -> Situation:
    return replace(USUAL, answers=replace(ANSWERS, **changes))  # type: ignore[arg-type]


def dataset(**changes: object) -> Situation:
    return replace(USUAL, dataset=replace(PICTURES, **changes))  # type: ignore[arg-type]


def machine(**changes: object) -> Situation:
    return replace(USUAL, machine=replace(RTX_4090, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("goal", "effort", "base"), list(product(GOALS, EFFORTS, (SDXL, FLUX))))
def test_what_is_chosen_is_a_project_without_conflicts(goal: str, effort: str, base: BaseFacts, tmp_path: Path) -> None:
    situation = replace(answers(goal=goal, effort=effort, regularisation=Path("/class")), base=base)
    paths = {"base": "/base", "dataset": "/pictures", "regularisation": "/class"}
    (tmp_path / "cats.yaml").write_text(write_yaml(situation.answers, choose(situation), paths))
    project = load_project(tmp_path / "cats.yaml")
    found = check_rules(project, facts=_facts(base))
    assert [finding for finding in found if finding.level != "info"] == []


def _facts(base: BaseFacts):
    return family_facts(get_family("flux1" if base is FLUX else "sdxl").spec)


def test_every_choice_is_a_setting_with_a_reason() -> None:
    for choice in choose(answers(effort="aggressive", regularisation=Path("/class"))):
        assert choice.path.replace(".0.", ".").replace(".1.", ".") in field_rows()
        assert choice.reason


@pytest.mark.parametrize(
    ("base", "memory", "expected"),
    [
        (SDXL, 80, (1024, 2, "false")),
        (SDXL, 24, (1024, 2, "false")),
        (SDXL, 16, (1024, 1, "false")),
        (SDXL, 8, (1024, 2, "true")),
        (FLUX, 80, (1024, 2, "false")),
        (FLUX, 48, (1024, 2, "true")),
        (FLUX, 32, (1024, 2, "true")),
    ],
)
def test_batch_and_resolution_follow_the_memory(base: BaseFacts, memory: float, expected: tuple[int, int, str]) -> None:
    found = fit(replace(machine(memory_gib=memory), base=base))
    assert (found.side, found.batch, found.checkpointing) == expected
    assert found.fits and found.gib < memory


def test_a_base_that_was_not_measured_is_taken_to_fit() -> None:
    found = fit(replace(machine(memory_gib=1), base=replace(SDXL, measured=None)))
    assert (found.side, found.batch, found.fits) == (1024, 2, True)


def test_a_smaller_picture_is_the_last_resort() -> None:
    needs = replace(SDXL_NEEDS, step={mode: {1: 12 * 2**30} for mode in SDXL_NEEDS.step})
    found = fit(replace(machine(memory_gib=12), base=replace(SDXL, measured=needs)))
    assert found.fits and found.side < 1024


def test_a_batch_that_does_not_fit_is_accumulated() -> None:
    small = chosen(machine(memory_gib=16))
    assert (small["train.batch_size"], small["train.gradient_accumulation_steps"]) == (1, 2)
    large = chosen(machine(memory_gib=80))
    assert large["train.batch_size"] == 2
    assert "train.gradient_accumulation_steps" not in large


def test_a_base_that_fits_nowhere_is_reported() -> None:
    hopeless = replace(machine(memory_gib=3), base=FLUX)
    assert any("out of memory" in line for line in warnings(hopeless))
    assert warnings(USUAL) == []


@pytest.mark.parametrize(("cores", "ram", "workers"), [(16, 64, 16), (64, 256, 16), (16, 8, 4), (2, 64, 2), (1, 1, 1)])
def test_workers_follow_cores_and_memory(cores: int, ram: float, workers: int) -> None:
    assert chosen(machine(cores=cores, ram_gib=ram))["hardware.decode_threads"] == workers


@pytest.mark.parametrize(("pictures", "where"), [(30, "kept on the device"), (100_000, "read from disk")])
def test_caches_lie_where_they_fit(pictures: int, where: str) -> None:
    reasons = {choice.path: choice.reason for choice in choose(dataset(pictures=pictures))}
    assert where in reasons["hardware.resident_cache_mib"]


def test_a_disk_that_is_too_small_is_reported() -> None:
    situation = replace(dataset(pictures=100_000), machine=replace(RTX_4090, disk_gib=10))
    assert any("LORA_ASSETS_HOME" in line for line in warnings(situation))


def test_the_run_is_longer_for_more_pictures_and_more_effort_within_bounds() -> None:
    assert length(USUAL) == 30 * 100 // 2
    assert length(answers(effort="conservative")) == 30 * 100 * 0.6
    assert length(dataset(pictures=1)) == 300
    assert length(dataset(pictures=100_000)) == 6000


def test_small_pictures_lower_the_resolution_or_are_not_enlarged() -> None:
    assert chosen(dataset(small=0.9, median_side=600))["bucket.resolution"] == 576
    some = chosen(dataset(small=0.2))
    assert (some["bucket.resolution"], some["bucket.upscale"]) == (1024, False)
    assert "bucket.upscale" not in chosen(USUAL)


def test_tags_are_shuffled_behind_the_trigger_word() -> None:
    tagged = chosen(dataset(tags=True))
    assert (tagged["tags.shuffle"], tagged["tags.keep_tokens"]) == (True, 1)
    assert "tags.keep_tokens" not in chosen(replace(dataset(tags=True), answers=replace(ANSWERS, trigger_word="")))
    assert "tags.shuffle" not in chosen(USUAL)


def test_only_a_style_of_few_pictures_is_mirrored() -> None:
    assert chosen(answers(goal="style"))["augment.flip"] is True
    assert "augment.flip" not in chosen(answers(goal="character"))
    assert "augment.flip" not in chosen(answers(goal="style", effort="conservative"))


def test_missing_captions_are_allowed_and_reported() -> None:
    assert chosen(dataset(captioned=0.5))["caption.missing"] == "empty"
    assert "caption.missing" not in chosen(USUAL)


def test_few_pictures_are_all_trained() -> None:
    assert chosen(dataset(pictures=9))["datasets.0.held_out"] == 0.0
    assert chosen(dataset(pictures=10))["datasets.0.held_out"] == 0.1


def test_a_small_gpu_gets_an_optimizer_of_8_bits() -> None:
    assert chosen(machine(memory_gib=12))["optimizer.name"] == "adamw8bit"
    assert "optimizer.name" not in chosen(USUAL)


def test_flow_families_get_no_min_snr() -> None:
    assert chosen(USUAL)["loss.min_snr_gamma"] == 5
    assert "loss.min_snr_gamma" not in chosen(replace(USUAL, base=FLUX))


@pytest.mark.parametrize(
    ("captions", "tags"),
    [
        (["1girl, solo, red hair, smile, outdoors", "1girl, hat, night, city"], True),
        (["a zorbling on a white background, big, on the left"], False),
        (["A woman stands in a field of flowers, looking at the sky."], False),
        ([], False),
    ],
)
def test_tags_are_distinguished_from_sentences(captions: list[str], tags: bool) -> None:
    assert are_tags(captions) is tags


def test_rules_of_choices_are_named_once() -> None:
    assert len({rule.__name__ for rule in CHOICES}) == len(CHOICES)


def test_without_a_trigger_word_no_prompt_is_written() -> None:
    assert "sample.prompts" not in chosen(answers(trigger_word=""))


def test_every_prompt_has_the_trigger_word() -> None:
    situation = replace(dataset(captions=("a flower", "a landscape")), answers=replace(ANSWERS, trigger_word="ohwx"))
    assert all("ohwx" in prompt for prompt in chosen(situation)["sample.prompts"])


def test_pictures_with_neither_trigger_word_nor_captions_are_reported() -> None:
    situation = replace(dataset(captioned=0.0, captions=()), answers=replace(ANSWERS, trigger_word=""))
    assert any("neither a trigger word nor a caption" in line for line in warnings(situation))
    assert not any("neither a trigger word" in line for line in warnings(dataset(captioned=0.0, captions=())))


def test_one_thing_has_no_s() -> None:
    situation = replace(machine(cores=1), dataset=replace(PICTURES, pictures=12))
    reasons = " | ".join(choice.reason for choice in choose(situation))
    assert "1 picture that" in reasons
    assert "1 core," in reasons
