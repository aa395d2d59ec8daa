"""Turns a stage of trainer_core into an asset. The modules beside this one describe one asset each."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import dagster as dg

from lora_assets import catalog, conditions, upstream
from lora_assets.assets.progress import Progress
from lora_assets.overrides import RunSettings, overrides_of_run
from lora_assets.projects import ProjectAssets, tag_value
from lora_assets.resources import HardwareResource, StoreResource
from trainer_core.config.native import without_base
from trainer_core.config.reads import slice_key
from trainer_core.errors import Interrupted, LoraAssetsError
from trainer_core.families import get_family
from trainer_core.run import StageResult, run_until
from trainer_core.stages import STAGES
from trainer_core.stages.project.session import Session
from trainer_core.store.keys import digest

GPU_POOL = "gpu"
DATASET_FOLDER = "dataset_folder"
BASE_MODEL = "base_model"

_RESOLUTION = {"bucket", "bucket.resolution"}
"""Either is what a stage declares whose result depends on the resolution."""

SOURCES: Mapping[str, Callable[[Session], str]] = {
    DATASET_FOLDER: lambda session: session.workspace.scanned.folder_version,
    BASE_MODEL: lambda session: session.workspace.base.version,
}
"""Source -> its data version."""


@dataclass(frozen=True)
class Finished:
    """A stage that is up to date."""

    session: Session
    result: StageResult


@dataclass(frozen=True)
class Verdict:
    """Outcome of a check."""

    passed: bool
    description: str
    metadata: upstream.Metadata = field(default_factory=dict[str, dg.MetadataValue])
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR


@dataclass(frozen=True)
class Check:
    """Something that must hold of a result before others build on it."""

    name: str
    description: str
    run: Callable[[Finished], Verdict]
    blocking: bool = True

    def spec(self, key: dg.AssetKey) -> dg.AssetCheckSpec:
        """Return Dagster's form of it."""
        return dg.AssetCheckSpec(self.name, asset=key, description=self.description, blocking=self.blocking)

    def result(self, key: dg.AssetKey, verdict: Verdict) -> dg.AssetCheckResult:
        """Return a verdict in Dagster's form, as the step of the asset itself gives it."""
        return dg.AssetCheckResult(
            asset_key=key,
            check_name=self.name,
            passed=verdict.passed,
            severity=verdict.severity,
            description=verdict.description,
            metadata=verdict.metadata,
        )

    def evaluation(self, key: dg.AssetKey, verdict: Verdict) -> dg.AssetCheckEvaluation:
        """Return a verdict in Dagster's form, for a parent that was made in another asset's step."""
        return dg.AssetCheckEvaluation(
            asset_key=key,
            check_name=self.name,
            passed=verdict.passed,
            severity=verdict.severity,
            description=verdict.description,
            metadata=verdict.metadata,
            blocking=self.blocking,
        )


@dataclass(frozen=True)
class StageAsset:
    """A stage as an asset."""

    name: str
    kinds: frozenset[str]
    sources: tuple[str, ...]
    parents: tuple["StageAsset", ...]
    describe: Callable[[Finished], upstream.Metadata]
    check: Check
    more_checks: tuple[Check, ...] = ()
    pool: str | None = GPU_POOL

    @property
    def checks(self) -> tuple[Check, ...]:
        """All that must hold of it."""
        return (self.check, *self.more_checks)

    def build(self, project: ProjectAssets) -> dg.AssetsDefinition:
        """Return the asset of one project."""
        key = project.key(self.name)

        @dg.asset(
            key=key,
            deps=self.deps(project),
            group_name=project.group,
            description=STAGES[self.name].description,
            kinds=set(self.kinds),
            tags=project.tags,
            owners=list(catalog.owners()),
            freshness_policy=catalog.freshness_policy(),
            metadata={"config": dg.MetadataValue.path(project.path), "family": project.project.model.family},
            code_version=self.code_version(project),
            op_tags={conditions.CODE_VERSION: self.code_version(project)},
            check_specs=[check.spec(key) for check in self.checks],
            automation_condition=conditions.when_stale(),
            pool=self.pool,
        )
        def stage(
            context: dg.AssetExecutionContext, config: RunSettings, store: StoreResource, hardware: HardwareResource
        ) -> dg.MaterializeResult:
            with _errors_for_dagster(), Progress(context, project, self.name) as progress:
                overrides = overrides_of_run(context.run.run_config, project, STAGES)
                step = _Step(context, project, project.with_overrides(overrides), overrides, upstream.Journal(context))
                step.tag_run()
                with store.session(project.path, (*hardware.overrides(), *overrides), progress, fetch=True) as session:
                    return _bring_up_to_date(step, self, session)

        return stage

    def deps(self, project: ProjectAssets) -> list[dg.AssetKey]:
        """Return the keys of everything that its result is made from."""
        return [project.key(name) for name in (*self.sources, *(parent.name for parent in self.parents))]

    def code_version(self, project: ProjectAssets) -> str:
        """Return what changes when the stage's code or a setting that decides its result does.

        A bucket side that is not given is the base's own. The base is not opened here: it may be fetched later, and
        definitions must load fast. So such a side counts as the family's default, never as the same number given: that
        number may be another than the base's. A base with another side of its own is another `base_model`.
        """
        stage, spec = STAGES[self.name], get_family(project.project.model.family).spec
        settings, default = without_base(project.project, spec.resolution)
        parts = [slice_key(settings, stage.keyed), stage.code(spec)]
        if default is not None and _RESOLUTION & set(stage.keyed):
            parts.append(default)
        return f"{stage.version}-{digest(parts)[:12]}"

    def ancestors(self) -> dict[str, "StageAsset"]:
        """Return all stages above it by name, parents first."""
        ancestors: dict[str, StageAsset] = {}
        for parent in self.parents:
            ancestors |= parent.ancestors() | {parent.name: parent}
        return ancestors


