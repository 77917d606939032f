"""What takes part in a league: candidates, which are settings by name, and sets, which are datasets' categories."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bank_tools.datasets import Dataset
from bank_tools.datasets.wording import listed
from bank_tools.evaluation.ablation import DEFAULT_LABEL, KNOBS, Point
from edge_uad.errors import UsageError

EXAMPLE = '"small: input=336 layers=5+11"'


@dataclass(frozen=True, slots=True)
class Candidate:
    """A named set of changes to the default."""

    name: str
    point: Point

    @property
    def settings(self) -> str:
        """As they were written, ``default`` where nothing is changed."""
        return self.point.label


DEFAULT = Candidate(DEFAULT_LABEL, Point())


@dataclass(frozen=True, slots=True)
class LeagueSet:
    """One category of a dataset, which counts as much as any other."""

    name: str
    dataset: Dataset
    """With this category alone, called by the set's name."""


def parse_candidate(text: str) -> Candidate:
    """``small: input=336 layers=5+11`` → the candidate; without a name its settings name it.

    The settings are those of ``edge-uad ablate --sweep``, each with one value.

    Raises:
        UsageError: no settings, a setting that is unknown or given twice, or one without exactly one value.
    """
    before, colon, after = text.partition(":")
    name, settings = (before.strip(), after.split()) if colon else ("", text.split())
    if not settings or (colon and not name):
        raise UsageError(f"--candidate is {text!r}; give a name and settings, such as {EXAMPLE}")
    changes = tuple(_change(setting, text) for setting in settings)
    if len({knob for knob, _ in changes}) < len(changes):
        raise UsageError(f"--candidate {text!r} has a setting twice; give each one value")
    point = Point(changes)
    return Candidate(name or point.label, point)


def candidates_of(texts: Sequence[str]) -> list[Candidate]:
    """The default, then what was asked for.

    Raises:
        UsageError: one of them cannot be read, or two have one name.
    """
    candidates = [DEFAULT, *map(parse_candidate, texts)]
    names = [candidate.name for candidate in candidates]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{listed(twice)} names two candidates ({DEFAULT_LABEL} is always one); name each differently")
    return candidates


def sets_of(datasets: Sequence[Dataset]) -> list[LeagueSet]:
    """Each category of each dataset, called ``dataset/category``, or by the one name where both are the same.

    Raises:
        UsageError: a dataset is of classes against each other, or two sets would have one name.
    """
    for dataset in datasets:
        if dataset.labelled_classes:
            raise UsageError(
                f"{dataset.root}: its categories are classes against each other, read as {dataset.layout}; a league "
                "is of products: leave it out, or name --layout"
            )
    sets = [_set(dataset, index) for dataset in datasets for index in range(len(dataset.categories))]
    names = [one.name for one in sets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{listed(twice)} would be two sets of the league; give each root once, or rename its folder")
    return sets


def _set(dataset: Dataset, index: int) -> LeagueSet:
    category = dataset.categories[index]
    name = category.name if category.name == dataset.name else f"{dataset.name}/{category.name}"
    return LeagueSet(name, replace(dataset, categories=(replace(category, name=name),)))


def _change(setting: str, text: str) -> tuple[str, str]:
    knob, _, value = setting.partition("=")
    if knob not in KNOBS or not value:
        raise UsageError(f"--candidate {text!r} has {setting!r}; give SETTING=VALUE with one of {', '.join(KNOBS)}")
    if "," in value:
        raise UsageError(
            f"--candidate {text!r} gives {knob} several values; name a candidate for each (layers of one are 5+11)"
        )
    return knob, value
