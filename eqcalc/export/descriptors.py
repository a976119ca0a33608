"""What a network knows of each atom before it reads the energy out.

Shapes: n_atoms, n_features.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from eqcalc.errors import ConfigError
from eqcalc.export.rebuild import rebuild_potential
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import ModelFile

__all__ = ["DescriptorNetwork", "readouts_of"]


class DescriptorNetwork:
    """The network of a model file, rebuilt; a call returns its atoms' descriptors.

    One call at a time: the inputs of modules are caught on their way.

    They are what enters the modules that the architecture names as its ``readout_modules``
    (:mod:`eqcalc.architectures`), side by side.

    Raises
    ------
    ModelFileError : see :func:`rebuild_potential`.
    ConfigError : the architecture does not say where its descriptors are.
    """

    def __init__(self, file: ModelFile, dtype: torch.dtype, device: torch.device) -> None:
        potential = rebuild_potential(file)
        self._network = potential.architecture.to(dtype=dtype, device=device)
        self._name = file.card.architecture
        self._caught: dict[str, Tensor] = {}
        for name, module in readouts_of(self._network, self._name).items():
            module.register_forward_pre_hook(self._catcher(name))
            self._caught[name] = torch.empty(0)

    def _catcher(self, name: str) -> Callable[[nn.Module, Any], None]:
        def catch(module: nn.Module, inputs: Any) -> None:
            self._caught[name] = inputs[0]

        return catch

    @torch.no_grad()
    def __call__(self, graph: AtomicGraph) -> Tensor:
        """Return descriptors (n_atoms, n_features) in the network's dtype.

        Raises
        ------
        ConfigError : what enters a readout has no row for each atom.
        """
        n_atoms = graph.atomic_numbers.shape[0]
        self._network.atomic_energies(graph)  # type: ignore[operator]
        for name, values in self._caught.items():
            if values.shape[:1] != (n_atoms,):
                raise ConfigError(
                    f"what enters '{name}' of {self._name} should have a row for each of "
                    f"{n_atoms} atoms, found the shape {tuple(values.shape)}; readout_modules "
                    "must name modules that read atoms."
                )
        parts = [values.reshape(n_atoms, -1) for values in self._caught.values()]
        self._caught = dict.fromkeys(self._caught, torch.empty(0))  # gives memory back
        return torch.cat(parts, dim=1)


def readouts_of(network: nn.Module, name: str) -> dict[str, nn.Module]:
    """Return the modules that read energies out of atoms, by name, in the order of the network.

    Raises
    ------
    ConfigError : the class names none, or one that is not there.
    """
    patterns = getattr(type(network), "readout_modules", None)
    if not isinstance(patterns, tuple) or not patterns:
        raise ConfigError(
            f"the architecture '{name}' has no descriptors: its class does not say which modules "
            "read the energy out of the atoms' features. In a network of your own write "
            'readout_modules = ("NAME",) into the class.'
        )
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        matching = {
            path: module
            for path, module in network.named_modules()
            if fnmatchcase(path, str(pattern))
        }
        if not matching:
            raise ConfigError(
                f"readout_modules of '{name}' names '{pattern}', and the network has no such "
                f"module; it has {', '.join(path for path, _ in network.named_children())}."
            )
        found |= matching
    return found
