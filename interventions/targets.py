"""O*, the answer that an edit is to bring about."""

from .causal_trace import TraceError, answer_tokens
from .edit_errors import EditError
from .prompt import Prompt


def target_tokens(model, prompt: Prompt, target: str) -> list[int]:
    """Tokens of O* as they follow the prompt. Raises EditError if it has none of its own."""
    try:
        return answer_tokens(model, prompt, target)
    except TraceError as error:
        raise EditError(str(error).replace("answer", "target", 1)) from error
