"""Which modules an imported config adapts: as many as the tool itself, on models of full size without weights.

The tools' numbers follow from their code, read at sd-scripts 48d368f, ai-toolkit 27a03a9, OneTrainer 23df383,
diffusion-pipe 8f83dbf and SimpleTuner bc8e6ab, on the models' published configs. kohya's were also counted by
its own `LoRANetwork` on its own models without weights: 192 and, with `conv_dim`, 278 for SD1.5, 722 and 788 for SDXL.

- kohya adapts every Linear and 1x1 convolution of each `Transformer2DModel` (networks/lora.py): SD1.5 has 16
  of them with 12 each; SDXL 11 with 70 blocks of 10 and 2 projections each. With `conv_dim`, `ResnetBlock2D`,
  `Downsample2D` and `Upsample2D` join. FLUX.1 (networks/lora_flux.py): 19 double blocks of 10 and 38 single
  blocks of 3 in Black Forest Labs' code, where query, key and value are one matrix.
- ai-toolkit (toolkit/lora_special.py) adapts the same of UNets, and of FLUX.1 every Linear with `transformer_blocks` in
  its name.
- OneTrainer adapts what its filter finds in the name, without one every Linear and convolution of the model.
- diffusion-pipe adapts every Linear of SDXL's blocks (models/sdxl.py) or of FLUX.1's (models/base.py).
- SimpleTuner adapts lists of ends of names, attention unless told otherwise (helpers/models/common.py, flux/model.py).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from tests.unit.importers.support import import_json, import_text, note, project_of
from trainer_core.adapters.targets import adapter_targets
from trainer_core.families import get_family
from trainer_core.importers.core.report import ImportReport

_UNET: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2}
_CONFIGS: dict[str, dict[str, Any]] = {
    # stable-diffusion-v1-5/stable-diffusion-v1-5, unet/config.json
    "sd15": {
        **_UNET,
        "attention_head_dim": 8,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "sample_size": 64,
    },
    # stabilityai/stable-diffusion-xl-base-1.0, unet/config.json
    "sdxl": {
        **_UNET,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128,
    },
    # black-forest-labs/FLUX.1-dev, transformer/config.json
    "flux1": {"guidance_embeds": True},
}
_CLIP: dict[str, dict[str, Any]] = {
    "sd15": {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
}


@functools.cache
def full_size(family: str) -> Any:
    """Return the family's denoiser at its real size, without memory for its weights."""
    import diffusers
    import torch

    spec = get_family(family).spec
    model = getattr(diffusers, spec.components[spec.denoiser].loader)
    with torch.device("meta"):
        return model(**_CONFIGS[family])


def adapted(tmp_path: Path, report: ImportReport) -> list[str]:
    """Return the names of the modules that the imported project adapts."""
    project = project_of(tmp_path, report)
    spec = get_family(project.model.family).spec
    chosen = adapter_targets(full_size(spec.name), project.adapter, project.adapter_options, spec.targets)
    return [place.name for place in chosen]


def in_original_code(family: str, names: list[str]) -> int:
    """Count modules as the family's original code has them: query, key and value are one."""
    import re

    rows = get_family(family).spec.lora.native.items()
    original: set[str] = set()
    for name in names:
        number = (re.findall(r"\d+", name) or [""])[0]
        plain = re.sub(r"\.\d+\.", ".{}.", name, count=1)
        [theirs] = [theirs for theirs, ours in rows if plain in ours]
        original.add(theirs.replace("{}", number))
    return len(original)


BASES = {"sd15": "sd15.safetensors", "sdxl": "sdxl.safetensors", "flux1": "flux1-dev.safetensors"}


def kohya(tmp_path: Path, family: str, *arguments: str, module: str = "") -> ImportReport:
    network = module or ("networks.lora_flux" if family == "flux1" else "networks.lora")
    data = {
        "pretrained_model_name_or_path": BASES[family],
        "sdxl": family == "sdxl",
        "train_data_dir": "pictures",
        "network_module": network,
        "network_dim": 8,
        "network_alpha": 4,
        "max_train_steps": 10,
        "network_args": list(arguments),
        "network_train_unet_only": True,
    }
    return import_json(tmp_path, data)


