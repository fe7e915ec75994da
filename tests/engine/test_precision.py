"""bf16 is chosen only where it is computed natively, and asking for what is not there is refused."""

import pytest
import torch
from torch import nn

from distillery.errors import InvalidRequest
from engine import precision

CPU = torch.device("cpu")


def test_auto_takes_bf16_exactly_where_the_cpu_multiplies_it():
    from pathlib import Path

    flags = precision.cpuinfo_flags(Path("/proc/cpuinfo"))
    native = bool(flags & {"avx512_bf16", "amx_bf16"})
    assert precision.computes_bf16(CPU) == native
    assert precision.resolve_precision("auto", CPU) == ("bf16" if native else "fp32")


def test_a_precision_asked_for_by_name_is_kept():
    assert precision.resolve_precision("fp32", CPU) == "fp32"
    assert precision.resolve_precision("bf16", CPU) == "bf16"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_bf16\nflags : other\n", {"fpu", "avx2", "avx512_bf16"}),
        ("Features : fp asimd\n", set()),
        ("", set()),
    ],
)
def test_cpu_flags_are_read_where_torch_cannot_tell(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert precision.cpuinfo_flags(tmp_path / "cpuinfo") == expected
    assert precision.cpuinfo_flags(tmp_path / "absent") == set()


def test_auto_finds_a_device_and_cuda_is_refused_where_there_is_none():
    assert precision.resolve_device("cpu") == CPU
    if torch.cuda.is_available():
        assert precision.resolve_device("auto").type == precision.resolve_device("cuda").type == "cuda"
    else:
        assert precision.resolve_device("auto") == CPU
        with pytest.raises(InvalidRequest, match="cuda") as caught:
            precision.resolve_device("cuda")
        assert caught.value.pointer == "/training/device"


def test_autocast_computes_in_bf16_and_keeps_the_weights():
    layer = nn.Linear(4, 2)
    with precision.autocast(CPU, precision="bf16"):
        assert layer(torch.zeros(1, 4)).dtype == torch.bfloat16
    with precision.autocast(CPU, precision="fp32"):
        assert layer(torch.zeros(1, 4)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_losses_are_never_computed_in_half_precision(given, expected):
    assert precision.for_loss(torch.zeros(1, dtype=given)).dtype == expected


def test_convolutional_networks_run_channels_last():
    assert precision.memory_format(nn.Sequential(nn.Conv2d(1, 1, 1))) == torch.channels_last
    assert precision.memory_format(nn.Linear(1, 1)) == torch.contiguous_format
