"""A table as one flat file, for programs that know nothing of sidecars."""

import csv
import io
from dataclasses import replace

import pytest

from deepmad_hw.errors import ConfigError, MissingExtraError
from deepmad_hw.latency.measurement import Environment, LayerMeasurement
from deepmad_hw.latency.table import LatencyTable
from deepmad_hw.network.layer import LayerSpec
from deepmad_hw.workflows.tables.table_export import export_table

CONV = LayerSpec(op="conv", in_channels=8, out_channels=8, height=8, width=8, residual=True)
TABLE = LatencyTable(
    name="mine",
    environment=Environment(
        device="CPU, big",
        machine="x86_64",
        cores=2,
        features=("avx2", "fma"),
        governor="unknown",
        runtime="replay",
        runtime_version="1",
    ),
    rows=(
        LayerMeasurement(spec=CONV, samples_us=(3.0, 1.0, 2.0)),
        LayerMeasurement(spec=replace(CONV, kernel=3), samples_us=(), status="oom"),
    ),
    measured_on="2026-11-23",
)


def test_a_csv_says_where_every_row_was_measured(tmp_path):
    assert export_table(TABLE, tmp_path / "flat.csv") == "csv"
    good, failed = csv.DictReader(io.StringIO((tmp_path / "flat.csv").read_text()))
    assert {key: good[key] for key in ("table", "op", "kernel", "residual", "median_us", "samples")} == {
        "table": "mine",
        "op": "conv",
        "kernel": "1",
        "residual": "1",
        "median_us": "2.0",
        "samples": "3",
    }
    assert (good["device"], good["features"], good["measured_on"]) == ("CPU, big", "avx2 fma", "2026-11-23")
    assert (failed["status"], failed["median_us"], failed["samples"]) == ("oom", "", "0")


def test_parquet_keeps_types_and_samples(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    assert export_table(TABLE, tmp_path / "flat.parquet") == "parquet"
    good, failed = parquet.read_table(tmp_path / "flat.parquet").to_pylist()
    assert good["samples_us"] == [3.0, 1.0, 2.0]
    assert (good["median_us"], good["residual"], good["batch"]) == (2.0, True, 1)
    assert failed["median_us"] is None


def test_a_form_may_be_said_apart_from_the_name(tmp_path):
    assert export_table(TABLE, tmp_path / "flat.txt", form="csv") == "csv"


@pytest.mark.parametrize(
    ("name", "said"), [("flat.xlsx", "unknown form 'xlsx'"), ("flat", "does not say in which form")]
)
def test_an_unknown_form_is_refused_and_nothing_written(tmp_path, name, said):
    with pytest.raises(ConfigError, match=said):
        export_table(TABLE, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"deepmad-hw\[parquet\]"):
        export_table(TABLE, tmp_path / "flat.parquet")
