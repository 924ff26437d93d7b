"""Batch norm as training needs it: frozen, shared by several processes, or given a single row."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class RowNorm(nn.BatchNorm1d):
    """Batch norm of rows [M, channels] that trains on any number of them.

    Of fewer than two rows there is no variance: such a batch is normalised by the running
    statistics and leaves them as they are. `synchronise_norms` replaces it by torch's own, which
    counts the rows of all processes.
    """

    def forward(self, rows: Tensor) -> Tensor:
        if len(rows) < 2:
            return F.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        normed: Tensor = super().forward(rows)
        return normed


def freeze_norms(detector: nn.Module, which: Literal["none", "backbone", "all"]) -> None:
    """Let batch norms use their running statistics and leave them; weights and biases still train.

    `train()` undoes it: call it after.

    Args:
        which: `backbone` is its body's, whose statistics an initialisation brings; the pyramid's
            are the detector's own.
    """
    if which == "none":
        return
    part = detector if which == "all" else detector.get_submodule("backbone.body")
    for module in part.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def synchronise_norms(detector: nn.Module) -> None:
    """Let batch norms take their statistics over all processes that train together."""
    nn.SyncBatchNorm.convert_sync_batchnorm(detector)  # type: ignore[no-untyped-call]
