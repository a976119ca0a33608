"""Twelve solids by a universal potential, beside its own package, PBE and experiment.

    python examples/results/solids.py [--model sevennet-0] [--sevenn ENV/bin/python]

Writes solids.md, solids.json and solids.png. With ``--sevenn`` SevenNet's own calculator computes
the same in its environment; else its values are those of the last time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from ase.collections import dcdft
from solids_of import SOLIDS

from eqcalc.files import write_whole

HERE = Path(__file__).parent
COMPOUNDS = {
    # a in Å and B in GPa by PBE, then by experiment without zero-point motion.
    "NaCl": ((5.714, 23.7), (5.565, 26.6)),
    "CaO": ((4.841, 105.0), (4.781, 115.0)),
    "MgS": ((5.238, 74.4), (5.188, 80.0)),
    "GaP": ((5.514, 77.0), (5.441, 87.4)),
}
SOURCES = """\
PBE and experiment of the elements: the all-electron (WIEN2k) values and the zero-point corrected
measurements of Lejaeghere et al., Crit. Rev. Solid State Mater. Sci. 39, 1 (2014),
doi:10.1080/10408436.2013.772503, as ASE carries them (`ase.collections.dcdft`). PBE of the
compounds: Tran et al., Phys. Rev. B 75, 115131 (2007), doi:10.1103/PhysRevB.75.115131;
their experiments, zero-point corrected: Haas, Tran, Blaha, Phys. Rev. B 79, 085104 (2009),
doi:10.1103/PhysRevB.79.085104, and Hao et al., Phys. Rev. B 85, 014111 (2012),
doi:10.1103/PhysRevB.85.014111.
"""
_IN_CUBE = {"fcc": 4, "bcc": 2, "diamond": 8}  # atoms of a cubic cell


def literature(name: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return (a in Å, B in GPa) by PBE and by experiment."""
    if name in COMPOUNDS:
        return COMPOUNDS[name]
    data, n = dcdft.data[name], _IN_CUBE[SOLIDS[name][0]]
    pbe, measured = (
        (float(np.cbrt(n * data[f"{key}_volume"])), float(data[f"{key}_B"]))
        for key in ("wien2k", "exp")
    )
    return pbe, measured


def values(python: str, package: str, model: str) -> dict[str, list[float]]:
    """Run the calculation in an environment."""
    command = [python, str(HERE / "solids_of.py"), package, model]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Return the page."""
    ours, theirs = results["eqcalc"], results.get("sevenn", {})
    lines = [
        "# Twelve solids by sevennet-0",
        "",
        "    python examples/results/solids.py --sevenn ENV/bin/python",
        "",
        "Cubic lattice constants a (Å) and bulk moduli B (GPa) from Birch-Murnaghan fits, beside "
        "SevenNet's own calculator (both in float32), PBE and experiment.",
        "",
        "| solid | a | a, SevenNet | a, PBE | a, exp. | B | B, SevenNet | B, PBE | B, exp. |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in SOLIDS:
        pbe, measured = literature(name)
        own = theirs.get(name, [float("nan")] * 2)
        lengths = [ours[name][0], own[0]]
        moduli = [ours[name][1], own[1]]
        lines.append(
            f"| {name} | "
            + " | ".join(f"{a:.4f}" for a in lengths)
            + f" | {pbe[0]:.3f} | {measured[0]:.3f} | "
            + " | ".join(f"{b:.1f}" for b in moduli)
            + f" | {pbe[1]:.1f} | {measured[1]:.1f} |"
        )
    if theirs:
        worst = [max(abs(ours[n][k] - theirs[n][k]) for n in SOLIDS) for k in (0, 1)]
        lines += ["", f"Largest difference from SevenNet: {worst[0]:.1e} Å, {worst[1]:.1e} GPa."]
    for k, what in ((0, "lattice constants"), (1, "bulk moduli")):
        off = [100.0 * (ours[n][k] / literature(n)[0][k] - 1.0) for n in SOLIDS]
        lines.append(
            f"Beside PBE, {what} are off by {np.mean(off):+.2f} % on average, at most "
            f"{max(off, key=abs):+.1f} % ({list(SOLIDS)[int(np.argmax(np.abs(off)))]})."
        )
    return "\n".join([*lines, "", "![errors](solids.png)", "", SOURCES])


def draw(results: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw the errors beside PBE."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(7.5, 5.0), sharex=True, layout="constrained")
    x = np.arange(len(SOLIDS))
    for k, (axis, title) in enumerate(
        zip(axes, ("lattice constant, % off PBE", "bulk modulus, % off PBE"), strict=True)
    ):
        pbe = np.array([literature(n)[0][k] for n in SOLIDS])
        measured = np.array([literature(n)[1][k] for n in SOLIDS])
        found = np.array([results["eqcalc"][n][k] for n in SOLIDS])
        axis.bar(x, 100 * (found / pbe - 1), width=0.5, label="sevennet-0, eqcalc")
        if "sevenn" in results:
            own = np.array([results["sevenn"][n][k] for n in SOLIDS])
            axis.plot(x, 100 * (own / pbe - 1), "k_", ms=18, label="its own calculator")
        axis.plot(x, 100 * (measured / pbe - 1), "d", color="tab:red", label="experiment")
        axis.axhline(0.0, color="grey", lw=0.8)
        axis.set_ylabel(title)
    axes[0].legend()
    axes[1].set_xticks(x, list(SOLIDS))
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sevennet-0")
    parser.add_argument("--sevenn", help="a Python with sevenn")
    options = parser.parse_args()
    kept = HERE / "solids.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    results["eqcalc"] = values(sys.executable, "eqcalc", options.model)
    if options.sevenn:
        results["sevenn"] = values(options.sevenn, "sevenn", "7net-0")
    write_whole(kept, (json.dumps(results, indent=1) + "\n").encode())
    draw(results, HERE / "solids.png")
    page = table(results)
    write_whole(HERE / "solids.md", page.encode())
    print(page)


if __name__ == "__main__":
    main()