@dataclass(frozen=True)
class _Step:
    """The execution of one asset."""

    context: dg.AssetExecutionContext
    own: ProjectAssets
    """The project by its own settings."""
    project: ProjectAssets
    """The project by the settings of this run."""
    overrides: Sequence[str]
    journal: upstream.Journal

    def tag_run(self) -> None:
        """Tag the run with its project and overrides, to filter runs by."""
        tags = dict(self.own.tags) | ({conditions.OVERRIDES: "; ".join(self.overrides)} if self.overrides else {})
        missing = {name: value for name, value in tags.items() if name not in self.context.run.tags}
        if missing:
            self.context.instance.add_run_tags(self.context.run.run_id, missing)

    def tags(self, asset: StageAsset) -> dict[str, str]:
        """Return the tags of a result: its code version, and the overrides if they decide the result."""
        own, actual = asset.code_version(self.own), asset.code_version(self.project)
        if own == actual:
            return upstream.code_version_tags(own)
        overridden = {conditions.OVERRIDES: tag_value("; ".join(self.overrides)), conditions.CODE_VERSION: own}
        return upstream.code_version_tags(actual) | overridden


def _bring_up_to_date(step: _Step, asset: StageAsset, session: Session) -> dg.MaterializeResult:
    """Run a stage, and before it whatever above it is stale; a stage that is fresh is only checked."""
    ancestors = asset.ancestors()
    above = (asset, *ancestors.values())
    for source in (name for name in SOURCES if any(name in each.sources for each in above)):
        step.journal.observed(step.project.key(source), SOURCES[source](session))

    def on_result(result: StageResult) -> None:
        _log_result(step.context, result)
        if result.name in ancestors:
            _record_parent(step, ancestors[result.name], Finished(session, result))

    finished = Finished(session, run_until(session, asset.name, on_result)[-1])
    key = step.project.key(asset.name)
    return dg.MaterializeResult(
        asset_key=key,
        data_version=dg.DataVersion(finished.result.data_version),
        metadata=_metadata(step, asset, finished),
        tags=step.journal.provenance(asset.deps(step.project)) | step.tags(asset),
        check_results=[check.result(key, check.run(finished)) for check in asset.checks],
    )


def _record_parent(step: _Step, parent: StageAsset, finished: Finished) -> None:
    """Log a parent that Dagster does not know in this state, and run its checks as its own step would."""
    key, deps, tags = step.project.key(parent.name), parent.deps(step.project), step.tags(parent)
    if not step.journal.is_news(key, deps, tags, finished.result.data_version):
        # Known in this state, so its checks were run when it became so; what failed then fails now.
        for check in parent.checks:
            _refuse(parent, check, check.run(finished))
        return
    step.journal.materialized(key, deps, tags, _metadata(step, parent, finished))
    verdicts = [(check, check.run(finished)) for check in parent.checks]
    for check, verdict in verdicts:
        step.context.instance.report_runless_asset_event(check.evaluation(key, verdict))
    for check, verdict in verdicts:
        _refuse(parent, check, verdict)


def _refuse(parent: StageAsset, check: Check, verdict: Verdict) -> None:
    """Stop what is below a parent whose blocking check failed."""
    if check.blocking and not verdict.passed and verdict.severity == dg.AssetCheckSeverity.ERROR:
        message = f"{parent.name}: check {check.name} failed: {verdict.description}"
        raise dg.Failure(message, metadata=dict(verdict.metadata), allow_retries=False)


def _metadata(step: _Step, asset: StageAsset, finished: Finished) -> dict[str, dg.MetadataValue]:
    result = finished.result
    overrides = {"overrides": dg.MetadataValue.json(list(step.overrides))} if step.overrides else {}
    work: dict[str, dg.MetadataValue] = {
        "action": dg.MetadataValue.text(result.action),
        "items_computed": dg.MetadataValue.int(result.items_computed),
        "items_reused": dg.MetadataValue.int(result.items_reused),
        "seconds": dg.MetadataValue.float(round(result.seconds, 3)),
    }
    return dict(asset.describe(finished)) | work | overrides


def _log_result(context: dg.AssetExecutionContext, result: StageResult) -> None:
    context.log.info(f"{result.name}: {_outcome(result)}, in {result.seconds:.2f} s")
    if result.settled:
        decision = "promoted" if result.settled["promoted"] else "not promoted"
        context.log.info(f"{result.name}: {decision}: {'; '.join(result.settled['reasons'])}")


def _outcome(result: StageResult) -> str:
    """Say what a stage did, in words that agree with its counts."""
    if result.action == "reused":
        return "reused, nothing changed"
    if not result.items_computed:
        return f"put together again from {result.items_reused} items that were known already"
    return f"computed {result.items_computed} items" + (f", reused {result.items_reused}" * bool(result.items_reused))


@contextmanager
def _errors_for_dagster() -> Generator[None]:
    """Turn our errors into Dagster's: a failure that is not tried again, or a run that was stopped."""
    try:
        yield
    except Interrupted as error:
        # Without its cause: a run that somebody stopped has no error to look for.
        raise upstream.RunInterrupted(str(error)) from None
    except LoraAssetsError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
