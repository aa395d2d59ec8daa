"""Peak memory of each stage, each in a process of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks._common import Figure, Result, in_child
from benchmarks._projects import UNET, VAE, small_sd15, write_pictures, write_project

SETTINGS = {
    "bucket": {"resolution": 256},
    "adapter": {"rank": 8, "alpha": 8},
    "sample": {"prompts": ["a picture"], "steps": 2},
}


def run(quick: bool) -> Result:
    """Run the stages one after another and note the most memory that each ever had."""
    pictures, steps = (4, 2) if quick else (32, 10)
    stages = ("validated_dataset", "cached_latents", "cached_text_embeddings", "lora_checkpoint", "samples", "metrics")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"folder": folder, "pictures": pictures, "steps": steps}
        project = in_child("benchmarks.memory:prepare_project", arguments)
        for stage in stages:
            told = in_child("benchmarks.memory:peak_of", {"project": project, "stage": stage})
            beyond = f"{told['peak'] - told['imports']:.0f} MiB beyond the imported libraries"
            figures.append(Figure(stage, told["peak"], "MiB", note=beyond))
    config = {"unet": UNET, "vae": VAE, "pictures": pictures, "steps": steps, "batch": 1, **SETTINGS}
    title = "Peak resident memory by stage, SD1.5-shaped model of 37.5 M parameters at 256 px"
    return Result("memory", title, tuple(figures), config)


def prepare_project(folder: str, pictures: int, steps: int) -> str:
    """Make model and pictures; return the project's path. Runs in a child."""
    root = Path(folder)
    small_sd15(root / "model")
    write_pictures(root / "data", pictures, 256)
    dataset = {"path": "data", "held_out": 1 / pictures}
    return str(write_project(root, {**SETTINGS, "datasets": [dataset], "train": {"steps": steps}}))


def peak_of(project: str, stage: str) -> dict[str, float]:
    """Run one stage whose upstream is fresh; return MiB after the imports and at the peak. Runs in a child."""
    from trainer_core import run as pipeline

    session = pipeline.open_session(Path(project))
    if stage != "validated_dataset":
        import diffusers
        import peft
        import transformers

        # Lazy modules: touching the classes loads what the stages load.
        assert diffusers.AutoencoderKL and diffusers.UNet2DConditionModel and transformers.CLIPTextModel and peft
    imports = peak_mib()
    result = pipeline.run_until(session, stage)[-1]
    assert result.action == "computed", f"{stage} was fresh: nothing was measured"
    session.close()
    return {"imports": imports, "peak": peak_mib()}


def peak_mib() -> float:
    """Return the most memory that this process had resident, in MiB.

    From VmHWM: `getrusage` of a process that was started by a larger one counts the larger one's memory.
    """
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
