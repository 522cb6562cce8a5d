"""`tools` is no package: its folder goes on the path, as `tools/gpu_short.py` has it."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
