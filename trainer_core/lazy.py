"""Libraries that take seconds to import, imported when they are first used (docs/adr/0013).

`from trainer_core.lazy import torch` gives a module that imports torch when one of its attributes is first read. Use it
in modules that a no-op imports, such as the specs of families. All others write `import torch`; so do modules that need
torch for a definition, for example a subclass of `nn.Module`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class LazyModule(ModuleType):
    """Stands for a library of the same name. It is a module itself, so that `torch.compile` can follow it."""

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the library, which is imported now if it was not."""
        value = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, value)  # Python finds it there the next time, without this function
        return value


if TYPE_CHECKING:
    import torch as torch
    from torch import nn as nn
    from torch.nn import functional as functional
else:
    torch = LazyModule("torch")
    nn = LazyModule("torch.nn")
    functional = LazyModule("torch.nn.functional")
