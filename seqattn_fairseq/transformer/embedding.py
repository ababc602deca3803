"""Token and position embeddings of one side.

Shapes: B batch, T length, C width, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from fairseq import utils
from fairseq.data import Dictionary
from fairseq.modules import FairseqDropout
from torch import Tensor, nn
from torch.nn import functional as F

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.config import EncoderDecoderConfig
from seqattn_fairseq.transformer.dropout import Dropout, active_rate
from seqattn_fairseq.transformer.norms import make_norm


def token_embedding(dictionary: Dictionary, dim: int, path: str | None = None) -> nn.Embedding:
    """Return a (V, C) embedding, normal with deviation C^-0.5, zero at the padding index.

    ``path`` names pre-trained vectors in fairseq's text format.

    Raises:
        SeqAttnError: the vectors cannot be read, or have another width.
    """
    embedding = nn.Embedding(len(dictionary), dim, padding_idx=dictionary.pad())
    nn.init.normal_(embedding.weight, mean=0.0, std=dim**-0.5)
    nn.init.zeros_(embedding.weight[dictionary.pad()])
    if path:
        _load_vectors(path, dictionary, embedding)
    return embedding


def _load_vectors(path: str, dictionary: Dictionary, embedding: nn.Embedding) -> None:
    try:
        vectors = utils.parse_embedding(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SeqAttnError(
            f"{path}: no embeddings in fairseq's text format ({reason}); "
            "see --encoder-embed-path, --decoder-embed-path"
        ) from error
    widths = {vector.numel() for vector in vectors.values()} or {0}
    if widths != {embedding.embedding_dim}:
        raise SeqAttnError(
            f"{path}: vectors of width {', '.join(map(str, sorted(widths)))}; the embedding's "
            f"width is {embedding.embedding_dim}"
        )
    utils.load_embedding(vectors, dictionary, embedding)


def position_index(tokens_BT: Tensor, padding_idx: int, by_column: bool) -> Tensor:
    """Number the tokens from 1; padding is 0.

    With ``by_column`` padding is counted (and numbered) too, as the ReLA release does.
    """
    if by_column:
        columns = torch.arange(1, tokens_BT.size(1) + 1, device=tokens_BT.device)
        return columns.expand_as(tokens_BT)
    real = tokens_BT.ne(padding_idx)
    return real.cumsum(dim=1) * real


class SinusoidalPositions(nn.Module):
    """Sinusoids of Vaswani et al. 2017, section 3.5: first all sines, then all cosines.

    Row r >= 1 of the table holds position ``start + r - 1``; row 0 (padding) is zero. The table
    is no parameter and not saved; it grows with the longest input seen.
    """

    max_positions = int(1e5)
    table: Tensor

    def __init__(self, dim: int, start: int) -> None:
        super().__init__()
        self.dim = dim
        self.start = start
        self.register_buffer("table", self._rows(256), persistent=False)

    def _rows(self, count: int) -> Tensor:
        half = self.dim // 2
        # float32 throughout: the same rounding as fairseq's own table
        step = math.log(10000) / max(half - 1, 1)
        frequency = torch.exp(torch.arange(half, dtype=torch.float) * -step)
        position = torch.arange(self.start, self.start + count, dtype=torch.float)
        angle = position[:, None] * frequency[None, :]
        rows = torch.zeros(count + 1, self.dim)
        rows[1:, :half] = angle.sin()
        rows[1:, half : 2 * half] = angle.cos()
        return rows

    def forward(self, index_BT: Tensor, longest: int) -> Tensor:
        """Return the (B, T, C) vectors of the position numbers; ``longest`` bounds them."""
        if longest >= self.table.size(0):
            rows = self._rows(max(longest, 2 * self.table.size(0)))
            self.table = rows.to(self.table)
        return self.table[index_BT]


class LearnedPositions(nn.Embedding):
    """Learned positions in fairseq's layout: row ``padding_idx`` is padding, then 1, 2, ..."""

    def __init__(self, max_positions: int, dim: int, padding_idx: int) -> None:
        super().__init__(max_positions + padding_idx + 1, dim, padding_idx)
        self.max_positions = max_positions
        nn.init.normal_(self.weight, mean=0.0, std=dim**-0.5)
        nn.init.zeros_(self.weight[padding_idx])

    def forward(self, index_BT: Tensor, longest: int) -> Tensor:  # type: ignore[override]
        """Return the (B, T, C) vectors of the position numbers.

        Raises:
            SeqAttnError: a position beyond the table.
        """
        if longest > self.max_positions:
            raise SeqAttnError(
                f"a sequence of {longest} tokens exceeds the {self.max_positions} learned "
                "positions; raise --max-source-positions / --max-target-positions and retrain"
            )
        assert self.padding_idx is not None
        return super().forward(index_BT + self.padding_idx)


