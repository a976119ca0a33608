"""Velocity autocorrelation functions and the spectrum of vibrations.

    C(t) = ⟨v(t0)·v(t0 + t)⟩ / ⟨v²⟩,   I(ν) = ∫ C_m(t) w(t) cos(2πνt) dt

over atoms and all origins t0; C_m has each atom weighted with its mass, so that I is the
vibrational density of states, normalised to the area 1. w is the half of a Hann window that
ends at the longest time, whose inverse is the width of a sharp line in the spectrum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy import fft
from scipy.integrate import trapezoid

from eqcalc.analysis.blocks import N_BLOCKS, error_of_blocks
from eqcalc.analysis.correlations import autocorrelation, require_memory
from eqcalc.analysis.rdf import require_elements
from eqcalc.errors import ConfigError, StructureError
from eqcalc.simulate.velocities import has_velocities

__all__ = ["CM_PER_PS", "VACF", "Velocities"]

CM_PER_PS = units._c * 100 * 1e-12
"""The speed of light: a wavenumber times it is a frequency in 1/ps."""

ALL = "all"
_FEWEST = 10  # frames
_PADDED = 8  # times the length, for a spectrum whose peaks are round


@dataclass(frozen=True)
class VACF:
    """Velocity autocorrelation by element and of all atoms; shapes: n_lags, n_frequencies.

    time_ps : (n_lags,)
    vacf : (n_lags,) by element, 1 at time 0; "all" is weighted with masses
    error : (n_lags,) by element; NaN where stretches are too short
    wavenumber : (n_frequencies,), cm⁻¹
    spectrum : (n_frequencies,) by element, cm; their shares of "all", whose area is 1
    resolution : cm⁻¹, the width at half height of a line that is sharp
    highest : cm⁻¹; faster motion is folded back below it
    """

    time_ps: NDArray[np.float64]
    vacf: dict[str, NDArray[np.float64]]
    error: dict[str, NDArray[np.float64]]
    wavenumber: NDArray[np.float64]
    spectrum: dict[str, NDArray[np.float64]]
    resolution: float
    highest: float

    def peaks(self, n_most: int = 5) -> list[float]:
        """Return the wavenumbers of the highest maxima of the spectrum of all atoms."""
        values = self.spectrum[ALL]
        inner = np.flatnonzero((values[1:-1] > values[:-2]) & (values[1:-1] >= values[2:])) + 1
        high = inner[values[inner] > 0.05 * values.max()]
        order = high[np.argsort(-values[high])][:n_most]
        return sorted(float(self.wavenumber[k]) for k in order)


class Velocities:
    """Keeps the velocities of frames.

    Parameters
    ----------
    first : a frame; all others have its atoms
    n_frames : how many will be added
    elements : symbols to look at; all by default

    Raises
    ------
    ConfigError : an element is not there.
    StructureError : there are too few frames, or they have no velocities.
    NotEnoughMemoryError : the velocities do not fit into memory.
    """

    def __init__(self, first: Atoms, n_frames: int, *, elements: list[str] | None = None):
        if not first.has("momenta"):
            try:
                has_velocities(first)
            except ConfigError as error:  # it has some, of unknown unit
                raise StructureError(str(error)) from error
            raise StructureError(
                "the frames have no velocities (momenta, in ASE's words), which a velocity "
                "autocorrelation is made of; positions alone do not do."
            )
        if n_frames < _FEWEST:
            raise StructureError(
                f"{n_frames} frames are too few for a velocity autocorrelation; {_FEWEST} are the "
                "least, thousands are usual."
            )
        present = list(dict.fromkeys(first.symbols))
        self._elements = present if elements is None else list(dict.fromkeys(elements))
        require_elements(self._elements, present)
        self._elements.sort(key=chemical_symbols.index)
        symbols = np.array(list(first.symbols))
        self._kept = np.flatnonzero(np.isin(symbols, self._elements))
        self._symbols = symbols[self._kept]
        self._masses = first.get_masses()[self._kept]
        require_memory(n_frames, len(self._kept), "the velocities")
        self._velocities = np.zeros((n_frames, len(self._kept), 3))
        self._n_added = 0

    def add(self, frame: Atoms) -> None:
        """Keep the velocities of a frame.

        Raises
        ------
        StructureError : it has none, or some that are NaN or infinite.
        """
        if not frame.has("momenta"):
            raise StructureError(f"frame {self._n_added} of those looked at has no velocities.")
        velocities = frame.get_velocities()[self._kept]
        if not np.isfinite(velocities).all():
            raise StructureError(
                f"velocities of frame {self._n_added} of those looked at are NaN or infinite; skip "
                "what is before, or write the frames without it into a file of their own."
            )
        self._velocities[self._n_added] = velocities
        self._n_added += 1

    def result(
        self, interval_fs: float, *, n_even: int | None = None, resolution: float = 10.0
    ) -> VACF:
        """Return autocorrelations and spectra.

        Parameters
        ----------
        interval_fs : time between two frames
        n_even : how many frames from the first on are so far apart; all by default
        resolution : cm⁻¹; sets the longest time, half of the trajectory at most

        Raises
        ------
        ConfigError : the resolution is no number above 0.
        StructureError : nothing moves.
        """
        if not (np.isfinite(resolution) and resolution > 0):
            raise ConfigError(f"the resolution must be above 0 cm⁻¹, not {resolution:g}.")
        velocities = self._velocities[: self._n_added if n_even is None else n_even]
        n_frames = len(velocities)
        interval_ps = interval_fs / 1000
        wanted = int(np.ceil(1 / (CM_PER_PS * resolution) / interval_ps)) + 1
        n_lags = max(2, min(n_frames // 2 + 1, wanted))
        of_atoms = autocorrelation(velocities, n_lags)  # (n_atoms, n_lags)
        if not (of_atoms[:, 0] > 0).any():
            raise StructureError("all velocities are zero; they have no autocorrelation.")
        parts = np.array_split(velocities, N_BLOCKS)
        short = min(n_lags, min(map(len, parts)) // 2 + 1)
        of_parts = [autocorrelation(part, short) for part in parts]
        vacf, error, weighted = {}, {}, {}
        for element in [*self._elements, ALL]:
            chosen = np.ones(len(self._symbols), dtype=bool)
            if element != ALL:
                chosen = self._symbols == element
            weights = self._masses * chosen
            weighted[element] = weights @ of_atoms
            scale = weighted[element][0] or 1.0
            vacf[element] = weighted[element] / scale
            error[element] = np.full(n_lags, np.nan)
            blocks = [weights @ part for part in of_parts]
            error[element][:short] = error_of_blocks([b / (b[0] or 1.0) for b in blocks])
        wavenumber, spectrum = _spectra(weighted, interval_ps)
        longest_ps = (n_lags - 1) * interval_ps
        return VACF(
            np.arange(n_lags, dtype=np.float64) * interval_ps,
            vacf,
            error,
            wavenumber,
            spectrum,
            1 / (CM_PER_PS * longest_ps),
            0.5 / (CM_PER_PS * interval_ps),
        )


def _spectra(
    weighted: dict[str, NDArray[np.float64]], interval_ps: float
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Return wavenumbers (cm⁻¹) and spectra (cm) of autocorrelations."""
    n_lags = len(weighted[ALL])
    window = 0.5 * (1 + np.cos(np.pi * np.arange(n_lags) / (n_lags - 1)))
    n_all = _PADDED * n_lags
    wavenumber = np.arange(n_all + 1) / (2 * n_all * interval_ps) / CM_PER_PS
    found = {}
    for element, values in weighted.items():
        even = np.zeros(2 * n_all)  # C(-t) = C(t)
        even[:n_lags] = values * window
        even[-n_lags + 1 :] = (values * window)[1:][::-1]
        found[element] = fft.rfft(even).real
    area = trapezoid(found[ALL], wavenumber)
    return wavenumber, {element: values / area for element, values in found.items()}
