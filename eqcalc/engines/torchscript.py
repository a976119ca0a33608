"""The engine that is always there: torch.jit on any device."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from eqcalc.errors import ModelFileError
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import ModelFile

__all__ = ["TorchScriptEngine"]

# Summed and added in float64 whatever the network's precision (DESIGN section 3).
_KEEP_FLOAT64 = ("reference_energies", "scale")


class TorchScriptEngine:
    """Run the archive itself.

    Raises
    ------
    ModelFileError : torch cannot read the archive.
    """

    name = "torchscript"
    device_types: tuple[str, ...] = ("cpu", "cuda")

    def __init__(self, file: ModelFile, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        with warnings.catch_warnings():
            # torch deprecates TorchScript as a whole; the file format is chosen with that known.
            warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=Warning)
            try:
                module = torch.jit.load(str(file.path), map_location=device)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
                raise ModelFileError(
                    f"torch {torch.__version__} cannot load '{file.path}', written with torch "
                    f"{file.card.versions.get('torch', 'unknown')}: {reason}"
                ) from error
            module.eval()
            self._cast(module)
            # Not torch.jit.freeze: it takes detach() for a no-op, and gains 3 % at most.
            self._module = module

    def __call__(
        self, atomic_numbers: Tensor, edge_vectors: Tensor, edge_index: Tensor, n_owned: int
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():  # the archive differentiates inside
            return self._module(atomic_numbers, edge_vectors, edge_index, n_owned)

    def energies(self, graph: AtomicGraph) -> Tensor:
        """Return what the network makes of all atoms (n_atoms,), ready to be differentiated.

        For timing: the scale and the reference energies are not in it.
        """
        vectors = graph.edge_vectors.detach().requires_grad_(True)
        with torch.enable_grad():
            return self._module.potential.architecture.atomic_energies(
                graph._replace(edge_vectors=vectors)
            )

    def _cast(self, module: torch.jit.ScriptModule) -> None:
        tensors = [*module.named_parameters(), *module.named_buffers()]
        for name, tensor in tensors:
            keep = name.rsplit(".", 1)[-1] in _KEEP_FLOAT64
            if tensor.is_floating_point() and not keep:
                tensor.data = tensor.data.to(self.dtype)
