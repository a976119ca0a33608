"""What a trajectory says: distances between atoms, diffusion, vibrations, densities.

What belongs here: reading frames one at a time, and averages over them with their errors. Pairs
come from ``eqcalc.neighbours``; nothing here knows a model.

>>> from eqcalc.analysis import AverageSettings, Trajectory, average
>>> settings = AverageSettings(quantities=("rdf", "msd"), skip=100)
"""

from eqcalc.analysis.averages import QUANTITIES, Averages, AverageSettings, average
from eqcalc.analysis.blocks import block_error
from eqcalc.analysis.density import DensityProfile, Profile
from eqcalc.analysis.msd import MSD, Diffusion, Displacements
from eqcalc.analysis.outputs import summary_of, write_averages
from eqcalc.analysis.rdf import RDF, PairDistances
from eqcalc.analysis.trajectory import Trajectory
from eqcalc.analysis.vacf import VACF, Velocities

__all__ = [
    "MSD",
    "QUANTITIES",
    "RDF",
    "VACF",
    "AverageSettings",
    "Averages",
    "DensityProfile",
    "Diffusion",
    "Displacements",
    "PairDistances",
    "Profile",
    "Trajectory",
    "Velocities",
    "average",
    "block_error",
    "summary_of",
    "write_averages",
]
