import open_clip
import pytest
import tokenizers
import torch

from linnet.deploy.text_tower import Tokenizer, portable_tokenizer
from linnet.errors import UserError


def test_a_tokenizer_of_transformers_is_carried_too():
    """As in SigLIP's: a fast tokenizer with an end token, behind open_clip's cleaning."""
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<pad>": 1, "<unk>": 2, "</s>": 3, "red": 4, "bird": 5}, "<unk>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 3)])

    class Fast:
        backend_tokenizer, pad_token, pad_token_id = inner, "<pad>", 1

    class Canonical:
        """What open_clip's HFTokenizer does with it."""

        tokenizer, context_length, clean_fn = Fast(), 6, staticmethod(open_clip.tokenizer.get_clean_fn("canonicalize"))

        def __call__(self, texts: list[str]) -> torch.Tensor:
            rows = [inner.encode(self.clean_fn(text), add_special_tokens=False).ids[:5] for text in texts]
            return torch.tensor([[*row, 3, *[1] * (5 - len(row))] for row in rows])

    description = portable_tokenizer(Canonical(), ["a photo of a red_bird."])
    assert Tokenizer(description)(["a RED, bird!", "red"]).tolist() == [[2, 4, 5, 3, 1, 1], [4, 3, 1, 1, 1, 1]]

    class Other(Canonical):
        def __call__(self, texts: list[str]) -> torch.Tensor:
            return super().__call__(texts).flip(1)

    with pytest.raises(UserError, match="it reads 'a photo of a cat.' differently"):
        portable_tokenizer(Other(), [])
    with pytest.raises(UserError, match="a tokenizer of the kind function cannot be exported"):
        portable_tokenizer(lambda texts: texts, [])
