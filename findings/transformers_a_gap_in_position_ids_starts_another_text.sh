#!/usr/bin/env bash
# transformers 5.22.2: positions with a gap cut a text in two, but only where no cache is used.
#
# Guess: `position_ids` say how far tokens lie from each other. Texts packed into one row are told by positions that start again; positions
#        that jump ahead (0, 1, 2, 100, 101, 102: the usual way to show a model long distances in short training texts) are one text, with or
#        without a cache.
# Seen:  with `use_cache=False`, as in training under gradient checkpointing and in most loss functions, and no `attention_mask`, every
#        step of positions other than 1 starts another text: the last token's logits do not change when the first token does. With
#        `use_cache=True`, or with a mask of ones, they do. No warning. A training run on such positions learns nothing across the gap.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.22.2
cat >"$folder/look.py" <<'PYTHON'
import torch, transformers

torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=20, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, initializer_range=0.5
)
model = transformers.LlamaForCausalLM(config).eval()
ids = torch.arange(6)[None]
other = ids.clone()
other[0, 0] = 9
whole = torch.arange(6)[None]
gap = torch.tensor([[0, 1, 2, 100, 101, 102]])


def moved(positions, **options):
    """How far the last token's logits move with the first token."""
    with torch.no_grad():
        one, two = (model(x, position_ids=positions, **options).logits[0, -1] for x in (ids, other))
    return round(float((one - two).abs().max()), 3)


found = {
    "no gap, no cache": moved(whole, use_cache=False),
    "gap, no cache": moved(gap, use_cache=False),
    "gap, cache": moved(gap, use_cache=True),
    "gap, no cache, mask of ones": moved(gap, use_cache=False, attention_mask=torch.ones_like(ids)),
}
print(f"transformers {transformers.__version__}: the last token's logits move with the first token by {found}")
assert found.pop("gap, no cache") == 0 and min(found.values()) > 0.01, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/look.py"
