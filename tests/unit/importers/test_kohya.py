from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.importers.support import import_example, import_json, import_text, note, project_of, status

MINIMAL = """
pretrained_model_name_or_path = "base/sd-v1-5"
train_data_dir = "img"
network_module = "networks.lora"
resolution = 512
learning_rate = 1e-4
"""


def test_defaults_of_kohya_that_are_not_ours_are_written(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_text(tmp_path, MINIMAL))
    assert (project.adapter.rank, project.adapter.alpha) == (4, 1)
    assert project.train.steps == 1600
    assert project.train.precision == "fp32"
    assert project.export.dtype == "fp32"
    assert project.export.formats == ("kohya",)
    assert project.bucket.table == "square"
    assert project.caption.extensions == (".caption",)
    assert project.caption.missing == "empty"
    assert project.datasets[0].held_out == 0
    assert project.adapter.text_encoders == ("text_encoder",)
    assert project.adapter.targets == "all-linear+conv1x1"


def test_the_learning_rate_that_kohya_falls_back_on_is_written(tmp_path: Path) -> None:
    text = MINIMAL.replace("learning_rate = 1e-4\n", "")
    assert project_of(tmp_path, import_text(tmp_path, text)).optimizer.lr == 2e-6


def test_text_encoders_keep_the_common_rate_beside_a_unet_lr(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_text(tmp_path, MINIMAL + "unet_lr = 3e-4\n"))
    assert project.optimizer.lr == 3e-4
    assert project.optimizer.text_encoder_lr == (1e-4,)


@pytest.mark.parametrize("line", ["network_train_unet_only = true", "text_encoder_lr = 0"])
def test_no_text_encoder_is_trained_where_kohya_trains_none(tmp_path: Path, line: str) -> None:
    assert project_of(tmp_path, import_text(tmp_path, MINIMAL + line)).adapter.text_encoders == ()


@pytest.mark.parametrize(("theirs", "ours"), [(1, 0), (2, 1), (3, 2)])
def test_clip_skip_counts_one_more_there(tmp_path: Path, theirs: int, ours: int) -> None:
    assert project_of(tmp_path, import_text(tmp_path, MINIMAL + f"clip_skip = {theirs}")).text.clip_skip == ours


def test_epochs_go_before_steps(tmp_path: Path) -> None:
    report = import_text(tmp_path, MINIMAL + "max_train_epochs = 12\nmax_train_steps = 900\n")
    project = project_of(tmp_path, report)
    assert project.train.epochs == 12
    assert "steps:" not in report.yaml
    assert status(report, "max_train_steps") == "irrelevant"


@pytest.mark.parametrize(("written", "steps", "ratio"), [("0.1", 0, 0.1), ("100", 100, 0.0), ("250.0", 250, 0.0)])
def test_a_warmup_below_1_is_a_share(tmp_path: Path, written: str, steps: int, ratio: float) -> None:
    schedule = project_of(tmp_path, import_text(tmp_path, MINIMAL + f"lr_warmup_steps = {written}")).schedule
    assert (schedule.warmup_steps, schedule.warmup_ratio) == (steps, ratio)


def test_warmup_steps_are_divided_by_the_processes(tmp_path: Path) -> None:
    data = {"LoRA_type": "Standard", "pretrained_model_name_or_path": "base/sd-v1-5", "train_data_dir": "img"}
    data |= {"lr_warmup_steps": 100, "num_processes": 4, "max_resolution": "512,512", "learning_rate": 1e-4}
    report = import_json(tmp_path, data)
    assert project_of(tmp_path, report).schedule.warmup_steps == 25
    assert status(report, "lr_warmup_steps") == "changed"


def test_folder_names_are_repeats_in_folder_mode_only(tmp_path: Path) -> None:
    dataset = '[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = "img/5_cat"\nnum_repeats = 3\n'
    text = MINIMAL.replace('train_data_dir = "img"', 'dataset_config = "data.toml"')
    by_file = project_of(tmp_path, import_text(tmp_path, text, data_toml=dataset)).datasets[0]
    assert (by_file.layout, by_file.repeats, by_file.path.name) == ("flat", 3, "5_cat")
    by_folder = project_of(tmp_path, import_text(tmp_path, MINIMAL)).datasets[0]
    assert (by_folder.layout, by_folder.repeats) == ("kohya", 1)


def test_a_subset_inherits_from_dataset_general_and_command_line(tmp_path: Path) -> None:
    dataset = """
[general]
keep_tokens = 2
[[datasets]]
resolution = 768
caption_extension = ".txt"
[[datasets.subsets]]
image_dir = "a"
"""
    text = MINIMAL.replace('train_data_dir = "img"', 'dataset_config = "d.toml"\nflip_aug = true\nkeep_tokens = 9')
    report = import_text(tmp_path, text, d_toml=dataset)
    project = project_of(tmp_path, report)
    assert (project.tags.keep_tokens, project.bucket.resolution, project.augment.flip) == (2, 768, True)
    assert project.caption.extensions == (".txt",)
    assert status(report, "general.keep_tokens") == "mapped"
    assert status(report, "keep_tokens") == "irrelevant"


