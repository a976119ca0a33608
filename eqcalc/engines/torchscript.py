"""The engine that is always there: torch.jit on any device."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eqcalc.engines.engine import Engine, Target
from eqcalc.errors import ModelFileError
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import ModelFile
from eqcalc.model_file.execution import as_written

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TorchScriptEngine"]

# Summed and added in float64 whatever the network's precision: float32 would round a reference
# energy by 1e-4 eV.
_KEEP_FLOAT64 = ("reference_energies", "scale")


class TorchScriptEngine(Engine):
    """Run the archive itself."""

    name = "torchscript"
    device_types = ("cpu", "cuda")

    def __init__(self, module: torch.jit.ScriptModule, target: Target) -> None:
        self.device, self.dtype = target
        self._module = module

    @classmethod
    def load(cls, file: ModelFile, target: Target) -> Self:
        """Load the archive.

        Raises
        ------
        ModelFileError : its program is not one that eqcalc writes, or torch cannot read it.
        """
        content = io.BytesIO(file.archive())
        with warnings.catch_warnings():
            # torch deprecates TorchScript as a whole; the file format is chosen with that known.
            warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=Warning)
            try:
                module = torch.jit.load(content, map_location=target.device)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
                raise ModelFileError(
                    f"torch {torch.__version__} cannot load '{file.path}', written with torch "
                    f"{file.card.versions.get('torch', 'unknown')}: {reason}"
                ) from error
            module.eval()
            _cast(module, target.dtype)
        # Not torch.jit.freeze: it takes detach() for a no-op, and gains 3 % at most.
        return cls(module, target)

    def __call__(self, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        """Run the archive with gradients enabled, whatever the caller's mode is."""
        inputs: tuple[Tensor, ...] = (graph.atomic_numbers, graph.edge_vectors, graph.edge_index)
        with torch.inference_mode(False):  # whose tensors can never be differentiated
            inputs = tuple(each.clone() if each.is_inference() else each for each in inputs)
            before = _versions(inputs)
            with torch.enable_grad(), as_written():  # the archive differentiates inside
                energies, gradients = self._module(*inputs, graph.n_owned)
        if _versions(inputs) != before:
            raise ModelFileError(
                "the model's program writes into the atoms and edges that it is given; later calls "
                "would see other ones. Do not use the file."
            )
        expected = (graph.atomic_numbers.shape, graph.edge_vectors.shape)
        if (energies.shape, gradients.shape) != expected:
            raise ModelFileError(
                "the model's program returned energies and edge gradients of shape "
                f"{tuple(energies.shape)} and {tuple(gradients.shape)}, expected "
                f"{tuple(expected[0])} and {tuple(expected[1])}; export the model again."
            )
        return energies, gradients

    def energies(self, graph: AtomicGraph) -> Tensor:
        """Return what the network makes of all atoms (n_atoms,), ready to be differentiated."""
        vectors = graph.edge_vectors.detach().requires_grad_(True)
        with torch.enable_grad(), as_written():
            return self._module.potential.architecture.atomic_energies(
                graph._replace(edge_vectors=vectors)
            )


def _versions(tensors: tuple[Tensor, ...]) -> list[int]:
    """Return how often each was written into; inference mode does not count."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


def _cast(module: torch.jit.ScriptModule, dtype: torch.dtype) -> None:
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        keep = name.rsplit(".", 1)[-1] in _KEEP_FLOAT64
        if tensor.is_floating_point() and not keep:
            tensor.data = tensor.data.to(dtype)
