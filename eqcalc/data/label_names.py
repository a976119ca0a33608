"""Names under which files hold labels: those that look like a label, and what each may mean.

A name is never taken for a label because it looks like one; it is named to the user, who says
what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

__all__ = [
    "is_gradient_name",
    "is_pressure_name",
    "is_virial_name",
    "look_alikes",
    "named_options",
    "names_like",
]

_NO_LABEL = re.compile(
    r"unit|weight|std|var|sigma|uncert|error|err$|min$|max$|mean$|kin|const|per_?atom|energies$",
    re.IGNORECASE,
)
_NAMES = {
    "energy": re.compile(r"energ|toten|^e$|^u$|^e_|_e$|^e(tot|pot|0|dft|ref|scf)$", re.IGNORECASE),
    "forces": re.compile(r"forc|^f$|^f_|_f$|grad|^frc|d_?e_?/?_?d_?[rx]", re.IGNORECASE),
    "stress": re.compile(r"stress|virial|^w$|^pressure", re.IGNORECASE),
}
_GRADIENT = re.compile(r"grad|d_?e_?/?_?d_?[rx]", re.IGNORECASE)


def is_gradient_name(name: str) -> bool:
    """Tell whether a name says that an array holds dE/dx, the forces' negative.

    >>> is_gradient_name("gradient"), is_gradient_name("dE/dx"), is_gradient_name("forces")
    (True, True, False)
    """
    return _GRADIENT.search(name) is not None


def is_virial_name(name: str) -> bool:
    """Tell whether a name says that an array holds -stress x volume; a virial stress is a stress.

    >>> is_virial_name("dft_virials"), is_virial_name("stress"), is_virial_name("virial_stress")
    (True, False, False)
    """
    return "virial" in name.lower() and "stress" not in name.lower()


def is_pressure_name(name: str) -> bool:
    """Tell whether a name says that an array holds a pressure tensor, the stress's negative.

    >>> is_pressure_name("pressure_tensor"), is_pressure_name("stress"), is_pressure_name("virial")
    (True, False, False)
    """
    lower = name.lower()
    return "pressure" in lower and "stress" not in lower and "virial" not in lower


def names_like(kind: str, names: Iterable[str]) -> list[str]:
    """Return the names that are those of an energy, of forces or of a stress, sorted.

    >>> names_like("forces", ["F", "REF_forces", "dE/dx", "force_weight", "momenta"])
    ['F', 'REF_forces', 'dE/dx']

    Parameters
    ----------
    kind : "energy", "forces" or "stress"
    """
    return sorted(
        name for name in names if _NAMES[kind].search(name) and not _NO_LABEL.search(name)
    )


def look_alikes(kind: str, entries: Mapping[str, object], n_atoms: int) -> list[str]:
    """Return the names whose name and shape are those of an energy, of forces or of a stress.

    Parameters
    ----------
    kind : "energy", "forces" or "stress"
    entries : everything that a frame holds, by name
    """
    return [name for name in names_like(kind, entries) if _fits(kind, entries[name], n_atoms)]


def named_options(kind: str, names: Iterable[str]) -> str:
    """Return the options that would say what look-alikes are, for a message.

    >>> named_options("forces", ["F", "gradient"])
    "forces_key = 'F' or gradient_key = 'gradient'"
    >>> named_options("stress", ["pressure"])
    "the negative of 'pressure' as 'stress' in the file"
    """
    return " or ".join(_option(kind, name) for name in names)


def _option(kind: str, name: str) -> str:
    if kind == "stress" and is_pressure_name(name):  # which no option turns round
        return f"the negative of '{name}' as 'stress' in the file"
    return f"{_key(kind, name)} = '{name}'"


def _key(kind: str, name: str) -> str:
    if kind == "forces" and is_gradient_name(name):
        return "gradient_key"
    if kind == "stress" and is_virial_name(name):
        return "virial_key"
    return f"{kind}_key"


def _fits(kind: str, value: object, n_atoms: int) -> bool:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        return False
    if kind == "energy":
        return array.size == 1
    if kind == "forces":
        return array.shape in ((n_atoms, 3), (3 * n_atoms,)) and array.size > 0
    return array.shape in ((6,), (9,), (3, 3))
