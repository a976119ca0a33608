"""From ``ase.Atoms`` to edges: the search for pairs, the skin list, and what checks a structure."""

from eqcalc.neighbours.skin_list import SkinList, build_graph
from eqcalc.neighbours.structure import Structure

__all__ = ["SkinList", "Structure", "build_graph"]
