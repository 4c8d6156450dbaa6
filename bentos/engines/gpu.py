"""What `device: cuda` of a plan means to ONNX Runtime: its execution provider and how much memory it gets."""

import ctypes

from bentos.engines.engine import PROVIDERS, Provider, ProviderMissing
from bentos.manifest import Plan

ARENA_SHARE = 0.8
"""Of the device's memory: the rest is for CUDA's contexts, the libraries' workspaces and bound buffers."""


def providers(plan: Plan, graphs: bool = False) -> tuple[Provider, ...]:
    """The execution providers of a plan's device, and their options
    (https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html).

    The replicas of all workers share the device's memory evenly: each session's arena is bounded, and grows
    by no more than it needs. Raises ProviderMissing where there is no GPU.
    """
    if plan.device == "cpu":
        return PROVIDERS["cpu"]
    limit = cuda_memory_bytes() * ARENA_SHARE / (plan.replicas * plan.workers)
    options = {
        "gpu_mem_limit": str(int(limit)),
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": str(int(graphs)),
    }
    return tuple((name, options) for name in PROVIDERS[plan.device])


def cuda_memory_bytes() -> int:
    """The memory of the first GPU that this process may see, as the driver says. Raises ProviderMissing."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        reason = "No NVIDIA driver is here: a plan for cuda needs a machine with a GPU."
        raise ProviderMissing(reason) from error
    device, total = ctypes.c_int(), ctypes.c_size_t()
    failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
    if failed or driver.cuDeviceTotalMem_v2(ctypes.byref(total), device):
        raise ProviderMissing("The NVIDIA driver finds no GPU that this process may use.")
    return total.value
