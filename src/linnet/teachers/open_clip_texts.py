"""The text towers of open_clip, with vectors in place of some tokens' embeddings.

Shapes: n texts, L tokens, P context vectors, W token width, E embedding width.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

PART = 256  # texts that are encoded at once by a tower that needs their padding
ROW_TOKENS = 256  # of the texts in one row; of a longer row attention, which grows as its square, takes too much


class _EncodeText(nn.Module):
    """The text side of a model as a module of its own, for ``functional_call``."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, tokens_nL: torch.Tensor) -> torch.Tensor:
        return self.network.encode_text(tokens_nL)


class TextTower:
    """open_clip's own text tower, with a context between the start token and every text.

    It runs the model's ``encode_text``: pooling and projection are the model's, whatever its kind, and so is the mask.
    Where nothing that follows a token reaches it, several texts are read in one row: start token and context, which are
    the same for all, once, then the texts one after the other, each at the positions that it would have alone. A mask
    hides them from one another. Nothing is computed for padding, or twice for the context.

    Attributes:
        can_be_cut: whether that is so.
        masked_token: what a tower of transformers masks; None with other towers.
    """

    def __init__(self, network: Any):
        self.network = network
        self.prefix, tower = ("text.", network.text) if hasattr(network, "text") else ("", network)
        own = getattr(tower, "token_embedding", None)
        self.token_embedding: nn.Embedding = own if own is not None else tower.transformer.get_input_embeddings()
        self.tower = tower
        self.pooling = getattr(network, "text_pool_type", getattr(tower, "pool_type", ""))
        causal = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
        self.can_be_cut = causal and self.pooling in ("argmax", "eos")
        self.masked_token: int | None = getattr(getattr(tower, "config", None), "pad_token_id", None)

    def parts(self, tokens_nL: torch.Tensor, context: int) -> Sequence[torch.Tensor]:
        """The texts, as many at a time as :meth:`encode` should be given.

        Args:
            context: tokens before each text, start token and context.
        """
        if not self.can_be_cut:
            return tokens_nL.split(PART)
        sizes, filled = list[int](), ROW_TOKENS
        for length in (self._end(tokens_nL) + 1 - context).clamp(min=1).tolist():
            if filled + length > ROW_TOKENS:
                sizes, filled = [*sizes, 0], 0
            sizes[-1], filled = sizes[-1] + 1, filled + length
        return tokens_nL.split(sizes)

    def encode(self, tokens_nL: torch.Tensor, context_PW: torch.Tensor, start: int) -> torch.Tensor:
        """(n, E) vectors of texts in which P tokens hold the places of the context.

        Args:
            start: tokens before the context, 0 or 1.
        """

        def place(module: nn.Module, inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
            context = context_PW.to(embedded.dtype).expand(len(embedded), -1, -1)
            return torch.cat([embedded[:, :start], context, embedded[:, start + len(context_PW) :]], dim=1)

        with ExitStack() as hooks:
            hooks.callback(self.token_embedding.register_forward_hook(place).remove)
            if not self.can_be_cut:
                return functional_call(_EncodeText(self.network), {}, (tokens_nL,))
            row_1L, positions_L, text_L, end_n = self._in_a_row(tokens_nL, start + len(context_PW))

            def ends(module: nn.Module, inputs: Any, hidden_1LW: torch.Tensor) -> torch.Tensor:
                # every text at its end, wherever in the row the model's pooling looks
                return hidden_1LW[0, end_n][:, None].expand(-1, hidden_1LW.shape[1], -1)

            hooks.callback(self.tower.ln_final.register_forward_hook(ends).remove)
            is_seen_LL = (text_L < 0) | (text_L == text_L[:, None])
            mask_LL = self.tower.attn_mask[positions_L][:, positions_L].masked_fill(~is_seen_LL, -torch.inf)
            own = {"positional_embedding": self.tower.positional_embedding[positions_L], "attn_mask": mask_LL}
            own = {f"network.{self.prefix}{name}": tensor for name, tensor in own.items()}
            return functional_call(_EncodeText(self.network), own, (row_1L,))

    def _in_a_row(self, tokens_nL: torch.Tensor, context: int) -> tuple[torch.Tensor, ...]:
        """The tokens of all texts behind one context; of each token its position in its text and the number of its
        text, -1 in the context; and where each text ends."""
        position_L, end_n = torch.arange(tokens_nL.shape[1], device=tokens_nL.device), self._end(tokens_nL)
        is_kept_nL = (position_L >= context) & (position_L <= end_n[:, None])
        text, position = is_kept_nL.nonzero(as_tuple=True)
        row_1L = torch.cat([tokens_nL[0, :context], tokens_nL[is_kept_nL]])[None]
        last_n = context - 1 + is_kept_nL.sum(dim=1).cumsum(dim=0)
        before = torch.full((context,), -1, device=text.device)
        # an empty text ends where the places of the context look like its end
        return (
            row_1L,
            torch.cat([position_L[:context], position]),
            torch.cat([before, text]),
            torch.where(end_n < context, end_n, last_n),
        )

    def _end(self, tokens_nL: torch.Tensor) -> torch.Tensor:
        """Where the model's pooling looks: at the highest token, or at the end token."""
        if self.pooling == "argmax":
            return tokens_nL.argmax(dim=1)
        end = getattr(self.network, "text_eos_id", None) or self.tower.eos_id
        return (tokens_nL == end).int().argmax(dim=1)
