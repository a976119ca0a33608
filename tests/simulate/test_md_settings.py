"""What a user may ask for, and what is refused with a reason."""

from dataclasses import asdict, replace

import pytest

from eqcalc.errors import ConfigError
from eqcalc.simulate import MDSettings, RelaxSettings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"ensemble": "nvt-langvin"},
            r"ensemble must be one of .*, found 'nvt-langvin'.*Did you mean 'nvt-lang",
        ),
        (
            {"trajectory_format": "exyz"},
            "trajectory_format must be one of .*, found 'exyz'.*'extxyz'",
        ),
        ({"temperature_K": -1.0}, "temperature must be 0 K or more"),
        ({"temperature_K": float("nan")}, "temperature must be 0 K or more"),
        ({"temperature_K": 0.0, "ensemble": "nvt-nhc"}, "above 0 K.*nvt-langevin"),
        ({"timestep_fs": 0.0}, "timestep_fs must be a positive number"),
        ({"timestep_fs": 500.0}, "timestep of 500.0 fs is refused.*femtosecond"),
        ({"n_steps": 0}, "n_steps must be an integer >= 1"),
        ({"n_steps": 1.5}, "n_steps must be an integer"),
        ({"seed": -1}, "seed must be an integer >= 0"),
        ({"log_every": 0}, "log_every must be an integer >= 1"),
        ({"friction_per_fs": -0.1}, "friction_per_fs must be a positive number"),
        ({"thermostat_time_fs": 0.0}, "thermostat_time_fs must be"),
        ({"pressure_gpa": float("inf")}, "pressure must be a number in GPa"),
        ({"pressure_gpa": 1.01325}, r"of 1\.01325 is one atmosphere in bar, and GPa are meant"),
        ({"pressure_gpa": 101325}, r"of 101325 is one atmosphere in Pa"),
        ({"pressure_gpa": -1e5}, r"of -100000 GPa is above that of any planet's middle"),
        ({"ensemble": "nve", "to_temperature_K": 400.0}, "of a thermostat, and ensemble 'nve' has"),
        ({"to_temperature_K": -1.0}, "temperature must be 0 K or more, not -1.0"),
        ({"ensemble": "nvt-nhc", "to_temperature_K": 0.0}, "needs a temperature above 0 K"),
        ({"to_pressure_gpa": 1.0}, "of a barostat, and ensemble 'nvt-langevin' has none"),
        ({"ensemble": "npt", "to_pressure_gpa": float("nan")}, "to_pressure_gpa must be a number"),
        ({"ramp_steps": 100}, "ramp_steps is of a ramp: give to_temperature_K or to_pressure_gpa"),
        ({"to_temperature_K": 400.0, "ramp_steps": 0}, "ramp_steps must be an integer >= 1"),
        ({"log_every_fs": 0.0}, "log_every_fs must be a positive number"),
        ({"log_every_fs": 0.2}, r"multiple of the timestep of 0.5 fs, not 0.2 fs; near .* 0.5 fs"),
        ({"log_every_fs": 1.3}, r"multiple of .* 0.5 fs, not 1.3 fs; near it is 1 or 1.5 fs"),
        ({"log_every_fs": 5.0, "log_every": 10}, r"log_every=10 and log_every_fs=5 do not go tog"),
        ({"log_every_fs": 5.0, "log_every": 20}, r"log_every=20 and log_every_fs=5 do not go tog"),
        ({"minimize_fmax": 0.0}, "minimize_fmax must be a positive number"),
        ({"minimize_steps": 0}, "minimize_steps must be an integer >= 1"),
    ],
)
def test_md_settings_refuse_with_a_reason(wrong, message):
    with pytest.raises(ConfigError, match=message):
        MDSettings(**wrong)


def test_time_between_frames_becomes_steps():
    assert MDSettings().log_every == 10
    settings = MDSettings(timestep_fs=0.1, log_every_fs=0.7)  # no whole number in binary
    assert settings.log_every == 7
    assert MDSettings(**{**asdict(settings), "guards": settings.guards}) == settings
    assert replace(settings, timestep_fs=0.05).log_every == 7


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "bgfs"}, "optimizer must be one of .*, found 'bgfs'.*Did you mean 'bfgs'"),
        ({"trajectory_format": "pdb"}, "trajectory_format must be one of .*, found 'pdb'"),
        ({"fmax": 0.0}, "fmax must be a positive number"),
        ({"max_steps": 0}, "max_steps must be"),
        ({"pressure_gpa": 5.0}, "acts on the cell, which stays fixed"),
        ({"cell": True, "pressure_gpa": float("nan")}, "pressure must be a number in GPa"),
        ({"cell": True, "pressure_gpa": 1.013}, r"one atmosphere in bar"),
    ],
)
def test_relax_settings_refuse_with_a_reason(wrong, message):
    with pytest.raises(ConfigError, match=message):
        RelaxSettings(**wrong)


@pytest.mark.parametrize(
    ("ensemble", "options", "message"),
    [
        ("nvt-langevin", {"friction_per_fs": 1.0}, r"friction of 1 /fs stops .*1/ps is 0\.001"),
        ("nvt-nhc", {"thermostat_time_fs": 0.1}, r"a thermostat_time_fs of 0\.1 fs is less than 5"),
        ("npt", {"barostat_time_fs": 1.0}, r"a barostat_time_fs of 1 fs .* 0\.1 ps are 100"),
    ],
)
def test_constants_in_the_units_of_other_programs_are_refused(ensemble, options, message):
    with pytest.raises(ConfigError, match=message):
        MDSettings(ensemble, **options)
    MDSettings("nve", **options)  # which has neither
