"""The eager network of a model file, from its card and weights."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from eqcalc import architectures
from eqcalc.devices import resolve_dtype
from eqcalc.errors import EqcalcError, ModelFileError, UnknownArchitectureError
from eqcalc.export.archive import read_archive
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import ModelFile
from eqcalc.model_file.passport import Evaluate, read_passport, verify
from eqcalc.nn.zbl import ZBL
from eqcalc.potential import Potential

__all__ = ["rebuild_potential"]


@torch.inference_mode(False)  # what is made there can never be differentiated
def rebuild_potential(file: ModelFile) -> Potential:
    """Return the eager potential of a model file, from its card, weights and constants.

    Constants that are no weights (such as the centres of Gaussians) are the archive's own:
    whoever wrote it may have rounded them to float32. The passport is replayed: a network with
    the same weights may still compute something else than it did when the file was written.

    Raises
    ------
    ModelFileError : this eqcalc has no such architecture, or another version of it.
    """
    # Whatever device the process makes its own tensors on, and casts its own networks to. Weights
    # are drawn, to be replaced by those of the file: not from the caller's random numbers.
    with (
        torch.device("cpu"),
        torch.autocast("cpu", enabled=False),
        torch.random.fork_rng(devices=[]),
    ):
        return _rebuilt(file)


def _rebuilt(file: ModelFile) -> Potential:
    card = file.card
    dtype = resolve_dtype(card.dtype)
    try:
        network = architectures.build_of_card(card.architecture, card.config)
        potential = Potential(
            network.to(dtype),
            card.reference_energies,
            scale=card.scale,
            zbl=ZBL(**card.zbl) if card.zbl else None,
        )
        potential.load_state_dict(load_safetensors(file.weights()))
        constants = dict(read_archive(file.archive()).named_buffers())
        for prefix, module in potential.named_modules(prefix="potential"):
            for name in module._buffers:
                module._buffers[name] = constants[f"{prefix}.{name}"].clone()
        potential.eval().requires_grad_(False)
        cpu = torch.device("cpu")
        verify(read_passport(file), _detached(potential), card.cutoff, dtype, cpu, "rebuilt")
    except (EqcalcError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise ModelFileError(
            f"the network of '{file.path}' cannot be rebuilt from its card and weights: "
            f"{str(error).strip().splitlines()[0]}{_hint(error)}"
        ) from error
    return potential


def _detached(potential: Potential) -> Evaluate:
    def evaluate(graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            energies, gradients = potential(graph)
        return energies.detach(), gradients

    return evaluate


def _hint(error: Exception) -> str:
    if not isinstance(error, UnknownArchitectureError):
        return ""
    return (
        " A network of your own has to be named: eqcalc compile --file FILE.py, name and file in "
        "[architecture] of a training file, or eqcalc.architectures.register in a script."
    )
