"""Linear layers whose weights oneDNN has laid out for its kernels once, instead of at every call.

`torch.compile` with frozen weights uses the same operators. They are not part of torch's public interface:
`can_pack` tries them against the public ones, and where they are gone or wrong the plain layers do.
"""

from __future__ import annotations

import torch
from torch.nn import functional


class PackedLinear(torch.nn.Module):
    """A linear layer without gradients, on the CPU.

    Args:
        linear: The layer whose weights to take.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., out) of (..., in)."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return result

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        """The exact GELU of the layer's result."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "gelu", [], "none")
        return result

    def added(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The layer's result plus `residual`."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._weight, self._bias, "add")
        return result


class PlainLinear(torch.nn.Module):
    """The same by torch's public operators, on any device."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., out) of (..., in)."""
        return functional.linear(x, self.linear.weight, self.linear.bias)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        """The exact GELU of the layer's result."""
        return functional.gelu(self.forward(x))

    def added(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The layer's result plus `residual`."""
        return residual + self.forward(x)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether the packed operators exist here and give what the plain ones give."""
    if not torch._C._has_mkldnn:
        return False
    generator = torch.Generator().manual_seed(0)  # the caller's random numbers stay what they are
    x, residual, weight = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((3, 5, 32), (3, 5, 48), (48, 32))
    )
    linear = torch.nn.Linear(32, 48, device="meta")
    linear.weight, linear.bias = torch.nn.Parameter(weight / 6), torch.nn.Parameter(residual[0, 0].clone())
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    try:
        with torch.inference_mode():
            packed, plain = PackedLinear(linear), PlainLinear(linear)
            pairs = (
                (packed(x), plain(x)),
                (packed.gelu(x), plain.gelu(x)),
                (packed.added(x, residual), plain.added(x, residual)),
            )
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance) for a, b in pairs)
