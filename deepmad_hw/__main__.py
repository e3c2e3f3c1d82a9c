"""``python -m deepmad_hw``: the command line where its script is not on the path. Layer 4."""

from __future__ import annotations

import sys

from deepmad_hw.cli import main

if __name__ == "__main__":
    sys.exit(main())