def test_what_folders_ask_differently_of_all_is_told(tmp_path: Path) -> None:
    report = import_example(tmp_path, "kohya/sdxl_lora.toml")
    assert project_of(tmp_path, report).tags.keep_tokens == 1
    assert status(report, "datasets.0.subsets.1.keep_tokens") == "unsupported"


def test_regularisation_folders_and_masks_are_kept(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_example(tmp_path, "kohya/folders_with_reg.toml"))
    assert [one.regularisation for one in project.datasets] == [False, True]
    assert project.loss.prior_weight == 0.5
    assert project.datasets[0].mask_path is not None
    assert project.datasets[0].mask_path.name == "masks"


def test_conv_dim_makes_a_locon_whose_alpha_is_1(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_text(tmp_path, MINIMAL + 'network_args = ["conv_dim=8"]'))
    assert (project.adapter.type, project.adapter.conv_rank, project.adapter.conv_alpha) == ("locon", 8, 1)


def test_lycoris_adapts_convolutions_with_the_rank_unless_told(tmp_path: Path) -> None:
    text = MINIMAL.replace("networks.lora", "lycoris.kohya") + "network_dim = 12\nnetwork_alpha = 6\n"
    adapter = project_of(tmp_path, import_text(tmp_path, text + 'network_args = ["algo=loha"]')).adapter
    assert (adapter.type, adapter.conv_rank, adapter.conv_alpha, adapter.alpha) == ("loha", 12, 6, 6)


def test_optimizer_arguments_become_numbers_and_names_of_ours(tmp_path: Path) -> None:
    optimizer = project_of(tmp_path, import_example(tmp_path, "kohya/locon_sd15.toml")).optimizer
    assert optimizer.name == "prodigy"
    assert optimizer.weight_decay == 0.01
    assert optimizer.args == {
        "weight_decouple": True,
        "d_coef": 2,
        "bias_correction": True,
        "safeguard_warmup": True,
    }


def test_an_optimizer_without_decay_there_has_none_here(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_text(tmp_path, MINIMAL + 'optimizer_type = "Lion"'))
    assert (project.optimizer.name, project.optimizer.weight_decay) == ("lion", 0)


FLUX = """
pretrained_model_name_or_path = "base/flux"
train_data_dir = "img"
network_module = "networks.lora_flux"
learning_rate = 1e-4
resolution = 512
"""


@pytest.mark.parametrize(
    ("lines", "sampling", "shift", "std"),
    [
        ("", "uniform", 3.0, 1.0),
        ('timestep_sampling = "sigmoid"', "sigmoid", 0.0, 1.0),
        ('timestep_sampling = "sigmoid"\nsigmoid_scale = 1.5', "logit_normal", 1.0, 1.5),
        ('timestep_sampling = "shift"', "logit_normal", 3.0, 1.0),
        ('timestep_sampling = "shift"\ndiscrete_flow_shift = 2.5', "logit_normal", 2.5, 1.0),
        ('timestep_sampling = "flux_shift"', "logit_normal", 0.0, 1.0),
        ('timestep_sampling = "uniform"', "uniform", 1.0, 1.0),
    ],
)
def test_timestep_sampling_means_the_same(tmp_path: Path, lines: str, sampling: str, shift: float, std: float) -> None:
    noise = project_of(tmp_path, import_text(tmp_path, FLUX + lines)).noise
    assert (noise.timestep_sampling, noise.shift, noise.logit_std) == (sampling, shift, std)


def test_logit_mean_changes_its_sign_where_kohya_picks_from_descending_timesteps(tmp_path: Path) -> None:
    lines = 'weighting_scheme = "logit_normal"\nlogit_mean = 0.5\nlogit_std = 0.8\n'
    noise = project_of(tmp_path, import_text(tmp_path, FLUX + lines)).noise
    assert (noise.timestep_sampling, noise.logit_mean, noise.logit_std, noise.shift) == ("logit_normal", -0.5, 0.8, 3)
    straight = project_of(tmp_path / "sd3", import_example(tmp_path / "sd3", "kohya/sd3_sigma.toml")).noise
    assert (straight.logit_mean, straight.logit_std, straight.shift) == (0.5, 1.2, 3.0)


