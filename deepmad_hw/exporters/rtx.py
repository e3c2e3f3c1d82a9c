"""Writes the ONNX file that a TensorRT-RTX engine is built from, the same as TensorRT's. Layer 3."""

from __future__ import annotations

from dataclasses import replace

from deepmad_hw.exporters import tensorrt

TARGET = replace(tensorrt.TARGET, name="rtx", extra="rtx", engine="tensorrt_rtx")
