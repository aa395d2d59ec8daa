"""Which modules the tools adapt, as our `adapter.targets`; tests/unit/importers/test_targets.py counts them.

Sources: sd-scripts networks/lora.py, lora_flux.py and lora_sd3.py; ai-toolkit toolkit/lora_special.py; OneTrainer
modules/modelSetup/Base*Setup.py (LAYER_PRESETS); LyCORIS lycoris/config.py; SimpleTuner helpers/models/*/model.py;
diffusion-pipe models/base.py and models/sdxl.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.importers.core.key_table import Conversion, changed
from trainer_core.types import JSON

TRANSFORMER_BLOCKS: Mapping[str, str] = {
    "sd15": "all-linear+conv1x1",
    "flux1": "all-linear+modulation",
    "qwen_image": "all-linear+modulation",
    "qwen_image_edit": "all-linear+modulation",
}
"""Family -> every Linear and 1x1 convolution of its transformer blocks. `all-linear` for other families."""

DOUBLE_ATTENTION = r"transformer_blocks\.\d+\.attn\..*"
"""The attention of FLUX.1's double blocks alone."""
WITHOUT_MODULATION = frozenset({"sd3", "lumina2", "z_image", "kandinsky5"})
"""Families whose blocks have modulation layers that no preset of ours adapts."""
_NO_MODULATION = "It adapts the blocks' modulation layers too; ours for this family does not."


def transformer_blocks(family: str, note: str = "") -> Conversion:
    """Return what adapts all of a model's transformer blocks: kohya's, ai-toolkit's and diffusion-pipe's way."""
    settings: dict[str, JSON] = {"adapter.targets": TRANSFORMER_BLOCKS.get(family, "all-linear")}
    if family in WITHOUT_MODULATION:
        return changed(settings, _NO_MODULATION)
    return Conversion(settings, note=note)


def unet_blocks() -> Conversion:
    """Return what adapts all of a UNet's blocks, its ResNets included: kohya's way with `conv_dim`."""
    return Conversion({"adapter.targets": "unet-blocks"}, note="With convolutions it adapts the ResNets as well.")
