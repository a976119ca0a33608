"""Model cards: what a potential or a propagator is, as JSON and as a page to read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from eqcalc.errors import listing
from eqcalc.model_file.fields import require_card

__all__ = ["CARDS", "FORMAT_VERSION", "ModelCard", "PropagatorCard"]

FORMAT_VERSION = 2
"""1: every weight in weights.safetensors; 2: those that lie in records are named by an index."""

_LONGEST = 300  # characters of a table on the page, such as rows that were drawn at random

_Card = TypeVar("_Card", bound="ModelCard")


@dataclass(frozen=True)
class ModelCard:
    """What a model is: enough to run it, rebuild it and judge it.

    architecture, config : registry name and the full options of its Config
    elements : symbols the model was trained on; others are refused
    cutoff : Å; n_hops : message-passing steps (interaction range = cutoff · n_hops)
    dtype : of the stored weights
    reference_energies : eV by symbol; scale : eV
    zbl : arguments of :class:`eqcalc.nn.zbl.ZBL`; empty without a repulsion of nuclei
    gives_up : what the network lacks of the contract, a sentence each
    training_data : free form; ``compositions`` lists Hill formulas seen in training; a potential
        for all compositions of its elements has ``universal`` (true), and says by
        ``level of theory``, ``data`` and ``not good for`` what to expect of it
    errors : free form, with units in the keys
    seen : pairs, distances and numbers of neighbours of the training data, see
        :func:`eqcalc.model_file.seen.seen_in`; empty where that is not recorded
    trained_frames : by which frames that were trained on are known again, those of the models
        before it too, see :func:`eqcalc.model_file.trained_frames.trained_frames`; or empty
    origin : of a model that was imported: package, version, file, sha256 (of that file), licence
        and level of theory, each a text; empty for a model that eqcalc trained
    kind : "potential" or "propagator"
    digest : of all entries of the archive, the card included
        (:func:`eqcalc.model_file.entries.digest_of`); empty in files that are older than it
    """

    name: str
    architecture: str
    config: dict[str, Any]
    elements: list[str]
    cutoff: float
    n_hops: int
    dtype: str
    reference_energies: dict[str, float]
    scale: float
    units: dict[str, str] = field(default_factory=lambda: {"energy": "eV", "length": "Angstrom"})
    training_data: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    licence: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    kind: str = "potential"
    zbl: dict[str, Any] = field(default_factory=dict)
    gives_up: list[str] = field(default_factory=list)
    origin: dict[str, str] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)
    trained_frames: str = ""
    digest: str = field(default="", compare=False)

    def to_json(self) -> str:
        """Return the text of ``card.json``."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls: type[_Card], text: str) -> _Card:
        """Read the text of ``card.json``.

        Raises
        ------
        ValueError, TypeError : it is not a card of this format.
        """
        content = json.loads(text)
        known = {f.name for f in fields(cls)}
        # A later minor version may add keys; what this version needs must be there.
        card = cls(**{key: value for key, value in content.items() if key in known})
        require_card(asdict(card))
        return card

    def to_markdown(self) -> str:
        """Return the card as a page to read."""
        energies = (f"{symbol} {e:.6f}" for symbol, e in self.reference_energies.items())
        rows = {
            "elements": ", ".join(self.elements),
            "cutoff": f"{self.cutoff:g} Å, {self.n_hops} message-passing steps "
            f"(interaction range {self.cutoff * self.n_hops:g} Å)",
            "precision": self.dtype,
            "units": f"energy {self.units['energy']}, length {self.units['length']}, "
            "forces eV/Å, stress eV/Å³ (tension positive)",
            "reference energies": f"{', '.join(energies)} eV"
            + " (a fit to totals; a single one means nothing)" * self.has_fitted_energies,
            "scale": f"{self.scale:.6g} eV",
            **({"repulsion of nuclei": f"ZBL within {self.reach_of_zbl}"} if self.zbl else {}),
            **({"gives up": " ".join(self.gives_up)} if self.gives_up else {}),
            "seen in training": self.seen_in_training,
            "licence": self.licence or "not stated",
            "written by": ", ".join(f"{k} {v}" for k, v in self.versions.items()),
        }
        return self._page(rows, {_with_unit(key): value for key, value in self.errors.items()})

    def _page(self, rows: dict[str, Any], errors: dict[str, Any]) -> str:
        options = ", ".join(f"{key} = {value}" for key, value in self.config.items())
        sections = [f"# {self.name}", self.description, f"Architecture **{self.architecture}**"]
        sections[-1] += f": {options}" if options else ""
        sections.append(_markdown_list(rows))
        parts = (
            ("Origin", self.origin),
            ("Training data", self.training_data),
            ("Errors", errors),
        )
        for title, content in parts:
            if content:
                sections.append(f"## {title}\n\n{_markdown_list(content)}")
        return "\n\n".join(section for section in sections if section) + "\n"

    @property
    def seen_in_training(self) -> str:
        """What is recorded of pairs and distances, in a line."""
        if not self.seen:
            return "distances and numbers of neighbours are not recorded"
        pairs = self.seen["distances"].items()
        closest = [f"{pair} {intervals[0][0]:.2f} Å" for pair, intervals in pairs if intervals]
        return f"{len(closest)} pairs of elements; closest {listing(closest)}"

    @property
    def reach_of_zbl(self) -> str:
        """Within which distances nuclei repel each other by ZBL, where they do."""
        rows = self.zbl.get("pair_cutoffs")
        if rows is None:
            return f"{self.zbl['cutoff']:g} Å"
        cutoffs = [value for row in rows for value in row]
        return f"{min(cutoffs):.2f} to {max(cutoffs):.2f} Å, by elements"

    @property
    def has_fitted_energies(self) -> bool:
        """Whether reference energies are a fit to total energies: no atom alone has them."""
        key = "reference energies by"
        while self.training_data.get(key) == "kept":  # those of the model that it comes from
            key = f"parent's {key}"
        return self.training_data.get(key) in ("least_squares", "shifted")

    @property
    def is_universal(self) -> bool:
        """Whether it was trained for any composition of its elements."""
        return self.training_data.get("universal") is True

    @property
    def scope(self) -> str:
        """What a universal potential is, in a line: level of theory, data, elements, limits."""
        said = [self.training_data.get(key) for key in ("level of theory", "data")]
        line = ", ".join(str(text) for text in said if text) or "level of theory not stated"
        line += f"; {len(self.elements)} elements"
        limits = self.training_data.get("not good for")
        return line + (f"; not good for {limits}" if limits else "")

    @property
    def compositions(self) -> list[str]:
        """Hill formulas that the model was trained on; empty where not recorded."""
        return list(self.training_data.get("compositions", []))


