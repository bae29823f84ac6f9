"""Ways to split a study: by subject, by site, in folds; runs within one person only by that name."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from nstorm.data.clips.items import run_of, subject_of, text_of
from nstorm.data.splits.dealing import deal, shuffled, strata_of
from nstorm.data.splits.split import Split

FRACTIONS = MappingProxyType({"train": 0.7, "validation": 0.15, "test": 0.15})


def split_by_subject(
    items: Iterable[Mapping[str, Any]],
    fractions: Mapping[str, float] = FRACTIONS,
    *,
    stratify: str | None = None,
    seed: int = 0,
) -> Split:
    """Split a study so that all runs of a person are in one part.

    The split depends on the names of the subjects, the label and the seed, and on nothing else: not on the order of the
    items, the machine, or the version of a library.

    Args:
        items: Run items or clip items, each with its ``subject``.
        fractions: The share of the subjects of each part; they sum to 1.
        stratify: Key of a label that all parts shall have in equal shares: classes, or a quantity such as age (numbers
            with decimals, or of more than ten values), which is cut at its quantiles into at most five groups. A
            quantity that differs between the runs of a person enters as its mean.
        seed: Seed of the draw.

    Raises:
        ValueError: An item has no subject or no label to stratify by, a person has two classes, the fractions do not
            sum to 1, or there are too few subjects, or too few of a class, for every part to have one.

    Example:
        >>> from nstorm.data.splits.methods import split_by_subject
        >>> runs = [{"image": f"{n}.nii", "subject": f"{n:02d}", "sex": "FM"[n % 2]} for n in range(40)]
        >>> split = split_by_subject(runs, stratify="sex")
        >>> len(split["train"]), len(split["validation"]), split["test"]
        (28, 6, ('09', '19', '20', '30', '33', '36'))
    """
    strata = strata_of(items, stratify, min(fractions.values(), default=0.0), seed)
    shares = ", ".join(f"{part} {share:g}" for part, share in fractions.items())
    return Split(deal(strata, fractions, "subject"), method=f"by subject{_stratified(stratify)}: {shares}", seed=seed)


def k_folds(
    items: Iterable[Mapping[str, Any]],
    k: int,
    *,
    stratify: str | None = None,
    validation: bool = True,
    seed: int = 0,
) -> list[Split]:
    """Make the ``k`` splits of a cross-validation in which every person is tested once, with all of their runs.

    Split ``i`` tests on fold ``i``, keeps the next fold to choose settings on, and trains on the others.

    Args:
        items: Run items or clip items, each with its ``subject``.
        k: Number of folds.
        stratify: Key of a label that all folds shall have in equal shares, as for :func:`split_by_subject`.
        validation: Whether a fold is kept to choose settings on. If not, it trains too, and nothing, not even the
            epoch, may be chosen by the results of the fold that is tested.
        seed: Seed of the draw.

    Raises:
        ValueError: As for :func:`split_by_subject`, or ``k`` is too small.

    Example:
        >>> from nstorm.data.splits.methods import k_folds
        >>> runs = [{"image": f"{n}.nii", "subject": f"{n:02d}"} for n in range(10)]
        >>> [split["test"] for split in k_folds(runs, 5)]
        [('05', '08'), ('01', '06'), ('00', '02'), ('03', '07'), ('04', '09')]
    """
    if k < 2 + validation:
        raise ValueError(f"k is {k}, but each part of a split takes a fold: give {2 + validation} or more")
    shares = {f"fold {fold}": 1 / k for fold in range(1, k + 1)}
    folds = list(deal(strata_of(items, stratify, 1 / k, seed), shares, "subject").values())
    splits = []
    for fold in range(k):
        tested, *others = folds[fold:] + folds[:fold]
        chosen_on = {"validation": others.pop(0)} if validation else {}
        train = [subject for other in others for subject in other]
        method = f"fold {fold + 1} of {k} by subject{_stratified(stratify)}"
        splits.append(Split({"train": train, **chosen_on, "test": tested}, method=method, seed=seed))
    return splits


def split_by_site(
    items: Iterable[Mapping[str, Any]], *, test: Sequence[str | int], validation: Sequence[str | int] = ()
) -> Split:
    """Split a study so that whole sites are held out; the sites that are not named train.

    Args:
        items: Run items or clip items, each with its ``subject`` and ``site``.
        test: Sites to test on.
        validation: Sites to choose settings on.

    Raises:
        ValueError: An item has no subject or site, a site that is named has no items or is named twice, a subject is at
            two sites, or no site is left to train on.

    Example:
        >>> from nstorm.data.splits.methods import split_by_site
        >>> runs = [{"image": f"{n}.nii", "subject": f"{n}", "site": "ABC"[n % 3]} for n in range(6)]
        >>> split_by_site(runs, test=["C"])["test"]
        ('2', '5')
    """
    sites = _subjects_by_site(items)
    held_out = {"validation": [text_of(site) for site in validation], "test": [text_of(site) for site in test]}
    named = [site for part in held_out.values() for site in part]
    for site in named:
        if site not in sites:
            raise ValueError(f"the site {site!r} has no items: name some of {', '.join(sites)}")
    chosen = {"train": [site for site in sites if site not in named], **held_out}
    if not validation:
        del chosen["validation"]
    parts = {part: [subject for site in named for subject in sites[site]] for part, named in chosen.items()}
    return Split(parts, method="by site: " + "; ".join(f"{part} {', '.join(named)}" for part, named in chosen.items()))


def leave_one_site_out(items: Iterable[Mapping[str, Any]], *, validation: float = 0.15, seed: int = 0) -> list[Split]:
    """Make one split for each site, in which that site is tested and the others train.

    Args:
        items: Run items or clip items, each with its ``subject`` and ``site``.
        validation: Share of the subjects of the other sites that is kept to choose settings on; 0 for none.
        seed: Seed of the draw.

    Raises:
        ValueError: An item has no subject or site, a subject is at two sites, or there are too few of either.

    Example:
        >>> from nstorm.data.splits.methods import leave_one_site_out
        >>> runs = [{"image": f"{n}.nii", "subject": f"{n}", "site": "ABC"[n % 3]} for n in range(9)]
        >>> for split in leave_one_site_out(runs):
        ...     print(split.method, split["test"])
        site A left out ('0', '3', '6')
        site B left out ('1', '4', '7')
        site C left out ('2', '5', '8')
    """
    sites = _subjects_by_site(items)
    if len(sites) < 2:
        raise ValueError(f"all items are of the site {', '.join(sites)}: to leave one out takes two or more")
    shares = {"train": 1 - validation, "validation": validation} if validation else {"train": 1.0}
    splits = []
    for left_out, tested in sites.items():
        others = [subject for site, subjects in sites.items() if site != left_out for subject in subjects]
        parts = deal({f"the study without {left_out}": shuffled(others, seed)}, shares, "subject")
        splits.append(Split({**parts, "test": tested}, method=f"site {left_out} left out", seed=seed))
    return splits


def split_runs_within_subject(
    items: Iterable[Mapping[str, Any]], fractions: Mapping[str, float] = FRACTIONS, *, seed: int = 0
) -> Split:
    """Split the runs of every person, so that a model is tested on people whom it has seen.

    What comes out says how well other runs of the same people are told apart and nothing about other people. Runs are
    told apart by ``subject``, ``session``, ``task``, ``acquisition``, ``direction`` and ``run``.

    Args:
        items: Run items or clip items, each with its ``subject`` and ``run``.
        fractions: The share of the runs of each part; they sum to 1.
        seed: Seed of the draw.

    Raises:
        ValueError: An item has no subject, the fractions do not sum to 1, or a person has too few runs for every part.

    Example:
        >>> from nstorm.data import haxby_runs
        >>> from nstorm.data.clips.items import run_item
        >>> from nstorm.data.splits.methods import split_runs_within_subject
        >>> split_runs_within_subject([run_item(run.bold) for run in haxby_runs()])["test"]
        ('sub-001_task-objectviewing_run-03', 'sub-001_task-objectviewing_run-12')
    """
    runs: dict[str, set[str]] = {}
    for item in items:
        runs.setdefault(f"the subject {subject_of(item)!r}", set()).add(run_of(item))
    strata = {subject: shuffled(runs[subject], seed) for subject in sorted(runs)}
    shares = ", ".join(f"{part} {share:g}" for part, share in fractions.items())
    return Split(deal(strata, fractions, "run"), unit="run", method=f"by run within subjects: {shares}", seed=seed)


def _subjects_by_site(items: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    site_of: dict[str, str] = {}
    for item in items:
        subject, site = subject_of(item), text_of(item.get("site"))
        if not site:
            raise ValueError(f"an item of the subject {subject!r} has no site: set item['site']")
        if site_of.setdefault(subject, site) != site:
            raise ValueError(
                f"the subject {subject!r} is at the sites {site_of[subject]} and {site}: if these are two people, give "
                f"each a name of their own, such as {site}-{subject}; if one, leave one of the sites out"
            )
    sites: dict[str, list[str]] = {}
    for subject in sorted(site_of):
        sites.setdefault(site_of[subject], []).append(subject)
    return {site: sites[site] for site in sorted(sites)}


def _stratified(label: str | None) -> str:
    return "" if label is None else f", stratified by {label}"
