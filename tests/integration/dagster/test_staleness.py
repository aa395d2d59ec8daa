"""What a change makes stale in Dagster's own eyes, and what a run then computes."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable

import dagster as dg
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from lora_assets import upstream
from lora_assets.assets.stage import SOURCES
from tests.integration.dagster.conftest import PICTURES, World
from tests.unit.dagster.support import SETTINGS, STAGES, write_config
from trainer_core import run

BELOW = {"lora_checkpoint", "samples", "metrics"}


def _nothing(world: World) -> None:
    for path in [*world.data.iterdir(), *world.root.glob("base/**/*")]:
        path.touch()


def _caption(world: World) -> None:
    world.caption(1, f"a caption of its own {random.random()}")


def _picture(world: World) -> None:
    path = world.data / "2.png"
    before = path.stat()
    size = (96, 64)
    Image.frombytes("RGB", size, random.randbytes(size[0] * size[1] * 3)).save(
        world.root / "other.png", compress_level=0
    )
    with path.open("r+b") as file:
        file.write((world.root / "other.png").read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _rename(world: World) -> None:
    for ending in ("png", "txt"):
        (world.data / f"3.{ending}").rename(world.data / f"three.{ending}")


def _rate(world: World) -> None:
    write_config(world.root, settings=SETTINGS.replace("lr: 1e-2", "lr: 7e-3"))


def _swap(component: str) -> Callable[[World], None]:
    def swap(world: World) -> None:
        base = world.root / "base"
        copied = world.root / "copied"
        shutil.copytree(base, copied)
        base.unlink()
        copied.rename(base)
        (weights,) = (base / component).glob("*.safetensors")
        tensors = load_file(weights)
        name = sorted(tensors)[0]
        save_file(tensors | {name: tensors[name] + 0.02}, weights, metadata={"format": "pt"})

    return swap


def _observe(world: World) -> None:
    """Observe the sources, as the folder sensor does."""
    session = run.open_session(world.root / "configs" / "default.yaml")
    for name, version in SOURCES.items():
        world.instance.report_runless_asset_event(upstream.observation(dg.AssetKey(name), version(session)))
    session.close()


BASE_READERS = {"cached_latents", "cached_text_embeddings", "lora_checkpoint", "samples", "metrics"}


@pytest.mark.parametrize(
    ("change", "stale", "latents", "captions", "computed"),
    [
        (_nothing, set[str](), 0, 0, set[str]()),
        (_caption, {"validated_dataset"}, 0, 1, BELOW),
        (_picture, {"validated_dataset"}, 1, 0, BELOW),
        (_rename, {"validated_dataset"}, 0, 0, BELOW),
        (_rate, {"lora_checkpoint"}, 0, 0, BELOW),
        (_swap("vae"), BASE_READERS, PICTURES, 0, BELOW),
        (_swap("unet"), BASE_READERS, 0, 0, BELOW),
    ],
    ids=["touch", "caption", "picture", "rename", "rate", "vae", "unet"],
)
def test_a_change_costs_what_it_must_and_all_is_fresh_again(  # noqa: PLR0913
    world: World,
    all_fresh: dict[str, str],
    change: Callable[[World], None],
    stale: set[str],
    latents: int,
    captions: int,
    computed: set[str],
) -> None:
    world.materialize(*STAGES)
    _observe(world)
    assert world.statuses() == all_fresh
    change(world)
    _observe(world)
    assert {name for name, status in world.statuses().items() if status == "STALE"} == stale
    work = world.materialize(*STAGES)
    assert work["cached_latents"][1] == latents
    assert work["cached_text_embeddings"][1] == captions
    done = {name for name in BELOW if work[name][0] == "computed"}
    # A change to a held-out sample trains the very weights that there were: what depends on them alone is reused.
    assert done <= computed and ("lora_checkpoint" in done) == bool(computed)
    assert world.statuses() == all_fresh
