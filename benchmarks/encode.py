"""Encoding: the whole `cached_latents` stage over the VAE alone, on the same pictures."""

from __future__ import annotations

import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks._common import Figure, Goal, Result, from_rounds, in_child, ratios
from benchmarks._projects import VAE, small_sd15, write_pictures, write_project
from trainer_core.families.shared import loading

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer_core.stages.project.session import Session

GOAL = Goal(0.9, "at least")
_FIXED = "the stage without what it does once: loading the VAE, publishing"
_KNOWN = "libraries imported; the model's SHA-256 known, as after any first look"


def run(quick: bool) -> Result:
    """Time the stage and the VAE in turn, both with the stage's allocator; then the VAE without it, in turn again."""
    pictures, rounds = (24, 2) if quick else (96, 5)
    allocators: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        project = in_child("benchmarks.encode:prepare_project", {"folder": folder, "pictures": pictures})
        told = in_child("benchmarks.encode:compare", {"project": project, "rounds": rounds})
        for kept in (False, True) * rounds:
            # A process of its own each: what was told to malloc cannot be taken back.
            seconds = in_child("benchmarks.encode:vae_cpu_seconds", {"project": project, "kept": kept, "pictures": 24})
            allocators[kept].append(seconds)
        cold = in_child("benchmarks.encode:cold_start", {"project": project})
    return Result(
        "encode",
        f"Encoding {pictures} pictures of 256 px, VAE encoder of 3.6 M parameters",
        (
            *_figures(pictures, told),
            from_rounds(
                "VAE's CPU time, freed memory kept over malloc's default",
                ratios(allocators[True], allocators[False]),
                note="what torch_work saves",
            ),
            Figure("a process that encodes all, imports included", cold["seconds"], "s"),
            Figure("of it: before the first picture", cold["first"], "s", note="imports, loading, decoding"),
        ),
        {"pictures": pictures, "rounds": rounds, "vae": VAE, "threads": told["threads"], "profile": told["profile"]},
    )


def _figures(pictures: int, told: dict[str, Any]) -> list[Figure]:
    share, cpu = ratios(told["vae"], told["stage"]), ratios(told["vae_cpu"], told["stage_cpu"])
    each = f"VAE {median(told['vae_cpu']) / pictures * 1000:.0f} ms a picture"
    return [
        from_rounds("stage over VAE alone, pictures/s", share, goal=GOAL, note=_KNOWN),
        from_rounds("the same in CPU time", cpu, note=each),
        from_rounds("between first and last picture", ratios(told["vae"], told["steady"]), note=_FIXED),
        from_rounds("stage", [pictures / seconds for seconds in told["stage"]], "pictures/s"),
        from_rounds("VAE alone", [pictures / seconds for seconds in told["vae"]], "pictures/s"),
        from_rounds("SHA-256 of the model's files, once a store", told["hashed"], "s", note="not in the above"),
    ]


def prepare_project(folder: str, pictures: int) -> str:
    """Make model and pictures; return the project's path. Runs in a child."""
    root = Path(folder)
    small_sd15(root / "model")
    write_pictures(root / "data", pictures, 256)
    return str(write_project(root, {"bucket": {"resolution": 256}}))


def compare(project: str, rounds: int) -> dict[str, Any]:
    """Time the VAE over decoded pictures and the stage in an empty store, in turn. Runs in a child."""
    import torch

    from trainer_core.hardware.placement import torch_work

    told: dict[str, Any] = {name: [] for name in ("vae", "vae_cpu", "stage", "stage_cpu", "steady", "hashed")}
    with tempfile.TemporaryDirectory() as stores:
        session = _session(Path(project), Path(stores) / "first")
        vae = vae_alone(session)

        def encode() -> None:
            # With the stage's threads and allocator, or the stage would win by those.
            with torch_work(session.workspace.profile, session.project.hardware.threads):
                vae()

        encode()
        for number in range(rounds):
            done: list[float] = []
            fresh = _session(Path(project), Path(stores) / str(number), done)
            began = time.perf_counter()
            _ = fresh.workspace.fingerprints
            told["hashed"].append(time.perf_counter() - began)
            for name, work in (("vae", encode), ("stage", lambda fresh=fresh: _run_stage(fresh))):
                wall, cpu = time.perf_counter(), time.process_time()
                work()
                told[name].append(time.perf_counter() - wall)
                told[f"{name}_cpu"].append(time.process_time() - cpu)
            # From the first batch to the last, as if the stage went on for ever.
            told["steady"].append((done[-1] - done[0]) / (len(done) - 1) * len(done))
            fresh.close()
        session.close()
    return told | {"threads": torch.get_num_threads(), "profile": session.workspace.profile.name}


def vae_alone(session: Session, limit: int | None = None) -> Callable[[], None]:
    """Decode the pictures, load the VAE as the stage does, and return a function that encodes them all."""
    import numpy
    import torch

    from trainer_core.data.pictures.decode import load_rgb, to_bucket
    from trainer_core.hardware.placement import move_to_device, torch_device, torch_dtype

    profile = session.workspace.profile
    dtype, size = torch_dtype(session.workspace.precision("vae", "auto")), profile.encode_batch_size
    vae: Any = move_to_device(loading.load_vae(session.workspace.source, dtype), profile)
    samples = session.workspace.manifest.samples[:limit]
    pictures = [to_bucket(load_rgb(one.path.read_bytes()), one.geometry) for one in samples]
    batches: list[torch.Tensor] = []
    for start in range(0, len(pictures), size):
        pixels = torch.from_numpy(numpy.stack(pictures[start : start + size])).permute(0, 3, 1, 2).float()
        batches.append((pixels / 127.5 - 1).to(torch_device(profile), dtype))

    def encode() -> None:
        with torch.inference_mode():
            for pixels in batches:
                vae.encode(pixels).latent_dist.mode()

    return encode


def vae_cpu_seconds(project: str, kept: bool, pictures: int) -> float:
    """Return CPU seconds of the VAE over some pictures, with freed memory kept or not. Runs in a child."""
    from trainer_core.hardware.placement import torch_work

    with tempfile.TemporaryDirectory() as home:
        session = _session(Path(project), Path(home))
        encode = vae_alone(session, pictures)
        with torch_work(session.workspace.profile, 0) if kept else nullcontext():
            encode()
            began = time.process_time()
            encode()
            used = time.process_time() - began
        session.close()
    return used


def cold_start(project: str) -> dict[str, float]:
    """Encode all in this process, imports and all: seconds in all and until the first picture. Runs in a child."""
    began = time.perf_counter()
    told: list[float] = []
    with tempfile.TemporaryDirectory() as home:
        session = _session(Path(project), Path(home), told)
        _run_stage(session)
        session.close()
    return {"seconds": time.perf_counter() - began, "first": told[0] - began}


def _session(project: Path, home: Path, reports: list[float] | None = None) -> Session:
    """Open the project with a store of its own, its dataset validated; `reports` gets the time of each event after."""
    from trainer_core import run as pipeline
    from trainer_core.config.load import load_project
    from trainer_core.stages.project.session import Session

    times = [] if reports is None else reports
    session = Session.open(load_project(project, ()), home, lambda event: times.append(time.perf_counter()))
    pipeline.run_until(session, "validated_dataset")
    times.clear()
    return session


def _run_stage(session: Session) -> None:
    from trainer_core import run as pipeline

    result = pipeline.run_until(session, "cached_latents")[-1]
    assert result.action == "computed", "the store was empty"