@dataclass(frozen=True)
class PropagatorCard(ModelCard):
    """What a propagator is; fields of potentials are empty.

    timestep : time that one step covers
    objects : kinds seen in training; charges, mass : of the particles seen in training
    """

    units: dict[str, str] = field(
        default_factory=lambda: {"energy": "none", "length": "1", "time": "1"}
    )
    kind: str = "propagator"
    timestep: float = 1.0
    objects: list[str] = field(default_factory=list)
    charges: list[float] = field(default_factory=list)
    mass: float = 1.0

    def to_markdown(self) -> str:
        """Return the card as a page to read."""
        rows: dict[str, Any] = {
            "kind": "learned dynamics: positions and velocities one timestep later, no energy",
            "run with": "eqcalc.dynamics.Propagator",
            "timestep": f"{self.timestep:g}",
            "objects": ", ".join(self.objects),
            "particles": f"charges {', '.join(f'{q:+g}' for q in self.charges)}, "
            f"mass {self.mass:g}, no box",
            "units": "none: those of the training data",
            "precision": self.dtype,
            "licence": self.licence or "not stated",
            "written by": ", ".join(f"{k} {v}" for k, v in self.versions.items()),
        }
        return self._page(rows, self.errors)


CARDS: dict[str, type[ModelCard]] = {card.kind: card for card in (ModelCard, PropagatorCard)}
"""Card by kind of model."""


def _with_unit(key: str) -> str:
    """Return "forces MAE (meV/Å)" of "forces_mae_mev_per_a"; other keys as they are."""
    for ending, unit in (("_mev_per_a3", "meV/Å³"), ("_mev_per_a", "meV/Å"), ("_mev", "meV")):
        if key.endswith(ending):
            words = key.removesuffix(ending).split("_")
            unit += "/atom" * ("atom" in words)
            return " ".join([*words[:-1], words[-1].upper()]) + f" ({unit})"
    return key


def _markdown_list(content: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
        if isinstance(value, dict):
            text = "; ".join(f"{name} {each}" for name, each in value.items())
            return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    return "\n".join(f"- {key}: {shown(value)}" for key, value in content.items())
