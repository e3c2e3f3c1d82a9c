"""The tables that come with the project: they are read, they are possible, and they lie where their name says."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from deepmad_hw.formats.serde_table import COLUMNS, SCHEMA, read_table
from deepmad_hw.network.layer import OperationSpec
from deepmad_hw.workflows.tables.tables import load_model, require_possible

ROOM = Path(__file__).parent.parent / "latency_tables"
TABLES = sorted(ROOM.glob("*/*.csv"))

pytestmark = pytest.mark.checkout


def test_there_is_a_table():
    assert TABLES


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_table_is_possible_calibrated_and_named_after_its_setting(path):
    table = read_table(path)
    require_possible(table, where=str(path))
    setting = table.environment
    assert path.stem == f"{setting.runtime}-{setting.precision}-b{setting.batch}-t{setting.threads}"
    device = json.loads((path.parent / "device.json").read_text())
    assert device["device"] == setting.device
    assert device["cores"] == setting.cores
    margin = load_model(path).margin
    assert margin is not None
    assert margin < 0.15


def test_nothing_but_data_lies_beside_the_tables():
    endings = {path.suffix for path in ROOM.rglob("*") if path.is_file()}
    assert endings <= {".csv", ".json", ".md"}


def test_the_schema_lists_the_columns():
    schema = json.loads((ROOM / "schema" / f"table-{SCHEMA}.json").read_text())
    assert schema["schema"] == SCHEMA
    assert tuple(column["name"] for column in schema["columns"]) == COLUMNS
    amounts = tuple(field.name for field in fields(OperationSpec))
    assert tuple(item["name"] for item in schema["operations"]) == (*amounts, "status", "samples_us")
