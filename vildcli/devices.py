"""Which device the tensors live on."""

from __future__ import annotations

import torch

from vildcli.errors import ModelError


def choose_device(name: str | None) -> torch.device:
    """The named device, or the best there is.

    Raises:
        ModelError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ModelError(
            f"There is no device '{name}' here.", hint="Leave --device out, or use --device cpu."
        ) from error
    return device
