"""The runs of a study."""

import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, overload

from nstorm.data.study.bids import bids_runs, raw_above
from nstorm.data.study.check import checked
from nstorm.data.study.labels import Joined, LabelTable
from nstorm.data.study.manifest import manifest_runs, write_manifest
from nstorm.data.study.pattern import pattern_runs
from nstorm.data.study.problem import Problem, listed, without_run
from nstorm.data.study.report import Report
from nstorm.data.study.runs import completed, described
from nstorm.data.study.selection import Wanted, asked_for, item_key, named_by, plain, selected, wanted_by
from nstorm.data.study.summary import summary
from nstorm.data.study.table import Row, Table
from nstorm.data.wording import counted


class Study(Sequence[dict[str, Any]]):
    """The runs of a study as items: an image, what is beside it, and what is known about it.

    A study is a sequence of run items (:func:`nstorm.data.run_item`), which :func:`nstorm.data.strided_clips`,
    :func:`nstorm.data.split_by_subject` and MONAI's datasets take as it is. It is found by one look at the folders, and
    reads no image before :meth:`check`. It never changes: :meth:`where` and :meth:`join` give another one.

    The constructor takes run items from anywhere, and so puts studies together: ``Study([*hcp, *abcd])``.

    Args:
        runs: Run items; ``subject``, ``session``, ``task`` and so on are taken from BIDS names where they are not
            given. All get the same keys, and their values are text and numbers (True is 1), with ``""`` and NaN for
            what is not known; only ``tr`` and ``events`` are left out where they are not known.

    Raises:
        ValueError: There are no runs, an image is no path, or a label is a list or the like.
        KeyError: A run has no image.

    Example:
        >>> from nstorm.data import Study, haxby_runs
        >>> study = Study({"image": run.bold, "events": run.events, "site": "Rutgers"} for run in haxby_runs())
        >>> study
        Study of 12 runs of 1 subject
          task    objectviewing (12)
          run     01 (1), 02 (1), 03 (1), 04 (1), 05 (1), 06 (1), 6 more
          events  12 of 12 runs
          site    Rutgers (1); 1 of 1 subject
          tr      not read: check() reads the headers
        >>> report = study.where(run=[1, 2, 3]).check(progress=False)
        >>> report.repetition_times
        {2.5: 3}
    """

    def __init__(self, runs: Iterable[Mapping[str, Any]]) -> None:
        self._runs = completed([described(run) for run in runs])
        if not self._runs:
            raise ValueError("runs is empty, but a study has one run or more")
        self._joined: tuple[Joined, ...] = ()
        self._problems: tuple[Problem, ...] = ()

    @classmethod
    def from_bids(
        cls,
        folder: str | PathLike[str],
        *,
        space: Wanted = None,
        res: Wanted = None,
        desc: Wanted = "preproc",
        task: Wanted = None,
        session: Wanted = None,
        run: Wanted = None,
        subjects: Wanted = None,
        participants: "Table | Literal[False] | None" = None,
        raw: str | PathLike[str] | None = None,
    ) -> "Study":
        """Find the runs of a BIDS tree: the output of fMRIPrep and its like, or raw data.

        An item has ``image``; all entities of its name (``subject``, ``session``, ``task``, ``acquisition``,
        ``direction``, ``run``; ``space``, ``res``, ``desc`` and what else there is); ``mask``, of the same space and
        resolution; ``confounds``, ``events`` and ``sidecar``, as far as the study has them; and the labels of
        ``participants.tsv``. Only ``sub-*/[ses-*/]func`` is looked into, each folder once.

        A filter takes a value, several values, or a function of the value; 7 is ``"7"``, and ``"task-rest"`` is
        ``"rest"``. ``""`` wants names without the entity, as ``space=""`` fMRIPrep's images in native space.

        Args:
            folder: The folder that holds ``sub-*``.
            space: Spaces, as ``"MNI152NLin2009cAsym"``. By default all; :meth:`check` reports runs that have several.
            res: Resolutions.
            desc: Descriptions; None wants all. Raw images have none and are wanted in any case.
            task: Tasks.
            session: Sessions.
            run: Runs; 1 is also ``"01"``.
            subjects: Subjects. The folders of others are not looked into.
            participants: A table of labels (:meth:`join`). By default ``participants.tsv`` of ``folder``, or else of
                ``raw``, if there is one; False joins none.
            raw: The raw tree of the study, for events. By default the tree in whose ``derivatives`` the folder lies.

        Raises:
            FileNotFoundError: There is no such folder, or no such table.
            ValueError: No run is left; the message names the values to choose among. Or the table cannot be joined.

        Example:
            >>> import shutil, tempfile
            >>> from nstorm.data import Study, haxby_runs
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     func = Path(folder, "sub-001", "func")
            ...     _ = shutil.copytree(haxby_runs()[0].bold.parent, func)
            ...     study = Study.from_bids(folder, run=["01", "02"])
            >>> [(item["subject"], item["run"], Path(item["events"]).name) for item in study]
            [('001', '01', 'sub-001_task-objectviewing_run-01_events.tsv'),
             ('001', '02', 'sub-001_task-objectviewing_run-02_events.tsv')]
        """
        folder = Path(folder)
        source = raw_above(folder) if raw is None else Path(raw)
        wanted = {"subject": subjects, "session": session, "task": task, "run": run}
        runs, problems = bids_runs(folder, {**wanted, "space": space, "res": res, "desc": desc}, source)
        study = cls(runs)
        study._problems = tuple(problems)
        if participants is False:
            return study
        beside = [tree / "participants.tsv" for tree in (folder, source) if tree is not None]
        # a link to what was not fetched is no reason to go without labels
        tables = [table for table in beside if os.path.lexists(table)] if participants is None else [participants]
        if not tables:
            return study
        try:
            table = LabelTable.read(tables[0], None)
            # participants.tsv may say nothing but who they are
            if participants is None and not table.labels:
                return study
            return study._with_labels(table, subjects)
        except (FileNotFoundError, ValueError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f"{error} (participants=False joins no table)") from error

    @classmethod
    def from_pattern(
        cls,
        folder: str | PathLike[str],
        image: str,
        *,
        mask: str | None = None,
        confounds: str | None = None,
        events: str | None = None,
        **labels: str | int | float,
    ) -> "Study":
        r"""Find the runs of folders that are laid out by a pattern, such as those of the HCP.

        A pattern is a path in which ``{name}`` stands for any text without a slash; of two in one name the first takes
        as much as it can. ``{name:REGEX}`` stands for text that a regular expression matches, such as
        ``{subject:\d{6}}`` or ``{dir:LR|RL}``; a name that comes again for the same text; ``*`` for any text. The
        fields become keys of the items; ``dir``, ``acq``, ``ses`` and ``sub`` are short for ``direction`` and so on.

        Args:
            folder: The folder that the patterns start in.
            image: The pattern of the runs.
            mask: The pattern of their masks, with the same fields or some of them; a path that starts with a slash
                stays as it is.
            confounds: The pattern of their confounds.
            events: The pattern of their events.
            labels: What all runs have in common, as ``site="HCP"``.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: Nothing fits, or a pattern is none.

        Example:
            >>> from nstorm.data import Study, haxby_runs
            >>> folder = haxby_runs()[0].bold.parent
            >>> image = "sub-{subject}_task-{task}_run-{run:0[1-4]}_res-1slice_bold.nii.gz"
            >>> study = Study.from_pattern(folder, image, events="sub-{subject}_task-{task}_run-{run}_events.tsv")
            >>> len(study), study[3]["task"], study[3]["run"]
            (4, 'objectviewing', '04')

            The HCP's runs::

                Study.from_pattern(
                    "/hcp", "{subject}/MNINonLinear/Results/{task}_{dir:LR|RL}/{task}_{dir}.nii.gz",
                    mask="{subject}/MNINonLinear/Results/{task}_{dir}/brainmask_fs.2.nii.gz",
                )
        """
        companions = {"mask": mask, "confounds": confounds, "events": events}
        return cls({**run, **labels} for run in pattern_runs(Path(folder), image, companions))

    @classmethod
    def from_manifest(cls, path: str | PathLike[str]) -> "Study":
        r"""Read the runs that a table lists.

        Its columns are ``image`` and, as far as they are known, ``subject``, ``session``, ``task``, ``acquisition``,
        ``direction``, ``run``, ``mask``, ``confounds``, ``events``, ``tr`` in seconds, and any label. In CSV and TSV a
        label whose values are all numbers is one (but ``007`` is text), and True and False are 1 and 0; empty cells,
        ``n/a``, ``NA`` and ``NaN`` are values that are not known. JSON says itself what is what: null is not known.

        Args:
            path: A ``.csv``, ``.tsv`` or ``.json`` file (a list of objects). Its relative paths start in its folder.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is no table, lists nothing, or has rows without an image or with a ``tr`` that is no
                number.

        Example:
            >>> import tempfile
            >>> from nstorm.data import Study, haxby_runs
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     manifest = Path(folder, "runs.csv")
            ...     _ = manifest.write_text(f"image,subject,age\n{haxby_runs()[0].bold},Haxby-1,24\n")
            ...     Study.from_manifest(manifest)[0]["age"]
            24
        """
        return cls(manifest_runs(Path(path)))

    @property
    def subjects(self) -> tuple[str, ...]:
        """The names of the subjects, sorted."""
        return tuple(sorted({run["subject"] for run in self._runs} - {""}))

    def where(self, **wanted: Wanted) -> "Study":
        """Keep the runs that have the values that are wanted.

        Args:
            wanted: By key, a value, several values, or a function of the value: ``where(task="rest", session=["1",
                "2"], age=lambda age: age > 60)``. Values are compared as text: 7 is ``"7"``, ``"sub-01"`` is ``"01"``,
                and the run 1 is ``"01"``. ``""`` wants what is not known.

        Raises:
            ValueError: No run has such a key, or none has all of the values. Of several subjects that are wanted by
                name :meth:`check` reports those without a run.

        Example:
            >>> from nstorm.data import Study, haxby_runs
            >>> study = Study({"image": run.bold} for run in haxby_runs())
            >>> len(study.where(task="objectviewing", run=lambda run: int(run) > 8))
            4
        """
        made = self._of(selected(self._runs, wanted))
        by_key = {item_key(name): values for name, values in wanted.items()}
        if "subject" in by_key:
            asked = named_by("subject", by_key.pop("subject"))
            lost = {f"sub-{subject}" for subject in asked - {"", *made.subjects}}
            filters = f" of {asked_for(by_key)}" if by_key else ""
            made._problems = tuple(without_run(lost, "subject", f"without a run{filters}"))
        return made

    def join(self, table: "Table", on: str | Sequence[str] = "subject") -> "Study":
        """Put the labels of a table into the items of the runs.

        Args:
            table: A ``.csv``, ``.tsv`` or ``.json`` file, or a DataFrame, with a row for each subject. Numbers and
                values that are not known are read as :meth:`from_manifest` says.
            on: The column, or columns, that say which runs a row is about, as ``("subject", "session")``. BIDS's
                ``participant_id`` and ``session_id`` stand for ``subject`` and ``session``; with ``sub-`` or without.

        Returns:
            The study with the other columns as labels, NaN or ``""`` in runs without a row. :meth:`check` reports these
            runs, and rows without a run.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The table lacks ``on`` or has it twice, no row is about a run, or a row contradicts what a run
                says already.

        Example:
            >>> import pandas as pd
            >>> from nstorm.data import Study, haxby_runs
            >>> study = Study({"image": run.bold} for run in haxby_runs())
            >>> study.join(pd.DataFrame({"participant_id": ["sub-001"], "age": [24]}))[0]["age"]
            24
        """
        keys = [on] if isinstance(on, str) else on
        return self._with_labels(LabelTable.read(table, [item_key(key) for key in keys]))

    def to_manifest(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write the runs as :meth:`from_manifest` reads them; files below the manifest's folder are named from there.

        JSON keeps all types; CSV and TSV keep no difference between a number and its text.

        Args:
            path: A ``.csv``, ``.tsv`` or ``.json`` file.
            overwrite: Whether to replace a file that is there.

        Raises:
            FileExistsError: There is such a file, and it is not to be overwritten.
            ValueError: The ending is another one.
        """
        write_manifest(Path(path), self._runs, overwrite=overwrite)

    def check(
        self,
        *,
        errors: Literal["raise", "report"] = "raise",
        ignore: Collection[str] = (),
        labels: Collection[str] = (),
        min_frames: int = 20,
        progress: bool = True,
    ) -> Report:
        """Look at every header, and list all that is wrong with the study at once.

        The kinds of problems are ``subject`` (not known), ``duplicate`` (two images of one run, as of two spaces or of
        echoes, or an image twice), ``image`` (not there, damaged, without TR and so on), ``frames`` (too few), ``tr``
        and ``grid`` (not the same in all runs), ``mask``, ``confounds`` and ``sidecar`` (missing in some runs; masks
        also if in all of a derivative), ``events`` (missing in runs of a task that has them), ``label`` (a subject
        without a row in a table that was joined, or a run without one of ``labels``) and ``runs`` (a subject's folder,
        or a row of a table, without a run; or raw runs beside preprocessed ones). Also reported are masks that lie
        beside their run (on another grid they may be), confounds with another number of rows than the run has frames,
        and files that by their names belong to another run. No voxels are read.

        After it every run has a name of its own, :func:`nstorm.data.clips.items.run_of`, which is safe for files.

        Args:
            errors: ``"raise"`` raises one error that lists the problems, or warns of them if all are notes: subjects
                and rows of tables without a run; ``"report"`` gives them back.
            ignore: Kinds that are accepted.
            labels: Labels that every run has to have.
            min_frames: The fewest frames of a run; 20 is a clip of the published models.
            progress: Whether to show a progress bar.

        Raises:
            ValueError: There are problems; the first 20 are listed and the others counted. Or an argument names no kind
                or no label.

        Example:
            >>> from nstorm.data import Study, haxby_runs
            >>> study = Study({"image": run.bold} for run in haxby_runs())
            >>> print(study.check(progress=False))
            12 readable runs, 1,452 frames, 1.0 h
            TR 2.5 s (12)
            0 problems
            >>> study.check(min_frames=200, progress=False)
            Traceback (most recent call last):
            ValueError: 1 problem before any work:
              frames: 12 runs of fewer than 200 frames (.../sub-001_..._bold.nii.gz and 9 more): leave them out, ...
        """
        report = checked(
            self._runs,
            self._joined,
            self._problems,
            ignore=ignore,
            labels=labels,
            min_frames=min_frames,
            progress=progress,
        )
        if report.problems and errors == "raise":
            text = f"{counted(len(report.problems), 'problem')} before any work:\n{listed(report.problems)}"
            if kinds := dict.fromkeys(problem.kind for problem in report.problems if not problem.is_note):
                raise ValueError(f"{text}\nTo go on as it is, ignore: {', '.join(kinds)}")
            warnings.warn(text, stacklevel=2)
        return report

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> "Study": ...

    def __getitem__(self, index: int | slice) -> "dict[str, Any] | Study":
        if not isinstance(index, slice):
            return dict(self._runs[index])
        made = self._of(self._runs[index])
        if len(made) < len(self):
            # what the whole lacks is not missing in a part
            made._problems = tuple(problem for problem in self._problems if not problem.is_note)
        return made

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(dict, self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        return summary(self._runs)

    def _of(self, runs: list[Row]) -> "Study":
        made = copy(self)
        made._runs = runs
        return made

    def _with_labels(self, table: LabelTable, subjects: Wanted = None) -> "Study":
        made = self._of(completed(table.joined(self._runs)))
        made._joined = (*self._joined, Joined(table.name, table.labels))
        if subjects is not None:
            asked = wanted_by("subject", subjects)
            table = replace(table, rows=[row for row in table.rows if asked(row["subject"])])
        # a subject whose folder has no run is not said twice
        said = {name.removeprefix("sub-") for problem in self._problems if problem.is_note for name in problem.files}
        table = replace(table, rows=[row for row in table.rows if plain("subject", row.get("subject")) not in said])
        made._problems = (*self._problems, *table.without_run(self._runs))
        return made
