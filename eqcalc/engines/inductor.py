"""The engine that runs a package compiled ahead of time for this machine."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from eqcalc.engines.kernels import build_kernels, kernels_checksum, load_kernels
from eqcalc.engines.package_cache import PackageCache, package_key
from eqcalc.errors import EngineError
from eqcalc.model_file import ModelFile

__all__ = [
    "CompiledPackage", "InductorEngine", "compile_package", "find_package", "key_of",
    "options_of", "prepare_kernels", "target_name",
]  # fmt: skip

_FEWEST = 2  # atoms and edges: the compiler takes sizes 0 and 1 for constants


class CompiledPackage:
    """A package that torch has loaded, for any number of atoms and edges.

    Parameters
    ----------
    reach : Å; beyond every network's cutoff

    Raises
    ------
    EngineError : torch cannot load the package.
    """

    def __init__(
        self, path: Path, device: torch.device, dtype: torch.dtype, *, reach: float
    ) -> None:
        self.device = device
        self.dtype = dtype
        self._reach = reach
        load_kernels()  # the package may call them
        try:
            index = -1 if device.index is None else device.index
            # One copy per thread would be needed only if threads shared an engine. Without
            # threads the package also takes part in the capture of a CUDA graph.
            alone = {"run_single_threaded": True} if device.type == "cuda" else {}
            self._package = torch._inductor.aoti_load_package(
                str(path), device_index=index, **alone
            )
        except (RuntimeError, TypeError) as error:  # of torch 2.6: it takes fewer arguments
            raise EngineError(
                f"torch {torch.__version__} cannot load the compiled package '{path}': "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
        self._weights = torch.ones(0, dtype=torch.float64, device=device)
        self._weights_n_owned = 0

    def __call__(
        self, atomic_numbers: Tensor, edge_vectors: Tensor, edge_index: Tensor, n_owned: int
    ) -> tuple[Tensor, Tensor]:
        n_atoms, n_edges = atomic_numbers.shape[0], edge_index.shape[1]
        is_small = n_atoms < _FEWEST or n_edges < _FEWEST
        if is_small:
            atomic_numbers, edge_vectors, edge_index = self._padded(
                atomic_numbers, edge_vectors, edge_index
            )
        weights = self._weights_of(atomic_numbers.shape[0], n_owned)
        energies, gradients = self.run(atomic_numbers, edge_vectors, edge_index, weights)
        if is_small:  # atoms and edges come last; the members of a committee before them
            return energies[..., :n_atoms], gradients[..., :n_edges, :]
        return energies, gradients

    def run(
        self, atomic_numbers: Tensor, edge_vectors: Tensor, edge_index: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the package on two atoms and two edges at least.

        Parameters
        ----------
        weights : (n_atoms,) float64; 1 for owned atoms, 0 for others
        """
        return self._package(atomic_numbers, edge_vectors, edge_index, weights)

    def _padded(
        self, atomic_numbers: Tensor, edge_vectors: Tensor, edge_index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add two atoms, and two edges between them that are longer than the cutoff."""
        n = atomic_numbers.shape[0]
        pair = torch.tensor([[n, n + 1], [n + 1, n]], device=edge_index.device)
        vectors = edge_vectors.new_zeros((2, 3))
        vectors[:, 0] = self._reach
        return (
            torch.cat([atomic_numbers, atomic_numbers[:1].expand(2)]),
            torch.cat([edge_vectors, vectors]),
            torch.cat([edge_index, pair], dim=1),
        )

    def _weights_of(self, n_atoms: int, n_owned: int) -> Tensor:
        """Return the weights; in a simulation they are those of the step before."""
        if self._weights.shape[0] != n_atoms or self._weights_n_owned != n_owned:
            self._weights = torch.ones(n_atoms, dtype=torch.float64, device=self.device)
            self._weights[n_owned:] = 0.0
            self._weights_n_owned = n_owned
        return self._weights


class InductorEngine(CompiledPackage):
    """Run the compiled package of a model.

    Raises
    ------
    EngineError : the model was not compiled for this device and precision, or torch
        cannot load the package.
    """

    name = "inductor"
    device_types: tuple[str, ...] = ("cpu", "cuda")

    def __init__(self, file: ModelFile, device: torch.device, dtype: torch.dtype) -> None:
        path = find_package(file, device, dtype)
        if path is None:
            raise EngineError(
                f"not compiled for {target_name(device, dtype)}; run: "
                f"eqcalc compile {file.path}{options_of(file, device, dtype)}"
            )
        super().__init__(path, device, dtype, reach=2.0 * file.card.cutoff)


def find_package(file: ModelFile, device: torch.device, dtype: torch.dtype) -> Path | None:
    """Return the path of a model's compiled package, or None."""
    return PackageCache().find(key_of(file, device, dtype))


def compile_package(file: ModelFile, device: torch.device, dtype: torch.dtype) -> Path:
    """Compile a model for this machine, unless that is done, and return the package's path.

    Raises
    ------
    EngineError : it cannot be compiled.
    """
    from eqcalc.export import compile_model

    def compile_to(package: Path) -> None:
        prepare_kernels(device)
        compile_model(file, package, device, dtype)

    try:
        return PackageCache().make(key_of(file, device, dtype), compile_to)
    except Exception as error:  # tracer, exporter, C++ compiler: no common class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise EngineError(
            f"'{file.card.name}' cannot be compiled for {target_name(device, dtype)}: {reason}"
        ) from error


def prepare_kernels(device: torch.device) -> None:
    """Build and load the kernels that networks are compiled with on this device."""
    if device.type == "cpu":
        build_kernels()
        load_kernels()


def key_of(file: ModelFile, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Return all that a model's package depends on."""
    key = package_key(file.sha256, device, dtype)
    return key | {"kernels": kernels_checksum()} if device.type == "cpu" else key


def target_name(device: torch.device, dtype: torch.dtype) -> str:
    """Return what a package is compiled for, in words."""
    n = torch.get_num_threads()
    threads = f", {n} thread{'s' * (n > 1)}" if device.type == "cpu" else ""
    return f"{device}, {str(dtype).removeprefix('torch.')}{threads}"


def options_of(file: ModelFile, device: torch.device, dtype: torch.dtype) -> str:
    """Return the options of ``eqcalc compile`` that are not its defaults."""
    name = str(dtype).removeprefix("torch.")
    words = [f"--dtype {name}"] * (name != file.card.dtype)
    words += [f"--device {device}"] * (device.type != "cpu")
    words += [f"--threads {torch.get_num_threads()}"] * (torch.get_num_threads() != 1)
    return "".join(f" {word}" for word in words)