def ai_toolkit(tmp_path: Path, family: str, **network: Any) -> ImportReport:
    arch = {"sd15": "sd1", "sdxl": "sdxl", "flux1": "flux"}[family]
    process = {
        "type": "sd_trainer",
        "network": {"type": "lora", "linear": 8, "linear_alpha": 8, **network},
        "datasets": [{"folder_path": "pictures"}],
        "model": {"name_or_path": BASES[family], "arch": arch},
        "train": {"steps": 10, "lr": 1e-4},
    }
    return import_json(tmp_path, {"job": "extension", "config": {"name": "one", "process": [process]}})


def onetrainer(tmp_path: Path, family: str, **more: Any) -> ImportReport:
    kind = {"sd15": "STABLE_DIFFUSION_15", "sdxl": "STABLE_DIFFUSION_XL_10_BASE", "flux1": "FLUX_DEV_1"}[family]
    data = {
        "training_method": "LORA",
        "model_type": kind,
        "base_model_name": BASES[family],
        "concepts": [{"path": "pictures"}],
        **more,
    }
    return import_json(tmp_path, data)


def diffusion_pipe(tmp_path: Path, family: str) -> ImportReport:
    kind = {"sdxl": "sdxl", "flux1": "flux"}[family]
    path = "checkpoint_path" if family == "sdxl" else "diffusers_path"
    text = f"""
dataset = "dataset.toml"
epochs = 2
micro_batch_size_per_gpu = 1
[model]
type = "{kind}"
{path} = "{BASES[family]}"
dtype = "bfloat16"
[adapter]
type = "lora"
rank = 8
[optimizer]
type = "adamw"
lr = 1e-4
"""
    return import_text(tmp_path, text, dataset_toml='resolutions = [1024]\n[[directory]]\npath = "pictures"\n')


def simpletuner(tmp_path: Path, family: str, **more: Any) -> ImportReport:
    kind = {"sd15": "sd1x", "sdxl": "sdxl", "flux1": "flux"}[family]
    data = {
        "model_type": "lora",
        "model_family": kind,
        "pretrained_model_name_or_path": BASES[family],
        "data_backend_config": "backend.json",
        "lora_rank": 8,
        **more,
    }
    return import_json(tmp_path, data, backend_json='[{"id": "a", "instance_data_dir": "pictures"}]')


@pytest.mark.parametrize(("family", "modules"), [("sd15", 192), ("sdxl", 722), ("flux1", 494)])
def test_kohyas_lora_adapts_what_kohya_does(tmp_path: Path, family: str, modules: int) -> None:
    assert len(adapted(tmp_path, kohya(tmp_path, family))) == modules


def test_flux1_of_kohya_has_304_modules_in_the_original_code(tmp_path: Path) -> None:
    assert in_original_code("flux1", adapted(tmp_path, kohya(tmp_path, "flux1"))) == 19 * 10 + 38 * 3 == 304


@pytest.mark.parametrize(("family", "modules"), [("sd15", 278), ("sdxl", 788), ("flux1", 494)])
def test_conv_dim_adds_the_resnets_as_kohya_does(tmp_path: Path, family: str, modules: int) -> None:
    assert len(adapted(tmp_path, kohya(tmp_path, family, "conv_dim=4", "conv_alpha=1"))) == modules


@pytest.mark.parametrize(
    ("preset", "family", "modules"),
    [
        # blocks (278), conv_in, conv_out and two Linears of the time embedding; SDXL has other names in sd-scripts
        ("full", "sd15", 282),
        ("full", "sdxl", 788),
        ("full", "flux1", 494),
        ("full-lin", "sdxl", 750),
        ("attn-mlp", "sd15", 192),
        ("attn-mlp", "sdxl", 722),
        ("attn-mlp", "flux1", 494),
        ("attn-only", "sd15", 128),
        ("attn-only", "sdxl", 560),
        # qkv and proj of picture and text in the double blocks, of which kohya counts 76
        ("attn-only", "flux1", 152),
    ],
)
def test_lycoris_presets_adapt_what_lycoris_does(tmp_path: Path, preset: str, family: str, modules: int) -> None:
    arguments = ("algo=locon", f"preset={preset}", "conv_dim=4")
    assert len(adapted(tmp_path, kohya(tmp_path, family, *arguments, module="lycoris.kohya"))) == modules


def test_ranks_of_flux1_layers_reach_its_modulation(tmp_path: Path) -> None:
    report = kohya(tmp_path, "flux1", "img_mod_dim=0", "txt_mod_dim=0", "single_mod_dim=0", "single_dim=2")
    names = adapted(tmp_path, report)
    assert len(names) == 494 - 2 * 19 - 38
    assert project_of(tmp_path, report).adapter.blocks[r"transformer_blocks\.\d+\.norm1\.linear"].rank == 0


