"""The simulation of in.lammps, line by line, over ASE's classes.

Eight molecules of ethanol, far enough apart that each is alone to the model; 25 fs without and
25 fs with a thermostat.
"""

from pathlib import Path

from eqcalc.simulate.lammps_style import LammpsScript

s = LammpsScript(units="metal")
s.read_data(Path(__file__).parent / "ethanol.data", atom_style="atomic")

s.pair_style("eqcalc", precision="float64")
s.pair_coeff("painn-ethanol", "C", "H", "O")

s.timestep(0.0005)
s.thermo(10)
s.thermo_style("custom", "step", "pe", "ke", "etotal")
s.thermo_modify(format_float="%.4f")

s.fix_nve()
s.run(50)

s.unfix("nve")
s.fix_nvt(temp=(300, 300, 0.1))
s.run(50)
