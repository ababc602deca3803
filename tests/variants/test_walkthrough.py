"""The variant that docs/adding_a_variant.md walks through is a variant."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import torch

from seqattn_fairseq.transformer.config import SIZES
from seqattn_fairseq.transformer.model import register_variant
from tests.support.models import PAD, batch, build, shifted


def test_the_documented_variant_works(root: Path) -> None:
    text = (root / "docs" / "adding_a_variant.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]
    module = types.ModuleType("seqattn_fairseq_walkthrough")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(code, module.__dict__)
    (variant,) = module.VARIANTS
    register_variant(variant)
    cfg = variant.config()
    for name, value in SIZES["tiny"].items():
        setattr(cfg, name, value)
    model = build("square", cfg).eval()
    tokens = shifted([5, 3])
    with torch.no_grad():
        full, _ = model(batch([6, 4]), None, tokens)
        state = model.decoder.start(model.encoder.encode(batch([6, 4])))
        steps = model.decoder.output_layer(model.decoder.step(tokens, state))
    real = tokens.ne(PAD)
    torch.testing.assert_close(steps[real], full[real])
