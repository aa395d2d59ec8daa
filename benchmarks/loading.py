"""Peak memory of loading a denoiser, from one file and from shards, as a multiple of the model itself."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks._common import Figure, Goal, Result, in_child

UNET: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": [192, 384, 576],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
CASES = {
    "one file, in its own precision": {"sharded": False, "dtype": "float32"},
    "shards, in their own precision": {"sharded": True, "dtype": "float32"},
    "one file, converted to bf16": {"sharded": False, "dtype": "bfloat16"},
}
MOST = Goal(1.3, "at most")


def run(quick: bool) -> Result:
    """Load the same weights in every way, each in a process of its own."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        size = in_child("benchmarks.loading:prepare", {"folder": folder, "quick": quick})
        for name, case in CASES.items():
            told = in_child("benchmarks.loading:peak_of", {"folder": folder, **case})
            note = f"{told['peak']:.0f} MiB for a model of {told['model']:.0f} MiB"
            figures.append(Figure(name, told["peak"] / told["model"], "x", MOST, note=note))
    title = "Most anonymous memory while a UNet is loaded, over the size of the loaded model"
    notes = ("Pages of the mapped file are not counted: the system takes them back when it needs them.",)
    return Result("loading", title, tuple(figures), {"unet": UNET, "file_mib": size}, notes)


def prepare(folder: str, quick: bool) -> float:
    """Save a UNet as one file and as shards; return its size in MiB. Runs in a child."""
    from diffusers import UNet2DConditionModel

    channels = [64, 128, 192] if quick else UNET["block_out_channels"]
    unet = UNet2DConditionModel(**(UNET | {"block_out_channels": channels}))
    size = sum(parameter.nbytes for parameter in unet.parameters()) / 2**20
    unet.save_pretrained(Path(folder) / "whole", max_shard_size="100GB")
    unet.save_pretrained(Path(folder) / "shards", max_shard_size=f"{int(size / 4) + 1}MB")
    return size


def peak_of(folder: str, sharded: bool, dtype: str) -> dict[str, float]:
    """Load a UNet as the stages do; return MiB at the peak beyond the imports, and of the model. Runs in a child."""
    import torch

    from trainer_core.families import get_family
    from trainer_core.families.model_source import ModelSource
    from trainer_core.families.shared import loading

    root = Path(folder)
    (root / "base").mkdir(exist_ok=True)
    link = root / "base" / "unet"
    link.unlink(missing_ok=True)
    link.symlink_to(root / ("shards" if sharded else "whole"))
    source = ModelSource(get_family("sd15").spec, root / "base", None, {})
    # Lazy modules: touching the class loads what loading needs.
    from diffusers import UNet2DConditionModel

    assert UNet2DConditionModel
    watch = _Watch()
    before = anonymous_mib()
    model = loading.load_component(source, "unet", getattr(torch, dtype))
    peak = watch.stop() - before
    return {"peak": peak, "model": sum(parameter.nbytes for parameter in model.parameters()) / 2**20}


class _Watch:
    """Looks at this process's anonymous memory every few milliseconds."""

    def __init__(self) -> None:
        self._most, self._done = anonymous_mib(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.is_set():
            self._most = max(self._most, anonymous_mib())
            time.sleep(0.002)

    def stop(self) -> float:
        """Stop looking and return the most that was seen, in MiB."""
        self._done.set()
        self._thread.join()
        return max(self._most, anonymous_mib())


def anonymous_mib() -> float:
    """Return the memory of this process that is no file's, in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) / 1024