def test_the_guidance_that_kohya_takes_unasked_is_written_and_its_loss_weight_told(tmp_path: Path) -> None:
    report = import_text(tmp_path, FLUX)
    assert project_of(tmp_path, report).noise.guidance == 3.5
    explicit = import_text(tmp_path, FLUX + 'model_prediction_type = "sigma_scaled"')
    assert status(explicit, "model_prediction_type") == "changed"


def test_options_that_flow_families_do_not_read_stay_out(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_example(tmp_path, "kohya/flux.toml"))
    assert (project.noise.offset, project.loss.min_snr_gamma) == (0, 0)


@pytest.mark.parametrize(("last", "every", "files"), [(200, 100, 3), (250, 100, 3), (50, 100, 1), (100, 100, 2)])
def test_the_last_steps_to_keep_become_files(tmp_path: Path, last: int, every: int, files: int) -> None:
    lines = f"save_every_n_steps = {every}\nsave_last_n_steps = {last}\n"
    kept = [step for step in range(every, 10 * every + 1, every) if step > _removed(10 * every, last, every)]
    assert len(kept) == files
    assert project_of(tmp_path, import_text(tmp_path, MINIMAL + lines)).save.keep_last == files


def _removed(step: int, last: int, every: int) -> int:
    """The newest file that kohya has removed at a step: `get_remove_step_no` of train_util."""
    number = step - last - 1
    return number - number % every


def test_the_gui_leaves_zeros_out_and_works_out_epochs_and_warmup(tmp_path: Path) -> None:
    report = import_example(tmp_path, "kohya/gui_sdxl_lokr.json")
    project = project_of(tmp_path, report)
    assert (project.train.epochs, project.schedule.warmup_ratio) == (12, 0.1)
    assert project.adapter.type == "lokr"
    assert project.adapter.text_encoders == ()
    assert (project.noise.offset, project.noise.multires_iterations) == (0, 8)
    assert project.optimizer.betas == (0.95, 0.98)
    assert project.train.seed == 42
    assert status(report, "noise_offset") == "irrelevant"
    assert "Multires" in note(report, "noise_offset")


def test_an_area_of_width_and_height_becomes_the_side_of_its_square(tmp_path: Path) -> None:
    text = MINIMAL.replace("resolution = 512", 'resolution = "512,768"\nenable_bucket = true')
    assert project_of(tmp_path, import_text(tmp_path, text)).bucket.resolution == 640


def test_stable_diffusion_2_is_refused(tmp_path: Path) -> None:
    from trainer_core.importers.core.tool_config import ImportFailed

    with pytest.raises(ImportFailed, match="Stable Diffusion 2"):
        import_text(tmp_path, MINIMAL + "v2 = true")


def test_lumina_has_defaults_of_its_own(tmp_path: Path) -> None:
    report = import_text(tmp_path, FLUX.replace("lora_flux", "lora_lumina"))
    noise = project_of(tmp_path, report).noise
    assert (report.family, noise.timestep_sampling, noise.shift) == ("lumina2", "logit_normal", 6)


GUI = {
    "LoRA_type": "LyCORIS/LoKr",
    "pretrained_model_name_or_path": "base/sd-v1-5",
    "train_data_dir": "img",
    "max_resolution": "512,512",
    "learning_rate": 1e-3,
    "network_dim": 100000,
    "conv_dim": 100000,
    "factor": 8,
    "bucket_reso_steps": 1,
    "additional_parameters": '--lr_scheduler_type "CosineAnnealingLR" --keep_tokens=2 --zero_terminal_snr'
    " --network_args module_dropout=0.1 rank_dropout=0.2",
}


def test_additional_parameters_of_the_gui_are_read(tmp_path: Path) -> None:
    report = import_json(tmp_path, GUI)
    project = project_of(tmp_path, report)
    assert (project.tags.keep_tokens, project.noise.zero_terminal_snr) == (2, True)
    # LoKr with whole matrices has no ranks to drop.
    assert (project.adapter.module_dropout, project.adapter.rank_dropout) == (0.1, 0.0)
    assert status(report, "network_args.rank_dropout") == "unsupported"
    assert project.adapter_options.factor == 8
    assert status(report, "additional_parameters.lr_scheduler_type") == "unsupported"


def test_a_huge_dimension_of_lokr_means_whole_matrices(tmp_path: Path) -> None:
    report = import_json(tmp_path, GUI)
    project = project_of(tmp_path, report)
    assert (project.adapter.type, project.adapter.conv_rank) == ("lokr", 1)
    assert project.adapter_options.full_matrix
    assert project.bucket.step == 8
    assert status(report, "bucket_reso_steps") == "changed"


LYCORIS = MINIMAL.replace("networks.lora", "lycoris.kohya")


