"""Where the headers of an installed torch lie, found without importing torch."""

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path


def find_torch_headers() -> Path | None:
    """The `include` folder of torch: of this environment, or of the one that an isolated build
    is made for (pip hides its site-packages from the import path, not from `sysconfig`)."""
    forced = os.environ.get("PTMKERNELS_TORCH_INCLUDE")
    candidates = [Path(forced)] if forced else []
    spec = importlib.util.find_spec("torch")
    if spec and spec.origin:
        candidates.append(Path(spec.origin).parent / "include")
    for scheme in ("purelib", "platlib"):
        candidates.append(Path(sysconfig.get_path(scheme)) / "torch" / "include")
    marker = Path("torch", "csrc", "stable", "library.h")
    return next((path for path in candidates if (path / marker).is_file()), None)


if __name__ == "__main__":
    found = find_torch_headers()
    if found is None:
        sys.exit("no torch>=2.10 found in this environment")
    print(found)
