"""A target's choices are one record, which is also its flags."""

import dataclasses
import subprocess
import sys

import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.exporters import options, target
from deepmad_hw.exporters.options import Int8Options, OnnxOptions, Options


@pytest.mark.parametrize("name", target.names())
def test_the_choices_of_every_target_become_flags(name):
    record = target.get(name).options
    assert record is Options or record in options.RECORDS
    assert {field.name for field in dataclasses.fields(record)} <= options.flags().keys()
    assert record() == record()


def test_one_name_means_one_thing_in_every_record():
    said = {}
    for record in options.RECORDS:
        for field in dataclasses.fields(record):
            kind, text = said.setdefault(field.name, (field.type, field.metadata["help"]))
            assert text
            assert field.type == kind
            assert field.metadata["help"] in ("", text)  # empty: said by another record


def test_choices_are_made_from_what_was_given():
    assert options.choose(Int8Options, {"form": "tensorrt"}, target="onnx-int8") == Int8Options(form="tensorrt")


def test_a_choice_of_another_target_is_refused_by_its_flag():
    with pytest.raises(ConfigError, match=r"--reduce-range: unknown choice of target onnx"):
        options.choose(OnnxOptions, {"reduce_range": "yes"}, target="onnx")


def test_reading_the_choices_loads_nothing_heavy():
    code = "import sys, deepmad_hw.exporters.options; print({'numpy', 'onnx', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
