"""The program as benchmarks run it: as a process of its own, on the table that comes along."""

import subprocess
import sys

TABLE = "latency_tables/amd-epyc-25-1-1-2cores/onnxruntime-fp32-b1-t1.csv"
CALL = "import sys; from deepmad_hw.cli import main; sys.exit(main())"


def answer(*words):
    """Return what `deepmad-hw` prints for some words; it must end well."""
    done = subprocess.run([sys.executable, "-c", CALL, *words], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, f"deepmad-hw {' '.join(words)} ended with {done.returncode}"
    return done.stdout
