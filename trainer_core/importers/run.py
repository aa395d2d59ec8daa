"""From a foreign config file to a project's YAML file and a report: detect, read, convert, check, write."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer_core.adapters.settings import adapter_findings
from trainer_core.config.load import load_project
from trainer_core.config.project import Project
from trainer_core.config.rules import check_rules
from trainer_core.errors import ConfigError
from trainer_core.families import family_names, get_family
from trainer_core.families.facts import family_facts
from trainer_core.files import write_atomic
from trainer_core.importers.core.convert import model_path
from trainer_core.importers.core.emit import render
from trainer_core.importers.core.engine import MISSHAPEN, Chosen, Draft, Entry, compose
from trainer_core.importers.core.key_table import Context
from trainer_core.importers.core.report import ImportReport
from trainer_core.importers.core.tool_config import DetectedFamily, ImportFailed, Loaded, Source, Tool, failure, load
from trainer_core.importers.tools import TOOLS
from trainer_core.types import JSON, Finding

_TRIES = 6
"""How often a draft is mended before it is given up."""


@dataclass(frozen=True)
class Request:
    """What `lora-assets import` was asked for."""

    file: Path
    out: Path | None = None
    tool: str | None = None
    dataset: Path | None = None
    family: str | None = None
    model: str | None = None
    """The base model in place of what the config says."""
    force: bool = False


def run_import(request: Request) -> ImportReport:
    """Convert a config and write the project; nothing is written if anything that is needed is missing.

    Raises:
        ImportFailed: with one finding for each thing that is missing or wrong.
    """
    folder = request.dataset if request.dataset and request.dataset.is_dir() else None
    loaded = Loaded(request.file, load(request.file), None if folder else request.dataset, folder)
    tool, detected_by = detect(loaded.data, request.tool, request.file)
    source = _read(tool, loaded)
    if request.family:
        source = replace(source, family=_asked(request.family))
    name = project_name(source.name or request.file.stem)
    target = request.out or Path("configs") / f"{name}.yaml"
    if target.suffix not in (".yaml", ".yml"):
        target = target.with_name(f"{target.name}.yaml")
    _free(target, request.force)
    _stop(_missing(source))
    folder = Path(os.path.abspath(target.parent))
    draft = compose(source, target, _roots(request.file))
    if request.model:
        context = Context({}, source.family.family, False, folder, [Path.cwd()])
        draft.settings["model.path"] = Chosen(model_path(request.model, context), "--model")
    _name_model(draft, source, name if request.out is None else target.stem)
    _stop(_incomplete(draft, source))
    text, project = _checked(draft, tool, request.file, folder, target)
    for file_name, content in draft.files.items():
        _free(target.with_name(file_name), request.force)
        _write(target.with_name(file_name), content)
    _write(target, text)
    findings = [*draft.findings, *_conflicts(project), *_without_configs(draft), *_unseen(draft, folder)]
    return ImportReport(
        tool.name,
        detected_by,
        source.family.family,
        source.family.by,
        str(request.file),
        str(target),
        text,
        draft.entries,
        findings,
    )


def detect(data: JSON, asked: str | None, file: Path) -> tuple[Tool, str]:
    """Return the tool a config belongs to, and by what it is known.

    Raises:
        ImportFailed: none knows it, or `asked` is no tool.
    """
    known = ", ".join(TOOLS)
    if asked:
        if asked not in TOOLS:
            raise failure("--from", f"`{asked}` is not a tool whose configs can be read.", f"Choose one of {known}.")
        return TOOLS[asked], "--from"
    for tool in TOOLS.values():
        if by := tool.recognise(data):
            return tool, by
    message = "has no keys by which one of the known tools is recognised."
    raise failure(str(file), message, f"If it is a config of one of them, name the tool with --from: {known}.")


def project_name(text: str) -> str:
    """Make a name that a project may have of any text."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-._")[:100].rstrip("-._")
    return re.sub(r"^[^A-Za-z0-9]+", "", plain) or "imported"


def _read(tool: Tool, loaded: Loaded) -> Source:
    try:
        source = tool.read(loaded)
        # A section that is no group of keys shows here, not in the middle of the work.
        for section in (source.top, *source.datasets):
            section.values.get("")
        return source
    except MISSHAPEN as error:
        message = f"is not built as a config of {tool.title} ({error})."
        raise failure(str(loaded.path), message, f"Compare it with an example config of {tool.title}.") from error


def _asked(family: str) -> DetectedFamily:
    known = family_names()
    if family not in known:
        raise failure("--family", f"`{family}` is not a family.", f"Choose one of {', '.join(known)}.")
    return DetectedFamily(family, "--family")


def _roots(file: Path) -> list[Path]:
    """Where relative paths may start: the current folder, as with the tools themselves, or the file's own."""
    return list(dict.fromkeys([Path.cwd(), Path(os.path.abspath(file.parent))]))


def _free(target: Path, force: bool) -> None:
    if target.is_dir():
        raise failure(str(target), "is a folder.", "Give the name of a YAML file with -o.")
    if target.exists() and not force:
        raise failure(str(target), "exists already.", "Give another name with -o, or add --force to overwrite it.")


def _stop(findings: Sequence[Finding]) -> None:
    if findings:
        raise ImportFailed(findings)


def _missing(source: Source) -> list[Finding]:
    detected = source.family
    if detected.family:
        return []
    if detected.problem and not detected.problem.startswith("cannot be detected"):
        return [
            Finding(
                "error",
                "model.family",
                detected.problem,
                f"We train {', '.join(family_names())}. Train this one with its own tool.",
            )
        ]
    fix = f"Name it with --family: {', '.join(family_names())}."
    return [Finding("error", "model.family", detected.problem or "cannot be detected from the config.", fix)]


