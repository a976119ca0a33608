"""A network of your own: define it, train it, export it, run it. 15 seconds.

This file is both the network and the script. The training file below names it with
``file``, so that ``eqcalc train`` and ``eqcalc export`` would find it as well; the exported
model needs it no more.
"""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from eqcalc.arguments import require_at_least, require_positive
from eqcalc.elements import N_ELEMENTS
from eqcalc.graph import AtomicGraph
from eqcalc.nn.envelope import polynomial_envelope
from eqcalc.nn.mlp import MLP
from eqcalc.nn.radial import SineBasis
from eqcalc.nn.scatter import at_senders, sum_at_receivers


@dataclass(frozen=True)
class Config:
    """Options of :class:`EmbeddedAtom`.

    num_densities : densities at each atom
    num_radial : radial functions
    cutoff : Å
    """

    num_densities: int = 32
    num_radial: int = 12
    cutoff: float = 4.0

    def __post_init__(self) -> None:
        require_at_least(1, num_densities=self.num_densities, num_radial=self.num_radial)
        require_positive(cutoff=self.cutoff)


class EmbeddedAtom(nn.Module):
    """Embed each atom in the densities of its neighbours, and in their dipoles.

    ρ_i = Σ_j a(Z_j) ∘ W φ(d_ij) f_cut(d_ij),  μ_i = Σ_j r̂_ij b(Z_j) ∘ W' φ(d_ij) f_cut(d_ij)
    E_i = MLP[c(Z_i), ρ_i, |μ_i|²]
    """

    def __init__(self, num_densities: int, num_radial: int, cutoff: float) -> None:
        super().__init__()
        self.config = Config(num_densities, num_radial, cutoff)
        self.cutoff, self.n_hops, self.num_densities = float(cutoff), 1, num_densities
        self.receiver = nn.Embedding(N_ELEMENTS, num_densities)
        self.sender = nn.Embedding(N_ELEMENTS, 2 * num_densities)
        self.radial = SineBasis(num_radial, self.cutoff)
        self.filters = nn.Linear(num_radial, 2 * num_densities)
        self.embed = MLP(3 * num_densities, num_densities, 1, nn.SiLU())

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        receivers = graph.edge_index[1]
        n_atoms = graph.atomic_numbers.shape[0]
        distances = torch.linalg.vector_norm(graph.edge_vectors, dim=1)  # (n_edges,)
        directions = (graph.edge_vectors / distances.unsqueeze(1)).unsqueeze(2)
        envelope = polynomial_envelope(distances, self.cutoff).unsqueeze(1)
        shares = self.filters(self.radial(distances)) * envelope
        shares = shares * at_senders(self.sender(graph.atomic_numbers), graph.edge_index)
        a, b = shares.split(self.num_densities, dim=1)  # (n_edges, F) each
        densities = sum_at_receivers(a, receivers, n_atoms)  # (n_atoms, F)
        dipoles = sum_at_receivers(directions * b.unsqueeze(1), receivers, n_atoms)
        squares = dipoles.square().sum(dim=1)  # (n_atoms, F)
        species = self.receiver(graph.atomic_numbers)
        return self.embed(torch.cat([species, densities, squares], dim=1)).squeeze(1)


FRAMES = Path(__file__).parents[1] / "tests" / "data" / "ethanol_rmd17_frames.npz"

TRAINING_FILE = f"""
name = "embedded-atom"
seed = 1
[data]
path = "{FRAMES}"
train_rows = "0:5"
validation_rows = "5:6"
[architecture]
name = "embeddedatom"
file = "{Path(__file__).resolve()}"
num_densities = 48
[training]
batch_size = 5
max_epochs = 150
learning_rate = 0.01
ema_decay = 0.9
"""


def main() -> None:
    """Train on five frames of ethanol, then check and run the exported model."""
    import numpy as np
    from ase import units
    from ase.calculators.fd import calculate_numerical_forces
    from ase.md.verlet import VelocityVerlet
    from ase.optimize import BFGS

    from eqcalc import EqCalculator
    from eqcalc.data import read_dataset
    from eqcalc.training import Report, TrainingFolder, export_run, read_config, train

    def show(report: Report) -> None:
        if report.batch == 0 and report.epoch % 10 == 0:
            error = report.metrics["validation_forces_mae_mev_per_a"]
            line = f"epoch {report.epoch}/{report.n_epochs}: forces {error:.0f} meV/Å"
            print(f"\r{line}", end="", flush=True)

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        training_file = Path(folder) / "train.toml"
        training_file.write_text(TRAINING_FILE)
        train(read_config(training_file), Path(folder) / "run", progress=show)
        finished = export_run(TrainingFolder(Path(folder) / "run"), Path(folder) / "model")
        print(f"\nexported: {finished.card.architecture}, {finished.card.config}")
        calculator = EqCalculator(finished.path, dtype="float64")

    frame = read_dataset(FRAMES, rows="5:6").frames[0]  # not trained on
    atoms = frame.atoms.copy()
    atoms.calc = calculator
    error = np.abs(atoms.get_forces() - frame.forces).mean()
    print(f"energy {atoms.get_potential_energy():.3f} eV, labelled {frame.energy:.3f} eV")
    print(f"mean force error {1e3 * error:.0f} meV/Å of {1e3 * np.abs(frame.forces).mean():.0f}")
    differences = calculate_numerical_forces(atoms, eps=1e-4) - atoms.get_forces()
    print(f"forces against finite differences: {abs(differences).max():.1e} eV/Å")

    start = atoms.get_total_energy()
    VelocityVerlet(atoms, timestep=0.5 * units.fs).run(400)  # from rest
    drift, warmth = atoms.get_total_energy() - start, atoms.get_temperature()
    print(f"200 fs: {warmth:.0f} K, the total energy changed by {1e3 * drift:.2f} meV")
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    print(f"relaxed: energy {atoms.get_potential_energy():.3f} eV")


if __name__ == "__main__":
    main()
