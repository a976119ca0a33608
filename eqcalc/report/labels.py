"""Names of columns and settings as people write them: ``pressure_gpa`` is a pressure in GPa."""

from __future__ import annotations

__all__ = ["label_of"]

# Endings of names, the longer before those that they end in.
_UNITS = {
    "meV_per_atom_ps": "meV/atom/ps",
    "mev_per_atom_ps": "meV/atom/ps",
    "meV_per_atom": "meV/atom",
    "eV_per_atom": "eV/atom",
    "eV_per_A3": "eV/Å³",
    "eV_per_A": "eV/Å",
    "g_per_cm3": "g/cm³",
    "per_fs": "1/fs",
    "per_ps": "1/ps",
    "gpa": "GPa",
    "GPa": "GPa",
    "meV": "meV",
    "deg": "°",
    "A3": "Å³",
    "eV": "eV",
    "fs": "fs",
    "ps": "ps",
    "K": "K",
    "A": "Å",
    "s": "s",
}


def label_of(name: str) -> tuple[str, str]:
    """Return what a name stands for, and its unit.

    >>> label_of("largest_force_eV_per_A")
    ('largest force', 'eV/Å')
    >>> label_of("n_steps")
    ('n steps', '')
    """
    for ending, unit in _UNITS.items():
        if name.endswith(f"_{ending}"):
            return name.removesuffix(f"_{ending}").replace("_", " "), unit
    return name.replace("_", " "), ""
