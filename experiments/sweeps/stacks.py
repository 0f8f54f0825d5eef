"""From trials to jobs: which trials are trained together, as a stack."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ..records import Status, TrialRecord
from ..training import Job
from ..trial import Perceptron, Trial, short_hash

OWN = ("lr", "weight_decay", "seed")  # what the trials of a stack may differ in


def jobs(records: Sequence[TrialRecord], limit: int, slots: int) -> list[Job]:
    """Put every pending trial into a job.

    Trials that were stacked before stay in that stack, whatever ``limit`` says, and so do those of it that have a
    result already: the stack's checkpoint is of all of them.

    Args:
        records: all trials of the sweep.
        limit: most trials of a stack; 1 trains each alone.
        slots: how many jobs run at a time. Trials that could be one stack are divided so that every slot has work.
    """
    groups: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in records:
        if record.status is Status.PENDING and record.stack is None:
            trial = Trial.model_validate(record.spec)
            shared = {key: value for key, value in record.spec.items() if key not in OWN}
            # A trial that was begun alone has a checkpoint of its own.
            alone = limit == 1 or record.started or not can_be_stacked(trial)
            groups[record.id if alone else short_hash(shared)].append(record)
    begun = [
        _job(name, members)
        for name, members in _stacks(records).items()
        if any(member.status is Status.PENDING for member in members)
    ]
    new = [_named({r.id: r.spec for r in part}) for group in groups.values() for part in _divided(group, limit, slots)]
    return begun + new


def jobs_over(records: Sequence[TrialRecord]) -> list[Job]:
    """The jobs all of whose trials have a result."""
    alone = [_named({record.id: record.spec}) for record in records if record.status.is_result and not record.stack]
    stacks = _stacks(records).items()
    return alone + [_job(name, members) for name, members in stacks if all(m.status.is_result for m in members)]


def halves(specs: dict[str, dict[str, Any]]) -> list[Job]:
    """Two jobs, each of half of these trials."""
    ids = list(specs)
    parts = ids[: len(ids) // 2], ids[len(ids) // 2 :]
    return [_named({name: specs[name] for name in part}) for part in parts if part]


def kind_of(job: Job) -> tuple[int, bool]:
    """What the time and the memory of a job depend on besides its size: batch size, and whether there is momentum."""
    spec = next(iter(job.specs.values()))
    return spec["batch_size"], spec["momentum"] > 0


def can_be_stacked(trial: Trial) -> bool:
    """Whether it is a perceptron without augmentation: a stack would draw that for all trials from one generator."""
    return isinstance(trial.model, Perceptron) and not trial.data.augment


def _stacks(records: Sequence[TrialRecord]) -> dict[str, list[TrialRecord]]:
    stacks: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in records:
        if record.stack is not None:
            stacks[record.stack].append(record)
    return stacks


def _named(specs: dict[str, dict[str, Any]]) -> Job:
    """A job of these trials: named after the trial where there is one, otherwise by a hash of all their ids."""
    ids = list(specs)
    return Job(ids[0] if len(ids) == 1 else f"stack-{short_hash(ids)}", specs)


def _job(name: str, records: Iterable[TrialRecord]) -> Job:
    return Job(name, {record.id: record.spec for record in records})


def _divided(members: list[TrialRecord], limit: int, slots: int) -> list[list[TrialRecord]]:
    """Parts of nearly equal size, none above the limit: one for each slot, if every part is then two trials or more."""
    parts = max(-(-len(members) // limit), min(slots, len(members) // 2), 1)
    ends = [len(members) * i // parts for i in range(parts + 1)]
    return [members[a:b] for a, b in itertools.pairwise(ends) if a < b]
