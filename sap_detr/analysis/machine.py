"""What measurements were made on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """Return the device, its name, threads, and versions: what figures have to be compared on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = processor_name()
    return {
        "device": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def processor_name() -> str:
    """Return the processor as the system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine_line(machine: dict[str, str | int]) -> str:
    """One line on a machine, such as "cpu (NAME), 2 threads, torch 2.5.1"."""
    threads = machine["threads"]
    where = f"{machine['name']}, {threads} thread{'s' if threads != 1 else ''}"
    return f"{machine['device']} ({where}), torch {machine['torch']}"
