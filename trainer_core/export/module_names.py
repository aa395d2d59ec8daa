"""Names of modules in LoRA files, always made from the names of live modules: taking `_` apart again is ambiguous."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from trainer_core.families.spec import FamilySpec, KeyStyle

Shape = tuple[int, ...]
CLIP_WRAPPER = "text_model."
"""First part of every name in CLIP's text encoder, which transformers 5 left out and readers of files still expect."""


@dataclass(frozen=True)
class Part:
    """Output rows of a fused module that belong to one module of diffusers."""

    name: str
    """`<component>.<module>`."""
    start: int
    stop: int


@dataclass(frozen=True)
class Modules:
    """The linear and convolutional modules of a base model's denoiser and text encoders, and its norms.

    Every name is `<component>.<module>`, as in PEFT's keys: `unet.mid_block.attentions.0.proj_in`.
    """

    spec: FamilySpec
    shapes: Mapping[str, Shape]
    """Name -> shape of its weight: [out, in], or [out, in, height, width]; [features] for a norm."""

    @cached_property
    def native(self) -> Mapping[str, tuple[Part, ...]]:
        """Module of the family's original code -> what its rows consist of; empty if the names are the same."""
        return {
            native: parts
            for template, sources in self.spec.lora.native.items()
            for native, parts in self._rows_of(template, sources)
        }

    @cached_property
    def native_of(self) -> Mapping[str, str]:
        """Name -> the module of the original code that holds it."""
        return {part.name: native for native, parts in self.native.items() for part in parts}

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Name -> the module's name in the files of others, where they have another."""
        found: dict[str, str] = {}
        for theirs, ours in self.spec.lora.also_read.items():
            start = self._prefix + ours
            for name in self.shapes:
                if name == start or name.startswith(f"{start}."):
                    found[name] = theirs + name.removeprefix(start)
        return found

    def peft(self, name: str) -> str:
        """Return the name in PEFT's keys."""
        component, module = split(name)
        return f"{component}.{self._wrapped(component, module)}"

    def kohya(self, name: str) -> str:
        """Return the name in kohya's keys, where modules have their names of diffusers."""
        component, module = split(name)
        return f"{self._kohya_prefix(component)}_{flat(self._wrapped(component, module))}"

    def key(self, name: str, style: KeyStyle) -> str:
        """Return the name in keys of a style of the module that holds this one, without the tensor's ending."""
        native = self.native_of.get(name)
        if style == "peft" or split(name)[0] != self.spec.denoiser:
            return self.kohya(name) if style == "kohya" else self.peft(name)
        if style == "kohya":
            return f"lora_unet_{flat(native)}" if native else self.kohya(name)
        return f"diffusion_model.{native or split(name)[1]}"

    def all_names(self) -> Mapping[str, tuple[Part, ...]]:
        """Return every name under which files of any trainer may hold a module -> what it is made of."""
        found = {f"diffusion_model.{native}": parts for native, parts in self.native.items()}
        found |= {f"lora_unet_{flat(native)}": parts for native, parts in self.native.items()}
        for name, shape in self.shapes.items():
            for other in self._names_of(name):
                found.setdefault(other, (Part(name, 0, shape[0]),))
        return found

    def comfyui_names(self) -> frozenset[str]:
        """Return the names that ComfyUI maps to a weight, by its documented rules.

        For every model: `lora_unet_` + the flattened name, and `diffusion_model.` + the name, of a module in the
        original code. For UNets also `lora_unet_` + diffusers' name, flattened; for transformers whose modules it knows
        in diffusers, `transformer.` + that name. For CLIP `lora_te1_text_model_...` and `text_encoder.text_model...`.
        """
        style, own = self.spec.lora.comfyui, [name for name in self.shapes if name.startswith(self._prefix)]
        if style is None:
            return frozenset()
        known = [name for name in own if not self.native or name in self.native_of]
        modules = [split(name)[1] for name in known]
        originals = [*self.native, *self.aliases.values()] if style == "kohya" or self.native else modules
        found = {f"diffusion_model.{one}" for one in originals} | {f"lora_unet_{flat(one)}" for one in originals}
        if style == "peft":
            found |= set(known)
        elif not self.native:
            found |= {f"lora_unet_{flat(one)}" for one in modules}
        text = [name for name in self.shapes if not name.startswith(self._prefix)]
        return frozenset(found | {self.kohya(name) for name in text} | {self.peft(name) for name in text})

    def _rows_of(self, template: str, sources: tuple[str, ...]) -> list[tuple[str, tuple[Part, ...]]]:
        """Return (module, parts) for every number that fits a row of `LoraNames.native`."""
        pattern = re.compile(r"(\d+)".join(re.escape(piece) for piece in f"{self._prefix}{sources[0]}".split("{}")))
        found: list[tuple[str, tuple[Part, ...]]] = []
        for name in self.shapes:
            if (match := pattern.fullmatch(name)) is None:
                continue
            names = [self._prefix + source.format(*match.groups()) for source in sources]
            if not all(one in self.shapes for one in names):
                continue
            parts, start = list[Part](), 0
            for one in names:
                parts.append(Part(one, start, start + self.shapes[one][0]))
                start = parts[-1].stop
            found.append((template.format(*match.groups()), tuple(parts)))
        return found

    def _names_of(self, name: str) -> list[str]:
        component, module = split(name)
        if component != self.spec.denoiser:
            forms = dict.fromkeys((module, self._wrapped(component, module)))
            # lora_te_ is written where there is one CLIP, lora_te1_ where there are several
            known = (self._kohya_prefix(component), *(("lora_te", "lora_te1") if component == "text_encoder" else ()))
            dotted = [f"{component}.{form}" for form in forms]
            return dotted + [f"{prefix}_{flat(form)}" for prefix in known for form in forms]
        forms = [module, self.aliases[name]] if name in self.aliases else [module]
        dotted = ["", f"{component}.", "diffusion_model.", "base_model.model."]
        flattened = ["lora_unet_", "lora_transformer_", "lycoris_"]
        return [
            *(prefix + form for prefix in dotted for form in forms),
            *(prefix + flat(form) for prefix in flattened for form in forms),
        ]

    def _wrapped(self, component: str, module: str) -> str:
        known = self.spec.components.get(component)
        is_clip = known is not None and known.loader.startswith("CLIPText")
        outside = module.startswith((CLIP_WRAPPER, "text_projection"))
        return module if not is_clip or outside else CLIP_WRAPPER + module

    def _kohya_prefix(self, component: str) -> str:
        return (
            "lora_unet"
            if component == self.spec.denoiser
            else self.spec.lora.text_encoders.get(component, f"lora_{component}")
        )

    @property
    def _prefix(self) -> str:
        return f"{self.spec.denoiser}."


def split(name: str) -> tuple[str, str]:
    """Return (component, module) of a name."""
    component, _, module = name.partition(".")
    return component, module


def flat(module: str) -> str:
    """Return a module's name as kohya's keys write it."""
    return module.replace(".", "_")
