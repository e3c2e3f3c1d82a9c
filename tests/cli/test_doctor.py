"""`doctor`: what is here, what is missing with its install line, what disturbs measurements."""

import json

import pytest

from deepmad_hw.workflows import doctor


def test_doctor_shows_machine_and_packages(run):
    ran = run("doctor")
    assert ran.code == 0
    for word in ("cpu", "governor", "load", "stolen time", "onnxruntime", "pyomo", "highspy", "casadi"):
        assert f"\n{word} " in ran.out


def test_doctor_answers_as_one_json_object(run):
    data = json.loads(run("doctor", "--json").out)
    assert data["schema"] == 1
    assert data["cores"] >= 1
    assert {"name", "role", "version", "install"} == set(data["packages"][0])


def test_a_missing_extra_comes_with_its_install_line(run, monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    ran = run("doctor")
    assert '\nonnxruntime is missing: pip install "deepmad-hw[cpu]"' in ran.out
    assert json.loads(run("doctor", "--json").out)["missing"][0] == {
        "name": "onnxruntime",
        "install": 'pip install "deepmad-hw[cpu]"',
    }


def test_two_variants_of_one_runtime_are_both_named(monkeypatch):
    versions = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.0"}
    monkeypatch.setattr(doctor, "_version", versions.get)
    runtime = next(iter(doctor.diagnose().packages))
    assert (runtime.name, runtime.version) == ("onnxruntime and onnxruntime-gpu", "1.32.0 and 1.31.0")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"load": 1.5}, "other programs are running (load 1.50 on 4 cores)"),
        ({"stolen_share": 0.05}, "the host took away 5.0% of processor time"),
        ({"governor": "powersave"}, "cpupower frequency-set -g performance"),
        ({"governor": "unknown"}, "the frequency governor cannot be seen"),
        ({"cores": 1}, "only one core"),
    ],
)
def test_each_disturbance_is_one_sentence_with_what_to_do(changed, said):
    calm = {"cores": 4, "governor": "performance", "load": 0.1, "stolen_share": 0.0}
    assert doctor.noise(**calm) == ()
    (sentence,) = doctor.noise(**{**calm, **changed})
    assert said in sentence


def test_sensors_and_gpus_are_read_where_the_system_tells(tmp_path):
    zone = tmp_path / "thermal_zone0"
    zone.mkdir()
    (zone / "type").write_text("x86_pkg_temp\n")
    (zone / "temp").write_text("47000\n")
    (tmp_path / "thermal_zone1").mkdir()
    assert doctor._sensors(tmp_path) == (doctor.Sensor(name="x86_pkg_temp", celsius=47.0),)
    card = tmp_path / "0000:01:00.0"
    card.mkdir()
    (card / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 1\n")
    assert doctor._gpus(tmp_path) == ("NVIDIA H200",)
