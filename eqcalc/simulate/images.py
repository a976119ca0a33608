"""Images of a band that are evaluated together: fewer, larger model calls for ASE's NEB.

    from ase.mep import NEB
    from eqcalc import EqCalculator
    from eqcalc.simulate import share_calculator

    share_calculator(images, EqCalculator("painn-ethanol"))
    band = NEB(images, method="improvedtangent")

ASE asks image by image. Here the first image that is asked has all others evaluated
with it that have moved since, so that a step of a band is one model call, whatever the
method and the optimiser. It serves any set of structures that move together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

from ase import Atoms
from ase.calculators.calculator import all_changes

from eqcalc.calculator.exact_cache import ExactCache, State
from eqcalc.errors import ConfigError, listing

if TYPE_CHECKING:
    from eqcalc.calculator import EqCalculator

__all__ = ["ImageCalculator", "share_calculator"]


def share_calculator(
    images: Sequence[Atoms], calculator: EqCalculator, *, max_edges: Optional[int] = None
) -> None:
    """Give each image a calculator of its own; all of them share the models of one.

    Parameters
    ----------
    images : sizes, elements and boundary conditions may differ
    max_edges : see :meth:`eqcalc.EqCalculator.calculate_many`

    Raises
    ------
    ConfigError : the same structure stands in the list twice.
    """
    places: dict[int, list[int]] = {}
    for index, image in enumerate(images):
        places.setdefault(id(image), []).append(index)
    for same in places.values():
        if len(same) > 1:
            raise ConfigError(
                f"images {listing(same)} are the same structure; each image must be an "
                "ase.Atoms of its own (image.copy())."
            )
    group: list[ImageCalculator] = []
    for index, image in enumerate(images):
        group.append(ImageCalculator(image, f"image {index}", group, calculator, max_edges))
        image.calc = group[-1]


class ImageCalculator(ExactCache):
    """The calculator of one image; :func:`share_calculator` makes a group of them.

    Results are those of :meth:`eqcalc.EqCalculator.calculate_many`.

    Parameters
    ----------
    group : the calculators of all images, this one among them
    """

    name = "eqcalc"
    implemented_properties = [  # noqa: RUF012  (ASE's own pattern)
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]
    default_parameters: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self,
        image: Atoms,
        label: str,
        group: list[ImageCalculator],
        calculator: EqCalculator,
        max_edges: Optional[int],
    ) -> None:
        super().__init__()
        self.image = image
        self.image_label = label
        self.group = group
        self.calculator = calculator
        self.max_edges = max_edges

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Return the arguments of the shared calculator."""
        return self.calculator.todict(skip_default)

    def get_property(
        self, name: str, atoms: Optional[Atoms] = None, allow_calculation: bool = True
    ) -> Any:
        """Return a result, as ASE asks for it; one thread at a time for all images."""
        with self.calculator._lock:  # else that of another image could take it away meanwhile
            return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Optional[Atoms] = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate this image, and with it all others that have moved; ASE calls this.

        Raises
        ------
        GraphError, UnsupportedElementError, NonFiniteError : the message names the image.
        """
        if atoms is not None and atoms is not self.image:
            self._evaluate([(self, atoms)])
            return
        # An image whose calculator was replaced since is no longer ours.
        moved = [
            (member, member.image)
            for member in self.group
            if member.image.calc is member and member.check_state(member.image)
        ]
        asked_for = any(member is self for member, _ in moved)
        self._evaluate(moved if asked_for else [(self, self.image)])

    def _evaluate(self, asked: list[tuple[ImageCalculator, Atoms]]) -> None:
        # The thread of another image may move it while it is evaluated here.
        states = [State.of(atoms) for _, atoms in asked]
        for member, _ in asked:
            member.results, member._last = {}, None
        found = self.calculator.calculate_many(
            [state.atoms() for state in states],
            max_edges=self.max_edges,
            names=[member.image_label for member, _ in asked],
        )
        for (member, _), state, results in zip(asked, states, found, strict=True):
            member.results, member._last = results, state
