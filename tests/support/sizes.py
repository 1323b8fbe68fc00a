"""How large the tensors are that some code makes."""

import torch


class LargestTensor(torch.overrides.TorchFunctionMode):
    """Inside the `with` block, `numel` is the number of elements of the largest result of a torch function."""

    numel = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result
