"""Model families, by name. A module of `families/models` that defines `FAMILY` is a family, named as its module is.

Importing a family imports no torch: the spec is read on every no-op.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from difflib import SequenceMatcher

from trainer_core.errors import ModelError
from trainer_core.families import models
from trainer_core.families.family import Family
from trainer_core.families.spec import FamilySpec


def family_names() -> tuple[str, ...]:
    """Return the names of all families, in alphabetical order."""
    return tuple(sorted(name for name in _modules() if _family(name) is not None))


def get_family(name: str) -> Family:
    """Return a family by name.

    Raises:
        ModelError: There is no such family; the message proposes the nearest name.
    """
    family = _family(name) if name in _modules() else None
    if family is None:
        known = family_names()
        near = " or ".join(f"`{each}`" for each in _nearest(name, known))
        hint = f"Did you mean {near}?" if near else "Choose one of them."
        raise ModelError(f"model.family: `{name}` is not a known family ({', '.join(known)}). {hint}")
    return family


def with_spec(family: Family, spec: FamilySpec) -> Family:
    """Return a family as one of its variants."""
    return replace(family, spec=spec)  # type: ignore[type-var]


def family_of_pipeline(name: str) -> Family | None:
    """Return the family, as the variant, that renders with a diffusers pipeline of this class name, if there is one."""
    for family in map(get_family, family_names()):
        for spec in (family.spec, *family.spec.variants):
            if spec.pipeline == name:
                return with_spec(family, spec)
    return None


def _nearest(name: str, known: tuple[str, ...]) -> list[str]:
    """Return the known names nearest to a misspelt one; several if they are equally near."""
    plain = name.lower().replace("-", "").replace("_", "").replace(".", "")
    likeness = {each: SequenceMatcher(None, plain, each.replace("_", "")).ratio() for each in known}
    best = max(likeness.values())
    return [each for each in known if likeness[each] == best] if best >= 0.4 else []


def _modules() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(models.__path__)]


def _family(name: str) -> Family | None:
    return getattr(importlib.import_module(f"{models.__name__}.{name}"), "FAMILY", None)
