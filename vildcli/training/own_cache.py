"""The teacher cache of a run that was given none, and what is said of any before it is used."""

from __future__ import annotations

from pathlib import Path

from vildcli.console import Progress
from vildcli.errors import ModelError
from vildcli.runs import read_run
from vildcli.systems import System
from vildcli.teacher.chosen_regions import ANCHORS, TEACHER
from vildcli.teacher.figures import doubt_about, read_teacher_figures
from vildcli.teacher.session import TeachOptions, count_images, teach
from vildcli.training.initialise import names_a_model
from vildcli.training.inputs import Say, TrainingOptions
from vildcli.training.processes import Processes

CACHE_FOLDER = "teacher-cache"


def teacher_chooses(options: TrainingOptions, system: System) -> bool:
    """Whether a run's own cache is of regions that the teacher chooses among the proposals."""
    return options.proposals == TEACHER or (options.proposals is None and system.teacher_regions)


def given_proposals(options: TrainingOptions) -> str | None:
    """Whose proposals go into a run's own cache: `--proposals`, else the initial model's.

    None where that is nobody's: a detector has to be trained for them.
    """
    if options.proposals not in (None, TEACHER):
        return options.proposals
    return options.init if names_a_model(options.init) else None


def make_cache(
    options: TrainingOptions,
    system: System,
    proposals: str,
    out: Path,
    progress: Progress,
    processes: Processes,
) -> Path:
    """Fill a cache in a run's folder; the first process embeds for all."""
    folder = out / CACHE_FOLDER
    if processes.is_first:
        chooses = teacher_chooses(options, system)
        chosen = TeachOptions(
            options.train,
            options.images,
            options.teacher,
            TEACHER if chooses else proposals,
            among=proposals if chooses else ANCHORS,
            regions=options.taught_regions,
            prompts=options.prompts,
            base=options.base,
            names=options.names,
            device=str(processes.device),
            offline=options.offline,
        )
        with progress("Embedding proposals", count_images(chosen)) as advance:
            teach(chosen, folder, force=False, advance=advance)
    processes.wait()
    return folder


def check_cache(cache: Path, encoder: str, say: Say) -> None:
    """Refuse another teacher's embeddings, and say how good these are before anything trains.

    Args:
        encoder: identity of the text encoder that the embeddings are to live beside.

    Raises:
        ModelError: another teacher filled it.
    """
    if read_run(cache, "teacher")["settings"]["teacher"] != encoder:
        raise ModelError(
            f"The teacher cache {cache} was filled by another teacher than --teacher.",
            hint="Give the same --teacher to `vildcli teach` and `vildcli train`; an adapted one "
            "is another than the one it was adapted from.",
        )
    figures = read_teacher_figures(cache)
    if figures is None:
        say(f"Nobody has measured the teacher of {cache}: `vildcli teach` again does.")
        return
    group = figures["groups"]["all"]
    if group["accuracy"] is not None and group["recall"] is not None:
        say(
            f"Teacher on true boxes: top-1 {group['accuracy']:.3f} (chance "
            f"{figures['chance']:.3f}); its proposals meet {group['recall']:.1%} of them."
        )
    if doubt := doubt_about(figures):
        say(f"Warning: {doubt}")