class TokenDropout(FairseqDropout):
    """Dropout of whole tokens, kept on while generating where fairseq's dropouts are."""

    def forward(self, x_BTC: Tensor, inplace: bool = False) -> Tensor:
        """Return (B, T, C) with some tokens' vectors zero and the others scaled to make up."""
        rate = active_rate(self)
        return F.dropout1d(x_BTC, rate, inplace=inplace) if rate > 0 else x_BTC


class EmbedsTokens:
    """Mixin of encoder and decoder: scale * token (+ bias) + position, LayerNorm, dropout.

    A mixin and not a sub-module, so that the parameters keep fairseq's names
    (``encoder.embed_tokens.weight``, ``encoder.layernorm_embedding.weight``, ...).
    """

    def build_embedding(self, cfg: EncoderDecoderConfig, side: str, tokens: nn.Embedding) -> None:
        """Add the embedding modules of ``side`` to this module."""
        assert tokens.padding_idx is not None
        dim = tokens.embedding_dim
        self.padding_idx = tokens.padding_idx
        self.embed_scale = 1.0 if cfg.no_scale_embedding else math.sqrt(dim)
        self.position_by_column = cfg.position_by_column
        self.zero_start = cfg.zero_start and side == "decoder"
        self.embed_tokens = tokens
        self.embed_positions = _positions(cfg, side, dim, tokens.padding_idx)
        self.layernorm_embedding = make_norm(cfg, dim) if cfg.layernorm_embedding else None
        # one vector for both sides: the model puts the same parameter into each
        self.embed_bias: nn.Parameter | None = None
        name = type(self).__name__
        self.word_dropout_module = TokenDropout(cfg.word_dropout, module_name=name)
        self.dropout_module = Dropout(cfg.dropout, module_name=name)

    def embed(self, tokens_BT: Tensor, offset: int = 0) -> Tensor:
        """Return (B, T, C) for (B, T) tokens of which ``offset`` precede in each sequence."""
        x_BTC = self.word_dropout_module(self.embed_scale * self.embed_tokens(tokens_BT))
        if self.embed_bias is not None:
            x_BTC = x_BTC + self.embed_bias
        index_BT = position_index(tokens_BT, self.padding_idx, self.position_by_column)
        if self.zero_start and offset == 0:
            x_BTC = x_BTC.masked_fill(index_BT.eq(1).unsqueeze(-1), 0.0)
        if self.embed_positions is not None:
            index_BT = index_BT + offset if offset else index_BT
            x_BTC = x_BTC + self.embed_positions(index_BT, offset + tokens_BT.size(1))
        if self.layernorm_embedding is not None:
            x_BTC = self.layernorm_embedding(x_BTC)
        out: Tensor = self.dropout_module(x_BTC)
        return out

    def position_limit(self, configured: int) -> int:
        """Return the longest sequence: the configured one, or what the positions can express."""
        if self.embed_positions is None:
            return configured
        return min(configured, self.embed_positions.max_positions)


def _positions(
    cfg: EncoderDecoderConfig, side: str, dim: int, padding_idx: int
) -> SinusoidalPositions | LearnedPositions | None:
    if cfg.no_token_positional_embeddings:
        return None
    if getattr(cfg, f"{side}_learned_pos"):
        name = "max_source_positions" if side == "encoder" else "max_target_positions"
        return LearnedPositions(getattr(cfg, name), dim, padding_idx)
    start = padding_idx + 1 if cfg.position_start is None else cfg.position_start
    return SinusoidalPositions(dim, start)
