"""What NequIPs of other packages have that the paper's has not: the options' rules and numbers.

num_features (a list), embedding_size
    fewer channels of higher degrees: NequIP's foundation models, SevenNet
mirror_symmetric = False
    SevenNet labels every feature as even. All triangle paths |l1 - l2| ≤ l3 ≤ l1 + l2 then
    exist, the group is SO(3), and mirror images of a structure have different energies
self_connection = "linear", xplor_onset, modalities, embedding_factor, frequencies_per_angstrom
    SevenNet. XPLOR's second derivative jumps at its onset and at the cutoff
pair_cutoffs, avg_num_neighbors (a list), readout_mlp
    nequip. With pair cutoffs c_ij every function of d is taken at d r_c / c_ij
activation_factors
    both: factors of activations that were drawn at random, or are not those of unit variance
solid_harmonics
    SevenNet-0 of May 2024

Weights are kept as their packages have them: with factors of its own a network of float32
weights is exactly the one that was trained, where weights times a factor would be rounded.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional, Union

import torch
from torch import Tensor

from eqcalc.arguments import require_at_least, require_choice, require_positive
from eqcalc.elements import N_ELEMENTS, atomic_number, symbols_of
from eqcalc.errors import ConfigError
from eqcalc.nn.scatter import at_senders

if TYPE_CHECKING:
    from eqcalc.architectures.nequip import Config

__all__ = [
    "channels_of",
    "check_variants",
    "elements_of",
    "pair_factors",
    "scale_edges",
    "sender_factors",
]


def channels_of(config: "Config") -> list[int]:
    """Return the channels of each degree 0 ... l_max."""
    n = config.num_features
    return [n] * (config.l_max + 1) if isinstance(n, int) else list(n)


def elements_of(elements: Optional[Sequence[Union[str, int]]]) -> Optional[tuple[str, ...]]:
    """Return symbols in the order of their atomic numbers, each once.

    Raises
    ------
    ConfigError : no list of elements.
    """
    if elements is None:
        return None
    if isinstance(elements, str) or len(elements) == 0:
        raise ConfigError(f"elements must be a list such as ['H', 'C'], found {elements!r}.")
    return tuple(symbols_of([atomic_number(element) for element in elements]))


def check_variants(config: "Config") -> dict[str, Any]:
    """Return the options whose lists are to be kept as tuples.

    Raises
    ------
    ConfigError : an option is out of range, or does not go with another.
    """
    if not config.mirror_symmetric and config.parity:
        raise ConfigError(
            "mirror_symmetric = False needs parity = False: features of SO(3) have no parity."
        )
    require_choice(("species", "linear"), self_connection=config.self_connection)
    require_at_least(0, modalities=config.modalities)
    if config.embedding_size is not None:
        require_at_least(1, embedding_size=config.embedding_size)
    require_positive(embedding_factor=config.embedding_factor)
    onset = config.xplor_onset
    if onset is not None:
        require_positive(xplor_onset=onset)
        if onset >= config.cut_off:
            raise ConfigError(
                f"xplor_onset must be below cut_off = {config.cut_off:g} Å, found {onset:g}."
            )
    if config.readout_mlp is not None and config.modalities > 0:
        raise ConfigError("modalities > 0 needs the linear readout: leave readout_mlp out.")
    return {
        "num_features": _widths(config),
        "avg_num_neighbors": _neighbours(config),
        "readout_mlp": _hidden(config.readout_mlp),
        "activation_factors": _three(config.activation_factors),
        "pair_cutoffs": _cutoffs(config),
    }


def sender_factors(config: "Config") -> tuple[float, Optional[Tensor]]:
    """Return 1/√n̄ of all, or 1 and the factors of each element (n_elements,), float64."""
    n = config.avg_num_neighbors
    if isinstance(n, tuple):
        return 1.0, torch.tensor(n, dtype=torch.float64).rsqrt()
    return 1.0 / math.sqrt(n), None  # type: ignore[arg-type]


def pair_factors(config: "Config") -> Optional[Tensor]:
    """Return r_c / c (n_elements, n_elements), float64; None where all pairs have one cutoff."""
    if config.pair_cutoffs is None:
        return None
    return config.cut_off / torch.tensor(config.pair_cutoffs, dtype=torch.float64)


def scale_edges(
    edge_vectors: Tensor, edge_index: Tensor, species: Tensor, factors: Tensor
) -> Tensor:
    """Return edge vectors (n_edges, 3) times the factors of their receivers and senders.

    Parameters
    ----------
    species : (n_atoms,), rows of ``factors``
    factors : (n_elements, n_elements), row receiver, column sender
    """
    sender = at_senders(species, edge_index)
    receiver = species.index_select(0, edge_index[1])
    of_edge = factors.flatten().index_select(0, receiver * factors.shape[1] + sender)
    return edge_vectors * of_edge.unsqueeze(1)


def _widths(config: "Config") -> Union[int, tuple[int, ...]]:
    n = config.num_features
    if isinstance(n, int):
        require_at_least(1, num_features=n)
        return n
    widths = _listed("num_features", n, f"one for each degree 0 ... {config.l_max}")
    if len(widths) != config.l_max + 1:
        raise ConfigError(
            f"num_features needs {config.l_max + 1} numbers, one for each degree 0 ... "
            f"{config.l_max}, found {len(widths)}."
        )
    for l, width in enumerate(widths):
        require_at_least(1, **{f"num_features[{l}]": width})
    return widths


def _neighbours(config: "Config") -> Union[float, tuple[float, ...]]:
    n = config.avg_num_neighbors
    if not isinstance(n, (list, tuple)):
        require_positive(avg_num_neighbors=n)  # type: ignore[arg-type]
        return n  # type: ignore[return-value]
    _require_rows("avg_num_neighbors", n, config)
    for k, value in enumerate(n):
        require_positive(**{f"avg_num_neighbors[{k}]": value})
    return tuple(n)


def _hidden(widths: Optional[Sequence[int]]) -> Optional[tuple[int, ...]]:
    if widths is None:
        return None
    found = _listed("readout_mlp", widths, "widths of hidden layers")
    for k, width in enumerate(found):
        require_at_least(1, **{f"readout_mlp[{k}]": width})
    return found


def _three(factors: Optional[Sequence[float]]) -> Optional[tuple[float, ...]]:
    if factors is None:
        return None
    found = _listed("activation_factors", factors, "of silu in networks, silu and tanh in gates")
    if len(found) != 3:
        raise ConfigError(f"activation_factors must be three numbers, found {len(found)}.")
    for k, factor in enumerate(found):
        require_positive(**{f"activation_factors[{k}]": factor})
    return found


def _cutoffs(config: "Config") -> Optional[tuple[tuple[float, ...], ...]]:
    if config.pair_cutoffs is None:
        return None
    rows = [tuple(_listed("pair_cutoffs", row, "rows")) for row in config.pair_cutoffs]
    _require_rows("pair_cutoffs", rows, config)
    for k, row in enumerate(rows):
        _require_rows(f"pair_cutoffs[{k}]", row, config)
        for j, value in enumerate(row):
            require_positive(**{f"pair_cutoffs[{k}][{j}]": value})
            if value > config.cut_off:
                raise ConfigError(
                    f"pair_cutoffs[{k}][{j}] must be at most cut_off = {config.cut_off:g} Å, "
                    f"found {value:g}."
                )
    return tuple(rows)


def _require_rows(name: str, values: Sequence[Any], config: "Config") -> None:
    n = N_ELEMENTS - 1 if config.elements is None else len(config.elements)
    if len(values) != n:
        raise ConfigError(
            f"{name} needs {n} entries, one for each element of 'elements', found {len(values)}."
        )


def _listed(name: str, values: Any, meaning: str) -> tuple[Any, ...]:
    if not isinstance(values, (list, tuple)):
        raise ConfigError(f"{name} must be a list of numbers ({meaning}), found {values!r}.")
    return tuple(values)
