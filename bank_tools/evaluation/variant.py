"""What is measured: a recipe, and what may stand beside it for comparison."""

from dataclasses import dataclass

from bank_tools.bank.build import Recipe
from edge_uad.errors import UsageError

ONE_SCALE = (1,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A recipe, and the options that stand beside it for comparison only: no bank file knows them."""

    recipe: Recipe
    bpm_soft: bool = False
    """Weight patches by their attention instead of choosing among them."""
    turned: bool = False
    """Whether the bank learns each good image in all four orientations."""
    scales: tuple[int, ...] = ONE_SCALE
    """Sides, in patches, of the neighbourhoods compared; odd. Their distances are averaged."""
    reweighted: bool = False
    """Whether distances are weighted by how alone their nearest bank patch stands (PatchCore, equation 7)."""
    apart: float = 0.0
    """No two patches that the coreset is chosen from lie nearer than this, as squared distances go; 0 keeps all."""

    def __post_init__(self) -> None:
        """Raise UsageError where a value is out of its range."""
        if not self.scales or any(side < 1 or side % 2 == 0 for side in self.scales):
            raise UsageError(f"the scales are {self.scales}; use odd numbers of patches, such as 1+3")
        if not 0 <= self.apart < 4:
            raise UsageError(f"patches are to lie {self.apart:g} apart; use a squared distance from 0 to below 4")


def parse_scales(text: str) -> tuple[int, ...]:
    """``1+3`` → (1, 3).

    Raises:
        UsageError: something else.
    """
    try:
        return tuple(int(part) for part in text.split("+"))
    except ValueError:
        raise UsageError(f"the scales are {text!r}; give odd numbers of patches, such as 1+3") from None
