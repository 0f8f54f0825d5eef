"""Running a job on a worker's machine, while what it writes is copied to where the sweep is stored.

A worker always writes files of its own machine. Where the sweep is stored elsewhere, it writes into a scratch folder,
which is copied to the storage after each epoch: first the parts of histories, then the checkpoint that counts on them.
So whenever a worker is killed, the next one can go on from what is stored, on whatever machine.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from ..records import Layout, Place
from ..training import EpochEnd, Event, Finished, Job, RunJob, Warned, narrated


def execute(run: RunJob, job: Job, folder: Path, device: str, url: str | None) -> Iterator[Event]:
    """Run a job in the sweep's ``folder``; with ``url``, in a scratch folder that is copied there."""
    yield from narrated(run(job, folder, device) if url is None else _copied(run, job, device, url))


def _copied(run: RunJob, job: Job, device: str, url: str) -> Iterator[Event]:
    place = Place(url)
    with TemporaryDirectory(prefix="fastrank-") as scratch:
        layout = Layout(Path(scratch))
        place.pull(place.checkpoint(job.name), layout.checkpoint(job.name))
        if layout.checkpoint(job.name).exists():
            place.pull(place.history(job.name), layout.history(job.name))
        epoch = 0
        for event in run(job, layout.folder, device):
            match event:
                case EpochEnd() if event.epoch != epoch:
                    epoch = event.epoch
                    try:
                        place.push(layout.history(job.name), place.history(job.name))
                        if layout.checkpoint(job.name).exists():
                            place.push_file(layout.checkpoint(job.name), place.checkpoint(job.name))
                    except OSError as error:  # the training is worth more; the next epoch tries again
                        yield Warned(
                            f"{url}: the checkpoint of {job.name} cannot be written: {error}. Training goes on"
                        )
                case Finished():
                    place.push(layout.history(event.trial), place.history(event.trial))
            yield event
