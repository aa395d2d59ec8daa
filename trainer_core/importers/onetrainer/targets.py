"""What OneTrainer's layer filters adapt, as `adapter.targets`.

A filter is a list of parts of module names; a Linear or a convolution is adapted if one of them is in its name.
Sources: modules/module/LoRAModule.py, modules/util/ModuleFilter.py, and `LAYER_PRESETS` of
modules/modelSetup/Base*Setup.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from trainer_core.importers.core.convert import truth
from trainer_core.importers.core.key_table import Context, Conversion, changed, dropped, refused
from trainer_core.importers.core.targets import transformer_blocks
from trainer_core.types import JSON

_UNET = {"attn-mlp": "attentions", "attn-only": "attn"}
_FLUX = {"attn-mlp": "attn,ff.net,proj_mlp", "attn-only": "attn", "blocks": "transformer_block"}
FILTERS: Mapping[str, Mapping[str, str]] = {
    "sd15": _UNET,
    "sdxl": _UNET,
    "sd3": {"attn-only": "attn", "blocks": "transformer_block"},
    "flux1": _FLUX,
    "chroma": _FLUX,
    "flux2": {"blocks": "transformer_block"},
    "qwen_image": {"attn-mlp": "attn,img_mlp,txt_mlp", "attn-only": "attn", "blocks": "transformer_block"},
    "sana": {"attn-mlp": "attn1,attn2,ff.", "attn-only": "attn1,attn2", "blocks": "transformer_block"},
    "z_image": {"attn-mlp": "layers.*(attention|feed_forward)", "attn-only": "layers.*attention", "blocks": "layers"},
}
"""Family -> preset -> its filter. `full` has none. Z-Image's leave out the refiners."""
_PRESETS: Mapping[str, str] = {
    "attn": "attention",
    "attn1,attn2": "attention",
    "attn1,attn2,ff.": "attention+mlp",
    "attn,img_mlp,txt_mlp": "attention+mlp",
}
"""Filters that are presets of ours."""
_WHOLE = "It adapts the embedders and the last layer too; ours the blocks."


def of_preset(value: JSON, context: Context) -> Conversion:
    """Return what `layer_filter_preset` adapts."""
    if context.get("layer_filter"):
        return dropped("`layer_filter` is used instead of it.")
    if str(value) == "full":
        return _everything(context)
    known = FILTERS.get(context.family, {}).get(str(value))
    if known is None:
        return refused("Write the modules that it adapts in `adapter.targets`: a regex over module names.")
    return _of(known, context, regex=context.family == "z_image")


def of_filter(value: JSON, context: Context) -> Conversion:
    """Return what `layer_filter` adapts."""
    return _of(str(value), context, truth(context.get("layer_filter_regex")))


def _everything(context: Context) -> Conversion:
    if not context.flow:
        return Conversion({"adapter.targets": ".*"}, note="It adapts the whole UNet.")
    return changed(transformer_blocks(context.family).settings, _WHOLE)


def _of(written: str, context: Context, regex: bool) -> Conversion:
    parts = [part.strip() for part in written.split(",") if part.strip()]
    known = ",".join(parts)
    if known in ("transformer_block", "attentions"):
        return transformer_blocks(context.family)
    if known in _PRESETS:
        return Conversion({"adapter.targets": _PRESETS[known]})
    inner = "|".join(parts if regex else [re.escape(part) for part in parts])
    settings: dict[str, JSON] = {"adapter.targets": f".*({inner}).*"}
    if context.flow:
        return Conversion(settings, note="The parts of names became one regex.")
    note = "The same parts of names as one regex; set `adapter.conv_rank` if convolutions larger than 1x1 are meant."
    return changed(settings, note)
