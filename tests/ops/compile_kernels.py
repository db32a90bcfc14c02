"""Compile each Triton kernel to machine code for an H100 or H200 (sm_90), which needs no GPU; prints their names.

Run by test_backend.py in a process of its own, where the kernels are not interpreted.
"""

from __future__ import annotations

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cellfm_torch.ops import triton_gate, triton_kernels

SHARED = 227 * 1024
"""Bytes of shared memory a program may take on sm_90."""
TILES = {"k_dim": 32, "v_dim": 32, "block": triton_kernels.BLOCK, "block_k": 32, "block_v": 32}
GATE = {"heads": 48, "k_dim": 32, "block": triton_gate.TILE // 32, "block_k": 32}


def compile_for_hopper(kernel: triton.JITFunction, types: dict[str, str], sizes: dict[str, object]) -> None:
    """Compile with 32-bit strides, those along a head's width being 1; pointers are named in `types`."""
    known = sizes | {name: 1 for name in kernel.arg_names if name.endswith("_dim") and name not in sizes}
    signature = {name: "constexpr" if name in known else types.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=known)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=triton_kernels.LAUNCH)
    assert built.asm["cubin"] and built.metadata.shared <= SHARED, built.metadata
    print(kernel.fn.__name__.strip("_").removesuffix("_kernel"))


if __name__ == "__main__":
    for dtype, precision in (("*fp32", "ieee"), ("*bf16", "tf32x3")):
        half = dtype != "*fp32"
        types = {"a": dtype, "b": dtype, "out": "*fp32", "rows": "*i64"}
        sizes = TILES | {"precision": precision, "widen": not half}
        compile_for_hopper(triton_kernels._outer_kernel, types, sizes)
        types = {"x": dtype, "state": "*fp32", "out": dtype, "pieces": "*i64"}
        compile_for_hopper(triton_kernels._apply_kernel, types, TILES | {"precision": precision})
        types = {"parts": "*fp32", "out": "*fp32", "bounds": "*i64"}
        compile_for_hopper(triton_kernels._add_kernel, types, {"block": 1024})
        types = {"o": "*fp32", "u": dtype, "y": dtype, "eps": "fp32"}
        compile_for_hopper(triton_gate._forward_kernel, types, GATE)
        types = {"o": "*fp32", "u": dtype, "dy": dtype, "do": "*fp32", "du": dtype, "eps": "fp32"}
        compile_for_hopper(triton_gate._backward_kernel, types, GATE)
