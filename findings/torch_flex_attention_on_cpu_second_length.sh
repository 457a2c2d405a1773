#!/usr/bin/env bash
# torch 2.13.0 (CPU) with transformers 5.22.2: attn_implementation="flex_attention" gives wrong logits from the second length on.
#
# Guess: compiled flex_attention equals SDPA to rounding at every length, as it does at the first one.
# Seen:  after a pass over 9 tokens, a batch of two rows with 8 tokens differs in its second row (by 0.18 and more, sometimes NaN), while the
#        first row is right to 1e-7. The size of the error changes from run to run, so memory is read that nobody wrote. Run uncompiled
#        (torch.compiler.set_stance("force_eager")), every length is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.22.2 numpy==2.4.6
cat >"$folder/look.py" <<'PYTHON'
import torch, transformers
from transformers import Qwen2Config, Qwen2ForCausalLM

torch.manual_seed(0)
shape = dict(vocab_size=29, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
flex = Qwen2ForCausalLM(Qwen2Config(**shape, attn_implementation="flex_attention")).eval()
sdpa = Qwen2ForCausalLM(Qwen2Config(**shape, attn_implementation="sdpa")).eval()
sdpa.load_state_dict(flex.state_dict())


@torch.no_grad()
def error(length):
    used = [torch.full((1000 + i,), 1e3) for i in range(300)]  # memory with something in it, given back
    del used
    ids = torch.randint(29, (2, length))
    return (flex(ids, use_cache=False).logits - sdpa(ids, use_cache=False).logits).abs().nan_to_num(nan=1e3).max().item()


compiled = {length: error(length) for length in (9, 8)}
with torch.compiler.set_stance("force_eager"):
    eager = {length: error(length) for length in (9, 8)}
print(f"torch {torch.__version__}, transformers {transformers.__version__}: compiled {compiled}, uncompiled {eager}")
assert compiled[9] < 1e-5 < 1e-3 < compiled[8] and max(eager.values()) < 1e-5, "the behaviour has changed"
PYTHON
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore "$folder/look.py" 2>/dev/null