def _name_model(draft: Draft, source: Source, stem: str) -> None:
    detected = source.family
    draft.settings["model.family"] = Chosen(detected.family, "", f"detected by {detected.by}")
    if detected.guessed:
        fix = "Correct `model.family`, or import again with --family."
        draft.findings.append(
            Finding("warning", "model.family", f"is {detected.family}, which is a guess by {detected.by}.", fix)
        )
    if source.name and project_name(source.name) != stem:
        draft.settings["save.output_name"] = Chosen(project_name(source.name), "", "what the source calls its LoRA")
    if source.name and project_name(source.name) != source.name:
        message = (
            f"is `{project_name(source.name)}`: `{source.name}` has characters that the name of a project may not have."
        )
        draft.findings.append(Finding("info", "name", message, "Rename the file if you like."))


def _incomplete(draft: Draft, source: Source) -> list[Finding]:
    found = [finding for finding in draft.findings if finding.level == "error"]
    if "model.path" not in draft.settings:
        found.append(
            Finding("error", "model.path", "is missing: the config names no base model.", "Give it with --model.")
        )
    if not draft.datasets:
        fix = "Give the folder, or the file that lists folders, with --dataset."
        found.append(Finding("error", "datasets", "is missing: the config names no folder of pictures.", fix))
    for number, dataset in enumerate(draft.datasets):
        if "path" not in dataset:
            message = "is missing: this part of the config names no folder of pictures."
            found.append(
                Finding(
                    "error",
                    f"datasets.{number}.path",
                    message,
                    "Add the folder to that part, or give one with --dataset.",
                )
            )
    return found


def _checked(draft: Draft, tool: Tool, file: Path, folder: Path, target: Path) -> tuple[str, Project]:
    """Render the draft until it loads: what we do not allow, alone or beside the rest, is taken out and reported."""
    for _ in range(_TRIES):
        text = render(draft, tool.title, file.name)
        with tempfile.TemporaryDirectory(prefix="lora-assets-import-") as work:
            path = Path(work) / f"{project_name(target.stem)}.yaml"
            path.write_text(text, encoding="utf-8")
            try:
                project = load_project(path)
            except ConfigError as error:
                rest = [finding for finding in error.findings if not _take_out(draft, finding)]
                _stop(rest)
                continue
            if not any([_take_out(draft, one) for one in _conflicts(project) if one.level == "error"]):
                return text, project
    raise failure(str(file), "cannot be made into a valid project.", "Please report this, with the file.")


def _conflicts(project: Project) -> list[Finding]:
    """Return what `check` would say of the settings."""
    facts = family_facts(get_family(project.model.family).spec)
    return [*check_rules(project, facts), *adapter_findings(project.adapter, project.adapter_options)]


def _take_out(draft: Draft, finding: Finding) -> bool:
    """Remove a refused setting from the draft and report it. Return whether that was possible."""
    parts = finding.field.split(".")
    holder: dict[str, Chosen] = draft.settings
    key = ".".join(parts[:2])
    if parts[0] == "datasets" and len(parts) > 2 and parts[1].isdecimal():
        holder, key = draft.datasets[int(parts[1])], parts[2]
    if key in ("path", "model.path", "model.family") or key not in holder:
        return False
    gone = holder.pop(key)
    note = f"Our `{key}` {finding.message} {finding.fix} It was left out."
    note = re.sub(r" \([^()]*\.yaml:\d+\)", "", note)
    # What the report said of this key before is no longer true.
    draft.entries = [entry for entry in draft.entries if entry.key != gone.key]
    draft.entries.append(Entry("unsupported", gone.key, gone.value, {}, note, gone.default))
    return True


def _write(target: Path, text: str) -> None:
    """Publish the file at once: temp, fsync, rename."""
    try:
        write_atomic(target, text)
    except OSError as error:
        raise failure(str(target), f"cannot be written: {error}.", "Give another path with -o.") from error


def _without_configs(draft: Draft) -> list[Finding]:
    """Warn of a single file as the base: the tools bring the configs and tokenizers that it lacks, we do not."""
    path = str(draft.settings["model.path"].value)
    if Path(path).suffix not in (".safetensors", ".ckpt", ".pt") or "model.config_path" in draft.settings:
        return []
    fix = "Give a diffusers-format folder of the same kind of model, or its id on the hub; it needs no weights."
    message = "is not set, but the base is a single file, which has no configs and no tokenizers."
    return [Finding("warning", "model.config_path", message, fix)]


_FILES = ("model.path", "model.vae_path", "model.text_encoder_paths", "adapter.init_from", "sample.prompt_file")
_PATHS: Mapping[str, str] = {"path": "the pictures", "mask_path": "the masks"}


def _unseen(draft: Draft, folder: Path) -> list[Finding]:
    """Warn of paths where nothing is: they may be of another machine."""
    found: list[tuple[str, JSON]] = []
    for number, dataset in enumerate(draft.datasets):
        names = [*_PATHS, "control_path"]
        found += [(f"datasets.{number}.{name}", dataset[name].value) for name in names if name in dataset]
    for setting in _FILES:
        if setting in draft.settings:
            found.append((setting, draft.settings[setting].value))
    findings: list[Finding] = []
    for setting, value in found:
        for one in value if isinstance(value, list) else [value]:
            if setting == "model.path" and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(one)):
                continue
            if not (folder / Path(str(one)).expanduser()).exists():
                fix = "Correct the path before you train."
                findings.append(Finding("warning", setting, f"is {one}, which does not exist.", fix))
    return findings
