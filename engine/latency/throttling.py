"""Whether a GPU runs below its clock, as NVML (the package nvidia-ml-py) tells it."""

from typing import Any

import torch

REASONS = {
    0x8: "hardware slowdown",
    0x20: "too hot (software thermal slowdown)",
    0x40: "too hot (hardware thermal slowdown)",
    0x80: "power brake",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h). A power cap (0x4) is normal under full load."""


def throttled(device: torch.device) -> str:
    """Why the GPU is slowed down at this moment; empty where it is not, or where NVML is not installed."""
    try:
        import pynvml
    except ImportError:
        return ""
    pynvml.nvmlInit()
    try:
        properties: Any = torch.cuda.get_device_properties(device)  # pci_bus_id is not in torch's annotations
        bus = properties.pci_bus_id
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        mine = next((each for each in handles if pynvml.nvmlDeviceGetPciInfo(each).bus == bus), None)
        return "" if mine is None else told(pynvml.nvmlDeviceGetCurrentClocksEventReasons(mine))
    finally:
        pynvml.nvmlShutdown()


def told(bits: int) -> str:
    """The reasons that the bits stand for, in words."""
    return ", ".join(words for bit, words in REASONS.items() if bits & bit)
