"""What a trajectory says: distances between atoms, diffusion, vibrations, densities.

What belongs here: reading frames one at a time, and averages over them with their errors. Pairs
come from ``eqcalc.neighbours``; nothing here knows a model.
"""

from eqcalc.analysis.blocks import block_error
from eqcalc.analysis.rdf import RDF, PairDistances
from eqcalc.analysis.trajectory import Trajectory

__all__ = ["RDF", "PairDistances", "Trajectory", "block_error"]