@pytest.mark.parametrize(
    ("arguments", "kind", "conv_rank", "decompose"),
    [
        ('"algo=locon", "conv_dim=0"', "locon", 4, False),
        ('"algo=locon", "preset=attn-mlp", "conv_dim=8"', "lora", 0, False),
        ('"algo=lora", "preset=attn-only", "dora_wd=True"', "dora", 0, False),
        ('"algo=loha", "dora_wd=True"', "loha", 4, True),
        ('"algo=lokr", "preset=full-lin", "use_tucker=True"', "lokr", 0, False),
    ],
)
def test_lycoris_adapts_convolutions_with_its_full_preset_only(
    tmp_path: Path, arguments: str, kind: str, conv_rank: int, decompose: bool
) -> None:
    project = project_of(tmp_path, import_text(tmp_path, LYCORIS + f"network_args = [{arguments}]"))
    assert (project.adapter.type, project.adapter.conv_rank) == (kind, conv_rank)
    assert project.adapter_options.decompose is decompose
    assert not project.adapter_options.tucker


def test_a_default_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    assert status(import_text(tmp_path, FLUX), "model_prediction_type") == "changed"


def blocks_of(tmp_path: Path, text: str) -> dict[str, tuple[int, float | None]]:
    project = project_of(tmp_path, import_text(tmp_path, text))
    return {pattern: (block.rank, block.alpha) for pattern, block in project.adapter.blocks.items()}


def fits(blocks: dict[str, tuple[int, float | None]], name: str) -> tuple[int, float | None] | None:
    return next((value for pattern, value in blocks.items() if re.fullmatch(pattern, name)), None)


@pytest.mark.parametrize(
    ("family", "count", "block", "module"),
    [
        ("sd15", 25, 1, "down_blocks.0.attentions.0"),
        ("sd15", 25, 5, "down_blocks.1.attentions.1"),
        ("sd15", 25, 12, "mid_block.attentions.0"),
        ("sd15", 25, 16, "up_blocks.1.attentions.0"),
        ("sd15", 25, 24, "up_blocks.3.attentions.2"),
        ("sdxl", 23, 5, "down_blocks.1.attentions.0"),
        ("sdxl", 23, 9, "down_blocks.2.attentions.1"),
        ("sdxl", 23, 11, "mid_block.attentions.0"),
        ("sdxl", 23, 13, "up_blocks.0.attentions.0"),
        ("sdxl", 23, 18, "up_blocks.1.attentions.2"),
    ],
)
def test_ranks_of_blocks_reach_the_modules_that_kohya_numbers_so(
    tmp_path: Path, family: str, count: int, block: int, module: str
) -> None:
    dims = ["8"] * count
    dims[block] = "32"
    base = MINIMAL.replace("sd-v1-5", "sd-v1-5" if family == "sd15" else "sd_xl")
    text = base + f'network_dim = 8\nnetwork_alpha = 4\nnetwork_args = ["block_dims={",".join(dims)}"]\n'
    blocks = blocks_of(tmp_path, text)
    assert fits(blocks, f"{module}.transformer_blocks.0.attn1.to_q") == (32, 4)
    assert len(blocks) == 1
    assert "|" not in next(iter(blocks))


def test_blocks_with_a_rank_of_0_are_left_out_and_alphas_kept(tmp_path: Path) -> None:
    dims, alphas = ["8"] * 25, ["8"] * 25
    dims[4], alphas[8] = "0", "2"
    arguments = f'"block_dims={",".join(dims)}", "block_alphas={",".join(alphas)}"'
    text = MINIMAL + f"network_dim = 8\nnetwork_alpha = 8\nnetwork_args = [{arguments}]\n"
    blocks = blocks_of(tmp_path, text)
    assert fits(blocks, "down_blocks.1.attentions.0.proj_in") == (0, None)
    assert fits(blocks, "down_blocks.2.attentions.1.proj_in") == (8, 2)
    assert fits(blocks, "up_blocks.1.attentions.1.proj_in") is None


def test_a_list_of_another_length_is_refused(tmp_path: Path) -> None:
    report = import_text(tmp_path, MINIMAL + 'network_args = ["block_dims=8,8,4"]')
    assert status(report, "network_args.block_dims") == "unsupported"


def test_blocks_and_layers_of_flux_are_left_out_or_given_a_rank(tmp_path: Path) -> None:
    arguments = '"train_blocks=double", "train_double_block_indices=0-17", "img_mlp_dim=4"'
    text = FLUX + f"network_dim = 8\nnetwork_alpha = 8\nnetwork_args = [{arguments}]\n"
    blocks = blocks_of(tmp_path, text)
    assert fits(blocks, "single_transformer_blocks.3.proj_mlp") == (0, None)
    assert fits(blocks, "transformer_blocks.18.ff.net.2") == (0, None)
    assert fits(blocks, "transformer_blocks.17.ff.net.2") == (4, 8)
    assert fits(blocks, "transformer_blocks.17.attn.to_q") is None
