"""What a model's card says, against the model and the structure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from eqcalc.elements import trained_on
from eqcalc.errors import listing
from eqcalc.model_file.seen import SeenRanges
from eqcalc.neighbours import build_graph
from eqcalc.testing.geometries import isolated
from eqcalc.testing.subjects import evaluate
from eqcalc.verification.finding import Finding, Verdict, skipped
from eqcalc.verification.specimen import Specimen

__all__ = ["composition", "distances", "reference_energies"]

_EXACT = 1e-5  # eV; the exporter says of more than 1e-6
_DECLARED = re.compile(r"An atom alone has another energy .* \(by up to (\S+) eV\)")
_ROUNDED = 1.06  # a card keeps two digits


def reference_energies(specimen: Specimen) -> Finding:
    """Compare the energy of an atom alone with the card's reference energy of its element."""
    name = "atoms alone: card's energies"
    card = specimen.model.card
    differences = {
        # The subject's energies are without reference energies.
        symbol: float(evaluate(specimen.subject, isolated(symbol), f"isolated {symbol}").energy[0])
        for symbol in specimen.symbols
    }
    worst = max(differences, key=lambda symbol: abs(differences[symbol]))
    found, declared = abs(differences[worst]), _declared(card.gives_up)
    allowed = max(_EXACT, _ROUNDED * declared)
    holds = found <= allowed
    detail = f"{worst}: {differences[worst]:+.2g} eV from its reference energy"
    if declared:
        detail += f"; the card says up to {declared:g} eV"
    if card.has_fitted_energies:
        detail += "; the references are a fit to totals: a single one means nothing"
        return Finding(name, Verdict.NOTED, detail, found, None, "eV")
    advice = (
        "Atomisation and dissociation energies from the card's references are wrong; the card "
        "does not belong to these weights: export the model again."
    )
    verdict = Verdict.OK if holds else Verdict.FAILED
    return Finding(name, verdict, detail, found, allowed, "eV", advice="" if holds else advice)


def composition(specimen: Specimen) -> Finding:
    """Say whether the model was trained on such a structure."""
    name = "trained on this composition"
    card, atoms = specimen.model.card, specimen.atoms
    formula = atoms.get_chemical_formula(mode="hill")
    if card.is_universal:
        limits = card.training_data.get("not good for")
        scope = f"universal, {len(card.elements)} elements, compositions not on its card"
        return skipped(name, scope + (f"; not good for {limits}" if limits else ""))
    if not card.compositions:
        return skipped(name, "not recorded on the card")
    if trained_on(card.compositions, atoms):
        return Finding(name, Verdict.OK, formula)
    return Finding(
        name,
        Verdict.NOTED,
        f"{formula} is none of those trained on: {listing(card.compositions)}",
        advice="Compare some frames with a calculation of your own (eqcalc evaluate).",
    )


def distances(specimen: Specimen) -> Finding:
    """Say whether distances and numbers of neighbours are among those of the training data."""
    name = "distances seen in training"
    card, atoms = specimen.model.card, specimen.atoms
    if not card.seen:
        return skipped(name, "not recorded on the card")
    graph = build_graph(atoms, card.cutoff)
    senders, receivers = graph.edge_index.numpy()
    lengths = np.linalg.norm(graph.edge_vectors.numpy(), axis=1)
    ranges = SeenRanges(card.seen, card.cutoff)
    outside = ranges.outside(atoms.numbers, senders, receivers, lengths)
    if outside is None:
        return Finding(name, Verdict.OK, card.seen_in_training)
    what, where = outside
    return Finding(
        name,
        Verdict.NOTED,
        f"{what} (atoms {listing(where)})",
        advice="The model answers out of nothing there: label such frames and train on them.",
    )


def _declared(sentences: Sequence[str]) -> float:
    """Return by how many eV the card says that atoms alone differ from their references."""
    matches = [_DECLARED.search(sentence) for sentence in sentences]
    return max((float(match[1]) for match in matches if match), default=0.0)