@pytest.mark.parametrize(("family", "modules"), [("sd15", 192), ("sdxl", 722), ("flux1", 494)])
def test_ai_toolkits_lora_adapts_what_it_does_there(tmp_path: Path, family: str, modules: int) -> None:
    assert len(adapted(tmp_path, ai_toolkit(tmp_path, family))) == modules


def test_ai_toolkits_convolutions_bring_the_resnets(tmp_path: Path) -> None:
    assert len(adapted(tmp_path, ai_toolkit(tmp_path, "sd15", conv=4, conv_alpha=4))) == 278


def test_ai_toolkits_filters_stay_inside_the_blocks(tmp_path: Path) -> None:
    only = {"only_if_contains": ["transformer.single_transformer_blocks.7.proj_out"]}
    assert adapted(tmp_path, ai_toolkit(tmp_path, "flux1", network_kwargs=only)) == [
        "single_transformer_blocks.7.proj_out"
    ]
    ignore = {"ignore_if_contains": ["attn"]}
    assert len(adapted(tmp_path, ai_toolkit(tmp_path, "flux1", network_kwargs=ignore))) == 494 - 19 * 8 - 38 * 3


@pytest.mark.parametrize(
    ("preset", "layer_filter", "family", "modules"),
    [
        ("full", "", "sd15", 282),
        ("full", "", "sdxl", 794),
        ("attn-mlp", "attentions", "sd15", 192),
        ("attn-mlp", "attentions", "sdxl", 722),
        # attn, ff.net (not ff_context.net) and proj_mlp
        ("attn-mlp", "attn,ff.net,proj_mlp", "flux1", 342),
        ("attn-only", "attn", "sd15", 128),
        ("attn-only", "attn", "sdxl", 560),
        ("attn-only", "attn", "flux1", 266),
        ("blocks", "transformer_block", "flux1", 494),
    ],
)
def test_onetrainers_filters_adapt_what_they_do_there(
    tmp_path: Path, preset: str, layer_filter: str, family: str, modules: int
) -> None:
    written = onetrainer(tmp_path, family, layer_filter_preset=preset, layer_filter=layer_filter)
    assert len(adapted(tmp_path, written)) == modules
    named = onetrainer(tmp_path, family, layer_filter_preset=preset)
    assert len(adapted(tmp_path, named)) == modules


def test_onetrainers_whole_flux1_is_reported_to_lack_ten_modules(tmp_path: Path) -> None:
    report = onetrainer(tmp_path, "flux1")
    assert len(adapted(tmp_path, report)) == 504 - 10
    assert "embedders" in note(report, "layer_filter_preset")


@pytest.mark.parametrize(("family", "modules"), [("sdxl", 739), ("flux1", 494)])
def test_diffusion_pipe_adapts_every_linear_of_the_blocks(tmp_path: Path, family: str, modules: int) -> None:
    assert len(adapted(tmp_path, diffusion_pipe(tmp_path, family))) == modules


@pytest.mark.parametrize(("family", "modules"), [("sd15", 128), ("sdxl", 560), ("flux1", 266)])
def test_simpletuner_adapts_attention(tmp_path: Path, family: str, modules: int) -> None:
    assert len(adapted(tmp_path, simpletuner(tmp_path, family))) == modules


@pytest.mark.parametrize(
    ("wanted", "modules"),
    [("all", 266), ("context", 76), ("context+ffs", 114), ("all+ffs", 419 - 1), ("ai-toolkit", 495 - 1), ("tiny", 2)],
)
def test_simpletuners_flux_targets_adapt_the_blocks_of_what_they_name(
    tmp_path: Path, wanted: str, modules: int
) -> None:
    assert len(adapted(tmp_path, simpletuner(tmp_path, "flux1", flux_lora_target=wanted))) == modules


def test_clip_has_kohyas_72_modules() -> None:
    import re

    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    lora = get_family("sd15").spec.text.lora["text_encoder"]
    with torch.device("meta"):
        encoder = CLIPTextModel(CLIPTextConfig(**_CLIP["sd15"]))
    assert len([name for name, _ in encoder.named_modules() if re.fullmatch(lora.targets, name)]) == 72
