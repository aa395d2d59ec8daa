"""What a run does when memory runs out at a step: it takes the next measure and does the step again.

Noise, timesteps and dropout are functions of the micro-batch's number, and no weight changes before all gradients of a
step are there, so that the step is the same. An optimizer that runs out of memory has changed some weights already:
nothing is saved of such a step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainer_core.errors import LoraAssetsError
from trainer_core.files import append_record, read_records
from trainer_core.hardware.step_plan import Rung, StepLimits, StepPlan, next_plan

log = logging.getLogger(__name__)


@dataclass
class Ladder:
    """The plan in force, and the measures that were taken."""

    plan: StepPlan
    limits: StepLimits
    lowers: bool = True
    """Whether measures are taken; else the run stops at once."""
    record: Path | None = None
    """metrics.jsonl, where rungs are written."""
    alone: bool = True
    """Whether this is the only process: one of several cannot go on in another way than the others."""
    taken: list[Rung] = field(default_factory=list[Rung])

    def lower(self, step: int, error: str) -> StepPlan:
        """Take the next measure, and return the plan with it.

        Args:
            step: optimizer steps that are finished.
            error: what the device said.

        Raises:
            LoraAssetsError: there is none left, or `memory.on_oom` is stop. The message lists what was tried. Or
                this is one of several processes, which start again with the measure.
        """
        following = next_plan(self.plan, self.limits) if self.lowers else None
        if following is None:
            raise LoraAssetsError(self._end(step, error))
        measure, self.plan = following
        rung = Rung(step, measure, error, self.plan)
        self.taken.append(rung)
        log.warning("out of memory at step %d (%s). From here on: %s", step + 1, error, measure)
        if self.record is not None:
            append_record(self.record, {"step": step, "rung": rung.as_dict()})
        if not self.alone:
            message = (
                f"out of memory at step {step + 1} in one of several processes ({error}). All stop; they go on from "
            )
            raise LoraAssetsError(f"{message}the last checkpoint with {measure}.")
        return self.plan

    def _end(self, step: int, error: str) -> str:
        tried = "".join(f"\n  after step {rung.step}: {rung.measure}" for rung in self.taken) or "\n  nothing"
        advice = "Lower train.batch_size, adapter.rank or bucket.resolution, or set memory.base to fp8, int8 or nf4."
        if not self.lowers:
            advice = f"Set memory.on_oom to lower, and the run goes on by itself. {advice}"
        return f"out of memory at step {step + 1} ({error}). Tried:{tried}\n{advice} The last checkpoint stays."


def read_rungs(metrics: Path) -> list[Rung]:
    """Return the rungs in metrics.jsonl, in the order in which they were taken."""
    found = [record["rung"] for record in read_records(metrics) if "rung" in record]
    return [Rung(one["step"], one["measure"], one["error"], StepPlan(**one["plan"])) for one in found]


def lowered(plan: StepPlan, rungs: Sequence[Rung], limits: StepLimits) -> StepPlan:
    """Return a plan with what earlier rungs of a run found necessary, so that it need not run out of memory again."""
    for rung in rungs:
        both = plan.joined(rung.plan)
        plan = replace(
            both,
            checkpointing=both.checkpointing if limits.recomputes else plan.checkpointing,
            micro_batch=both.micro_batch if limits.splits else plan.micro_batch,
            blocks_to_swap=min(both.blocks_to_swap, max(limits.swappable, plan.blocks_to_swap)),
        )
    return plan
