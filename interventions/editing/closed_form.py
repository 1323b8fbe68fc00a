"""MultEdit's closed form (paper, section 5, Eq. 7): the weights nearest to the old ones that map keys to new values,

    W* = argmin ||W k - z*||^2 + lambda ||W - W'||^2 = (lambda W' + z* k^T)(lambda I + k k^T)^-1

It differs from W' by a matrix of rank one per fact, so no inverse of size m x m is needed.
"""

import torch

from ..errors import EditError

LAMBDA = 0.01  # the paper's, after a grid search
ROWS = 32  # of a weight that are converted to float64 at a time: they stay in the processor's cache


def closed_form_update(
    weight: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lam: float = LAMBDA
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return low-rank factors of the weight change W* - W' (Eq. 7) for n facts.

    W* minimizes sum_i ||W k_i - z_i||^2 + lambda ||W - W'||^2. By Woodbury's identity, with K = keys^T [m, n],
    W* - W' = (Z - W' K)(lambda I + K^T K)^-1 K^T: an n x n system instead of an m x m inverse, solved in float64.

    Args:
        weight: W' [d, m], the old weight.
        keys: [n, m], the inputs of W.
        values: [n, d], the wanted outputs W k. Subtract a bias first.
        lam: lambda, the weight of the old weights.

    Returns:
        A [d, r] and B [r, m] in the weight's type, r = min(n, m). The rows of B are orthonormal: with the keys
        themselves as rows, similar keys would need large terms in A that cancel.

    Raises:
        EditError: shapes that do not fit, or a lambda that is not above 0.
    """
    if keys.ndim != 2 or values.ndim != 2 or len(keys) != len(values) or len(keys) == 0:
        raise EditError(
            f"keys [n, m] and values [n, d] must be as many, at least one each, not {tuple(keys.shape)} and "
            f"{tuple(values.shape)}."
        )
    if weight.shape != (values.shape[1], keys.shape[1]):
        raise EditError(
            f"weight must be [{values.shape[1]}, {keys.shape[1]}] for these values and keys, not {tuple(weight.shape)}."
        )
    k, z = keys.to(weight.device, torch.float64), values.to(weight.device, torch.float64)
    old = torch.cat([k @ rows.to(torch.float64).T for rows in weight.split(ROWS)], dim=1)  # not all of W in float64
    a, b = low_rank_update(k, z - old, lam)
    return a.to(weight.dtype), b.to(weight.dtype)


def low_rank_update(
    keys: torch.Tensor, residuals: torch.Tensor, lam: float = LAMBDA
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `closed_form_update`, from the residuals [n, d] = values - W' k, without the weights."""
    check_lambda(lam)
    k, differences = keys.to(torch.float64), residuals.to(torch.float64)
    gram = k @ k.T + lam * torch.eye(len(k), dtype=torch.float64, device=k.device)
    basis, coordinates = torch.linalg.qr(k.T)  # K = basis [m, r] coordinates [r, n]
    a, b = torch.linalg.solve(gram, differences).T @ coordinates.T, basis.T
    return a.to(residuals.dtype), b.to(residuals.dtype)


def check_lambda(lam: float) -> None:
    """Raise EditError unless the lambda of Eq. 7 is above 0."""
    if not lam > 0:
        raise EditError(f"lam must be above 0, not {lam}: it weighs the old weights.")
