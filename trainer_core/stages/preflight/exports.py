"""Which formats of `export.formats` cannot be written for the family or the kind of adapter."""

from __future__ import annotations

from trainer_core.export.format_support import held_formats, possible_formats, unsupported_reason
from trainer_core.export.formats import written_formats
from trainer_core.stages.project.session import Session
from trainer_core.types import Finding


def format_findings(session: Session) -> list[Finding]:
    """Return an error if no file can be written, and a note if only some of those asked for."""
    asked, spec = session.project.export.formats, session.workspace.family.spec
    adapter, options = session.project.adapter, session.project.adapter_options
    written = held_formats(spec.lora, asked, adapter, options)
    refused = {
        name: unsupported_reason(name, spec.lora, adapter, options) for name in written_formats(spec.lora, asked)
    }
    if reasons := [f"{name} cannot hold it: {why}." for name, why in refused.items() if why]:
        fix = f"{', '.join(written)} will be written."
        if not written:
            fix = f"Add {' or '.join(possible_formats(spec.lora, adapter, options))}."
        return [Finding("info" if written else "error", "export.formats", " ".join(reasons), fix)]
    if not (missing := [name for name in asked if name not in written]):
        return []
    message = f"there is no {' and no '.join(missing)} file for {spec.title}."
    fix = f"{', '.join(written)} will be written." if written else "Add `diffusers`."
    return [Finding("info" if written else "error", "export.formats", message, fix)]
