"""The published file is what plain diffusers loads, with the strength that was trained."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.projects import TinyProject, computed, make_project
from trainer_core.errors import ExportError
from trainer_core.export.write import check_lora


def _picture(pipeline: object) -> bytes:
    generator = torch.Generator().manual_seed(1)
    call = {"num_inference_steps": 2, "guidance_scale": 2.0, "width": 64, "height": 64, "generator": generator}
    return pipeline("a small picture", **call).images[0].tobytes()  # type: ignore[operator]


@pytest.mark.setting("export.formats")
@pytest.mark.parametrize("family", ["sd15", "sdxl", "flux1"])
def test_every_published_format_is_read_by_the_real_pipeline_with_the_trained_strength(
    tiny_bases: dict[str, Path], tmp_path: Path, family: str
) -> None:
    import diffusers

    project = make_project(tmp_path / "project", tiny_bases[family], family, pictures=4, steps=2)
    # Diffusers' converter of kohya's keys knows FLUX.1 in its real width alone.
    formats = ("comfyui", "diffusers") + (("kohya",) if family != "flux1" else ())
    project.run(f"export.formats=[{', '.join(formats)}]", "datasets.0.held_out=0.25", until="lora_checkpoint")
    files = {formats[0]: project.lora} | {one: project.lora.with_name(f"tiny.{one}.safetensors") for one in formats[1:]}
    trained = load_file(sorted(project.store.glob("runs/*/checkpoints/step-*/adapter.safetensors"))[-1])
    for path in files.values():
        pipeline = diffusers.DiffusionPipeline.from_pretrained(project.base)
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
        denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
        adapted = {name: module for name, module in denoiser.named_modules() if hasattr(module, "lora_A")}
        assert 2 * len(adapted) == len(trained)
        for name, module in adapted.items():
            weights = (module.lora_B["default_0"].weight.flatten(1), module.lora_A["default_0"].weight.flatten(1))
            loaded = module.scaling["default_0"] * weights[0] @ weights[1]
            wanted = 2 / 4 * trained[f"{name}.lora_B.weight"] @ trained[f"{name}.lora_A.weight"]
            assert torch.linalg.norm(loaded - wanted) <= 1e-3 * torch.linalg.norm(wanted), (path.name, name)


@pytest.mark.parametrize("family", ["sd15", "sdxl", "flux1"])
def test_plain_diffusers_loads_it_and_the_picture_changes(
    tiny_bases: dict[str, Path], tmp_path: Path, family: str
) -> None:
    from diffusers import DiffusionPipeline

    project = make_project(tmp_path / "project", tiny_bases[family], family, pictures=4)
    results = project.run("datasets.0.held_out=0.25")
    pipeline = DiffusionPipeline.from_pretrained(project.base)
    pipeline.set_progress_bar_config(disable=True)
    before = _picture(pipeline)
    pipeline.load_lora_weights(str(project.lora.parent), weight_name=project.lora.name)
    assert pipeline.get_active_adapters()
    assert _picture(pipeline) != before
    assert results["samples"].published.metadata["lora_changes_picture"] is True


def test_loaded_deltas_are_alpha_over_rank_times_b_a(finished_sd15: Path) -> None:
    from diffusers import UNet2DConditionModel

    project = TinyProject(finished_sd15)
    unet = UNet2DConditionModel.from_pretrained(project.base / "unet")
    unet.load_lora_adapter(str(project.lora.parent), weight_name=project.lora.name, prefix="unet")
    newest = sorted(project.store.glob("runs/*/checkpoints/step-*/adapter.safetensors"))[-1]
    trained = load_file(newest)
    for name, module in unet.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        loaded = module.scaling["default_0"] * module.lora_B["default_0"].weight @ module.lora_A["default_0"].weight
        wanted = 2 / 4 * trained[f"{name}.lora_B.weight"] @ trained[f"{name}.lora_A.weight"]
        assert torch.linalg.norm(loaded - wanted) <= 2e-3 * torch.linalg.norm(wanted)


def test_the_file_tells_where_it_came_from(finished_sd15: Path) -> None:
    project = TinyProject(finished_sd15)
    with safe_open(project.lora, "pt") as file:
        metadata = file.metadata()
    assert metadata["lora_assets.family"] == "sd15"
    assert len(metadata["lora_assets.base_fingerprint"]) == 64
    assert json.loads(metadata["lora_assets.settings"])["adapter"]["rank"] == 4
    assert json.loads(metadata["lora_assets.versions"]).keys() >= {"torch", "diffusers", "peft"}
    told, found = check_lora(project.lora)
    assert told == found == metadata["lora_assets.weights_sha256"]


def test_sha256sum_accepts_the_checksums_of_the_outputs(finished_sd15: Path) -> None:
    project = TinyProject(finished_sd15)
    done = subprocess.run(
        ["sha256sum", "-c", "checksums.sha256"], cwd=project.lora.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "tiny.safetensors: OK" in done.stdout


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def _outputs(project: TinyProject) -> set[str]:
    return {path.name for path in project.lora.parent.glob("tiny*.safetensors")}


@pytest.mark.setting("export.formats")
def test_other_formats_export_again_and_train_and_render_nothing(project: TinyProject) -> None:
    assert _outputs(project) == {"tiny.safetensors", "tiny.comfyui.safetensors"}
    before = project.lora.read_bytes()
    results = project.run("export.formats=[kohya, diffusers]")
    assert computed(results) == {"lora_checkpoint": 0}
    # What an earlier choice of formats left is not mistaken for this LoRA.
    assert _outputs(project) == {"tiny.safetensors", "tiny.diffusers.safetensors"}
    assert "tiny.comfyui" not in (project.lora.parent / "checksums.sha256").read_text()
    assert project.lora.with_name("tiny.diffusers.safetensors").read_bytes() != before
    assert any(key.startswith("lora_unet_") for key in load_file(project.lora))


def test_a_file_that_a_user_changed_is_not_removed(project: TinyProject) -> None:
    mine = project.lora.with_name("tiny.comfyui.safetensors")
    mine.write_bytes(b"mine")
    project.run("export.formats=[diffusers]")
    assert mine.read_bytes() == b"mine"


@pytest.mark.setting("export.metadata")
def test_without_metadata_there_are_tensors_alone_and_the_card_is_as_before(project: TinyProject) -> None:
    weights = load_file(project.lora)
    results = project.run("export.metadata=false")
    assert computed(results) == {"lora_checkpoint": 0}
    for name in _outputs(project):
        with safe_open(project.lora.with_name(name), "pt") as file:
            assert file.metadata() == {"format": "pt"}
    assert all(torch.equal(tensor, weights[key]) for key, tensor in load_file(project.lora).items())
    card = (project.lora.parent / "README.md").read_text()
    assert results["lora_checkpoint"].data_version in card
    assert "adapter.rank" in card


def test_a_lora_that_diffusers_cannot_read_is_rendered_from_a_copy_that_it_can(
    tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    project = make_project(tmp_path / "project", tiny_bases["flux1"], "flux1", pictures=4, steps=2)
    results = project.run("export.formats=[kohya]", "datasets.0.held_out=0.25")
    assert _outputs(project) == {"tiny.safetensors"}
    assert results["samples"].published.metadata["lora_changes_picture"] is True
    (proof,) = json.loads((project.lora.parent / "proof.json").read_text())["files"]
    assert (proof["reader"], proof["ok"]) == ("lora-assets", True)


def test_the_proof_lies_beside_the_files(finished_sd15: Path) -> None:
    told = json.loads((TinyProject(finished_sd15).lora.parent / "proof.json").read_text())
    assert told["ok"] is True
    assert [(one["format"], one["reader"]) for one in told["files"]] == [
        ("diffusers", "diffusers"),
        ("comfyui", "diffusers"),
    ]
    assert all(one["max_relative_error"] <= one["bound"] == 1e-3 for one in told["files"])
    assert told["files"][1]["comfyui_coverage"] == 1.0


def test_a_failed_proof_publishes_nothing_and_keeps_the_run(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer_core.stages.publishing import lora_files

    before = project.lora.read_bytes()
    with monkeypatch.context() as patched:
        write_lora = lora_files.write_lora
        halved = {"lora_B.weight": 0.5, ".alpha": 0.5}

        def wrong(path: Path, tensors: dict[str, torch.Tensor], metadata: object) -> str:
            bad = {k: v * next((x for end, x in halved.items() if k.endswith(end)), 1.0) for k, v in tensors.items()}
            return write_lora(path, bad, metadata)  # type: ignore[arg-type]

        patched.setattr(lora_files, "write_lora", wrong)
        with pytest.raises(ExportError, match=r"lora\.safetensors \(diffusers\): unet\..*run again"):
            project.run("export.dtype=fp32")
    assert project.lora.read_bytes() == before
    result = project.run("export.dtype=fp32")["lora_checkpoint"]
    assert (result.action, result.items_computed) == ("computed", 0)


def test_equal_runs_give_equal_files(finished_sd15: Path, tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    again = make_project(tmp_path / "elsewhere", tiny_bases["sd15"])
    again.run(until="lora_checkpoint")
    for name in _outputs(again):
        assert again.lora.with_name(name).read_bytes() == TinyProject(finished_sd15).lora.with_name(name).read_bytes()


def test_the_metadata_name_no_place_on_this_machine(finished_sd15: Path) -> None:
    project = TinyProject(finished_sd15)
    header = project.lora.read_bytes()[:20000].decode(errors="replace")
    assert str(project.folder) not in header
    with safe_open(project.lora, "pt") as file:
        told = file.metadata()
    assert (told["ss_output_name"], told["ss_sd_model_name"], told["ss_epoch"]) == ("tiny", "base", "2")
    assert json.loads(told["ss_dataset_dirs"]) == {"pictures": {"n_repeats": 1, "img_count": 6}}
