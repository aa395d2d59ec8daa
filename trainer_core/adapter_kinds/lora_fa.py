"""LoRA-FA: a LoRA whose down matrix stays as it began, which halves the optimizer's state (arXiv 2308.03303).

What is trained is B of B A. Files hold both matrices, as a plain LoRA.
"""

from __future__ import annotations

from dataclasses import replace

from trainer_core.adapter_kinds.kind import FACTORED, TRAINS_NORMS, AdapterKind
from trainer_core.adapter_kinds.low_rank import DOWN, FILE_KIND, LAYER

LAYERS = {"lora-fa": replace(LAYER, fixed=LAYER.fixed | {DOWN}, marks=(), ends=(), in_files=FILE_KIND)}
ADAPTERS = (
    AdapterKind("lora-fa", "lora-fa", FACTORED | TRAINS_NORMS, two_matrices=False, product=True, kohya_algo=None),
)
