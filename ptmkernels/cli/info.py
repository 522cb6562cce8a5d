"""`ptmkernels info`: what is installed, what this machine has, and which backend of which op runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ptmkernels.cli import app

# Op -> the backends that it has.
OP_BACKENDS = {
    "masked_attention": ("cpu", "triton", "cuda", "reference"),
    "relative_attention": ("cpu", "triton", "cuda", "reference"),
    "two_stream_attention": ("cpu", "triton", "cuda", "reference"),
    "negative_sampling_loss": ("cpu", "cuda", "triton", "reference"),
    "hierarchical_softmax_loss": ("cpu", "cuda", "triton", "reference"),
    "hierarchical_softmax_log_prob": ("cpu", "cuda", "triton", "reference"),
    "skipgram_step_": ("cpu", "cuda", "triton", "reference"),
    "cbow_step_": ("cpu", "cuda", "triton", "reference"),
    "template_op": ("cpu", "cuda", "reference"),
}
CPU_FEATURES = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"),
    *("amx_bf16", "asimd", "sve", "bf16"),
)
CUDA_DRIVER = 580  # the static CUDA 13 run time needs it
FIRST_CAPABILITY = (8, 0)


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    cmake_prefix: Annotated[
        bool, typer.Option("--cmake-prefix", help="Only the prefix for CMake's find_package.")
    ] = False,
) -> None:
    """Versions, devices, and a table op x backend: available, or why not."""
    if cmake_prefix:
        typer.echo(_package_folder())
        return
    found = collect()
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        _show(found)


def _package_folder() -> Path:
    return Path(__file__).resolve().parent.parent


def collect() -> dict:
    """Everything that the command shows, as plain data."""
    import torch

    from ptmkernels import _environment

    return {
        "versions": _environment.versions(),
        "build": _build(),
        "cpu": {
            "name": _environment.processor(),
            "cores": _environment.usable_cores(),
            "threads": torch.get_num_threads(),
            "features": _cpu_features(),
            "kernels": cpu_kernels(),
        },
        "cuda": {
            "torch_built_with": torch.version.cuda,
            "driver": cuda_driver(),
            "devices": _cuda_devices(),
        },
        "backends": {op: _reasons(backends) for op, backends in OP_BACKENDS.items()},
        "remarks": _remarks(),
    }


def _build() -> dict[str, str]:
    """What the libraries were compiled with; empty where they were not."""
    path = _package_folder() / "lib" / "build.json"
    if not path.is_file():
        return {}
    built = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in built.items() if value}


def _cpu_features() -> list[str]:
    """Those of the processor's instruction sets that matter here, as far as the system tells them."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return []
    text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    lines = (line for line in text.splitlines() if line.lower().startswith(("flags", "features")))
    present = set(next(lines, "").partition(":")[2].split())
    return [name for name in CPU_FEATURES if name in present]


def cpu_kernels() -> str | None:
    """The instruction set that the CPU kernels use, or None where they are not there.

    PTMKERNELS_CPU_ARCH forces one.
    """
    import torch

    from ptmkernels._library import cpu_library_error

    return torch.ops.ptmkernels.cpu_arch() if cpu_library_error() is None else None


def cuda_driver() -> str | None:
    """Version of the NVIDIA driver, or None where there is none or it does not tell."""
    module = Path("/sys/module/nvidia/version")
    return module.read_text(encoding="utf-8").strip() if module.is_file() else None


def _cuda_devices() -> list[dict]:
    import torch

    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        {
            "name": p.name,
            "capability": f"{p.major}.{p.minor}",
            "memory_gib": round(p.total_memory / 2**30, 1),
        }
        for p in properties
    ]


def _reasons(backends: tuple[str, ...]) -> dict[str, str | None]:
    """For each backend why it is not available, or None where it is."""
    from ptmkernels._selector import BACKENDS, unavailable

    return {b: unavailable(b) if b in backends else "the op has no such backend" for b in BACKENDS}


def _remarks() -> list[str]:
    """What a user of this machine should know beside the table."""
    import torch

    found = []
    driver = cuda_driver()
    if driver and int(driver.split(".")[0]) < CUDA_DRIVER:
        found.append(
            f"The driver is {driver}. The CUDA library carries the CUDA 13 run time, which needs "
            f"R{CUDA_DRIVER} or later; with an older driver the Triton backend serves, or reference."
        )
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        capability = torch.cuda.get_device_capability(index)
        if capability < FIRST_CAPABILITY:
            found.append(
                f"{torch.cuda.get_device_name(index)} has compute capability {capability[0]}."
                f"{capability[1]}; the CUDA library holds code for 8.0 and later, so this card gets "
                "Triton where Triton still supports it, else reference."
            )
    return found


def _show(found: dict) -> None:
    from rich.console import Console

    console = Console()
    plain = {"markup": False, "highlight": False, "soft_wrap": True}
    for title in ("versions", "build"):
        pairs = ", ".join(f"{name} {value}" for name, value in found[title].items())
        console.print(f"{title + ':':9} {pairs or 'not compiled'}", **plain)
    cpu, cuda = found["cpu"], found["cuda"]
    console.print(
        f"CPU:      {cpu['name']}, {cpu['cores']} cores, {cpu['threads']} threads", **plain
    )
    features = " ".join(cpu["features"]) or "features unknown"
    console.print(f"          {features}; kernels for {cpu['kernels'] or 'none'}", **plain)
    console.print(f"CUDA:     {_cuda_line(cuda)}", **plain)
    for device in cuda["devices"]:
        console.print(
            f"          {device['name']}, compute capability {device['capability']}, "
            f"{device['memory_gib']} GiB",
            **plain,
        )
    console.print(_backend_table(found["backends"]))
    for reason, places in _explained(found["backends"]).items():
        console.print(f"{places}: {reason}", **plain)
    for remark in found["remarks"]:
        console.print(remark, **plain)


def _cuda_line(cuda: dict) -> str:
    built = f"torch built with CUDA {cuda['torch_built_with']}" if cuda["torch_built_with"] else ""
    driver = f"driver {cuda['driver']}" if cuda["driver"] else "no driver"
    devices = f"{len(cuda['devices'])} devices"
    return ", ".join((built or "torch built without CUDA", driver, devices))


def _backend_table(backends: dict[str, dict[str, str | None]]):
    from rich.table import Table

    columns = list(next(iter(backends.values())))
    table = Table("op", *columns)
    for op, reasons in backends.items():
        cells = ["[green]yes[/green]" if reasons[b] is None else "–" for b in columns]
        table.add_row(op, *cells)
    return table


def _explained(backends: dict[str, dict[str, str | None]]) -> dict[str, str]:
    """Each reason once, with the backends that it holds for."""
    reasons: dict[str, set[str]] = {}
    for row in backends.values():
        for backend, reason in row.items():
            if reason is not None:
                reasons.setdefault(reason, set()).add(backend)
    return {reason: ", ".join(sorted(names)) for reason, names in reasons.items()}
