"""Compile energies and edge gradients of model files ahead of time, for one machine.

A compiled package is made from the archive's card and weights, belongs to one machine and can
be thrown away at any time. The only module that calls AOTInductor.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.fx import GraphModule

from eqcalc.elements import atomic_number
from eqcalc.errors import EngineError
from eqcalc.export.exchange import differentiate, evaluate_owned, why_no_exchange
from eqcalc.export.frames import element_clusters
from eqcalc.export.rebuild import rebuild_potential
from eqcalc.export.row_products import use_few_rows, use_row_products
from eqcalc.model_file import ModelFile
from eqcalc.model_file.exchange_proof import verify_exchange
from eqcalc.native.exchange import enable_exchange
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential
from eqcalc.tabulated import exact_form, has_tabulated_form, tabulated_form
from eqcalc.tabulated.convolutions import enable_gpu_kernels, enable_kernels

__all__ = ["compile_committee", "compile_exchange", "compile_model", "trace_model"]

# Of filters and their slopes, relative; float32 rounds the sums of a network as much.
_TABLE_TOLERANCE = 3e-6

_OPTIONS = {
    # One package for any number of threads. Else the present one would be compiled in.
    "cpp.dynamic_threads": True,
    # They take 280 MB in the compiler's folder, and a first compilation no less time.
    "aot_inductor.precompile_headers": False,
    "cpp_cache_precompile_headers": False,
}


def compile_model(file: ModelFile, package: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Compile energies and edge gradients ahead of time, for any number of atoms and edges.

    Energy and gradient are traced into one graph of plain tensor operations first: the
    exporter cannot follow autograd. The package takes the tensors of the archive, with
    weights (n_atoms,) float64 in place of ``n_owned``; it needs two atoms and two edges
    at least (:mod:`eqcalc.engines.inductor` adds them).

    Raises
    ------
    ModelFileError : see :func:`rebuild_potential`.
    Exception : whatever tracer and compiler raise; there is no common class.
    """
    potential = _for_inference(rebuild_potential(file), device, dtype)

    def evaluate(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return differentiate(potential, *tensors)

    _compile(evaluate, [file], package, device, dtype)


def trace_model(
    file: ModelFile, device: torch.device, dtype: torch.dtype, *, only_tables: bool
) -> tuple[GraphModule, tuple[Tensor, ...]]:
    """Return energies and edge gradients as one graph of tensor operations for a GPU, and inputs.

    It takes what the package of :func:`compile_model` takes.

    Parameters
    ----------
    only_tables : refuse a network that has no form with tables

    Raises
    ------
    EngineError : it has none.
    ModelFileError, Exception : as :func:`compile_model` does.
    """
    potential = rebuild_potential(file)
    if only_tables and not has_tabulated_form(potential.architecture):
        raise EngineError(f"'{file.card.architecture}' has no form with tables.")
    potential = _for_inference(potential, device, dtype)

    def evaluate(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return differentiate(potential, *tensors)

    traced, example = _traced(evaluate, [file], device, dtype, n_ghosts=0)
    if dtype == torch.float32 and enable_gpu_kernels():
        use_few_rows(traced)
    return traced, example


def compile_committee(
    files: Sequence[ModelFile], package: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Compile several models into one package that returns the answers of all.

    The networks may differ. The package takes what that of :func:`compile_model` takes and
    returns energies (n_members, n_atoms) and edge gradients (n_members, n_edges, 3).

    Raises
    ------
    ModelFileError, Exception : as :func:`compile_model` does.
    """
    potentials = [_for_inference(rebuild_potential(file), device, dtype) for file in files]

    def evaluate(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        members = [differentiate(potential, *tensors) for potential in potentials]
        energies, gradients = zip(*members, strict=True)
        return torch.stack(energies), torch.stack(gradients)

    _compile(evaluate, files, package, device, dtype)


def compile_exchange(
    file: ModelFile, package: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Compile a model for the ranks of a host, which exchange features between its layers.

    A rank's atoms are its owned ones and, after them, the ghosts within one cutoff. The package
    takes

    ==================  =====================================================================
    atomic_numbers      (n_owned,) int64
    edge_vectors        (n_edges, 3), Å
    edge_index          (2, n_edges) int64; row 0 senders among all atoms, row 1 receivers among
                        the owned ones, sorted
    weights             (n_owned,) float64, 1 of an atom whose energy counts
    all_atoms           (n_all,) int64; its length alone is read
    ==================  =====================================================================

    and returns energies (n_owned,) and the gradient (n_edges, 3) of the sum over the atoms of
    all ranks. While it runs, it calls what the host has set (``eqcalc/native/exchange.h``), on
    every rank the same number of times (:mod:`eqcalc.native.exchange`).

    It needs two owned atoms and two edges at least; n_all may equal n_owned. A rank with fewer,
    an empty one too, appends two dummy atoms to its owned ones, before the ghosts (whose rows are
    two higher then): of any of the model's elements, of weight 0, joined by two edges that are
    longer than the cutoff and stand last. Nobody has a ghost of them.

    Raises
    ------
    EngineError : the network cannot exchange features, or not on this device, or reads
        neighbours in another way; or the C++ library is not loaded.
    ModelFileError, Exception : as :func:`compile_model` does.
    """
    if device.type != "cpu":
        raise EngineError(f"ranks exchange features on a CPU; found the device {device}.")
    potential = rebuild_potential(file)
    why = why_no_exchange(potential.architecture)
    if why is not None:
        raise EngineError(why)
    if not enable_exchange():
        raise EngineError(
            "the C++ library, by which ranks exchange features, is not loaded; it is built by "
            "eqcalc compile."
        )
    potential = _for_inference(potential, device, dtype)

    def evaluate(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return evaluate_owned(potential, *tensors)

    verify_exchange(file, evaluate, dtype, "before it is compiled")
    _compile(evaluate, [file], package, device, dtype, n_ghosts=3)


def _for_inference(potential: Potential, device: torch.device, dtype: torch.dtype) -> Potential:
    network = potential.architecture
    with torch.device("cpu"):  # whatever device the process makes its own tensors on
        if _takes_tables(device, dtype):
            potential.architecture = tabulated_form(network, dtype, _TABLE_TOLERANCE)
        else:
            potential.architecture = exact_form(network)
    return potential.requires_grad_(False).to(dtype).to(device)


def _compile(
    evaluate: Callable[..., tuple[Tensor, Tensor]],
    files: Sequence[ModelFile],
    package: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    n_ghosts: int = 0,
) -> None:
    """Compile a function of the package's tensors; with ghosts, of ``all_atoms`` too."""
    # The compiler takes a second to import; writing a model file does not need it.
    from torch._inductor import aoti_compile_and_package
    from torch._inductor import config as inductor

    traced, example = _traced(evaluate, files, device, dtype, n_ghosts=n_ghosts)
    if _has_kernels(device, dtype):
        use_row_products(traced)
    atoms, edges = torch.export.Dim("n_atoms", min=2), torch.export.Dim("n_edges", min=2)
    shapes: tuple[dict[int, torch.export.Dim], ...] = (
        {0: atoms},
        {0: edges},
        {1: edges},
        {0: atoms},
    )
    if n_ghosts > 0:
        shapes += ({0: torch.export.Dim("n_all", min=2)},)
    with warnings.catch_warnings():
        # Between parts of torch; nothing a user could act on.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
        program = torch.export.export(traced, example, dynamic_shapes=shapes)
        known = set(inductor.get_config_copy())  # an older torch has fewer
        options = {name: value for name, value in _OPTIONS.items() if name in known}
        aoti_compile_and_package(program, package_path=str(package), inductor_configs=options)


def _traced(
    evaluate: Callable[..., tuple[Tensor, Tensor]],
    files: Sequence[ModelFile],
    device: torch.device,
    dtype: torch.dtype,
    *,
    n_ghosts: int,
) -> tuple[GraphModule, tuple[Tensor, ...]]:
    """Return a function as one graph of plain tensor operations, and inputs for it."""
    from torch.fx.experimental import _config as fx_config
    from torch.fx.experimental.proxy_tensor import make_fx

    numbers = sorted({atomic_number(symbol) for file in files for symbol in file.card.elements})
    cutoff = max(file.card.cutoff for file in files)
    frame = element_clusters(numbers)[1]
    graph = build_graph(frame, cutoff, dtype=dtype, device=device)
    weights = torch.ones(len(frame), dtype=torch.float64, device=device)
    example: tuple[Tensor, ...] = (
        graph.atomic_numbers,
        graph.edge_vectors,
        graph.edge_index,
        weights,
    )
    if n_ghosts > 0:
        example += (graph.atomic_numbers.new_zeros(len(frame) + n_ghosts),)
    # Else sizes that happen to be equal here, such as atoms and channels, would count as one.
    with fx_config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        traced = make_fx(evaluate, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example)
    return traced, example


def _has_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and dtype == torch.float32 and enable_kernels()


def _takes_tables(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether filters come from tables: in float32, with the kernels or as fused by torch."""
    return dtype == torch.float32 and (device.type == "cuda" or _has_kernels(device, dtype))
