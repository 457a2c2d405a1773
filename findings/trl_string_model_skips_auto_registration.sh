#!/usr/bin/env bash
# trl 1.16.0 with transformers 5.22.2: a model given as a path is not built by the class that the Auto classes know for it.
#
# Guess: SFTTrainer(model="folder") loads what AutoModelForCausalLM.from_pretrained("folder") loads, a class registered with
#        AutoModelForCausalLM.register(..., exist_ok=True) included.
# Seen:  trl takes the first name in the configuration's `architectures` from the module transformers itself. Where a registered class
#        stands in for a built-in one (extra heads, other losses), the trainer trains the built-in class without a word: weights that
#        only the registered class has are dropped. Passing the model as an object avoids it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.22.2 trl==1.16.0 datasets==5.2.0 accelerate==1.15.0
cd "$folder"
cat >look.py <<'PYTHON'
import trl, transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

words = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", "one", "two"])}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


class WithHeads(Qwen2ForCausalLM):
    """Stands for a class with more than the built-in one."""


AutoModelForCausalLM.register(Qwen2Config, WithHeads, exist_ok=True)
config = Qwen2Config(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                     num_key_value_heads=1, pad_token_id=0, eos_token_id=1, bos_token_id=None)
Qwen2ForCausalLM(config).save_pretrained("model")
auto = type(AutoModelForCausalLM.from_pretrained("model")).__name__
args = trl.SFTConfig("out", max_steps=1, bf16=False, use_cpu=True, report_to="none")
trainer = trl.SFTTrainer("model", args, train_dataset=Dataset.from_list([{"text": "one two"}] * 8), processing_class=tokenizer)
seen = type(trainer.model).__name__
print(f"trl {trl.__version__}, transformers {transformers.__version__}: Auto class loads {auto}, SFTTrainer loads {seen}")
assert (auto, seen) == ("WithHeads", "Qwen2ForCausalLM"), "the behaviour has changed"
PYTHON
HF_HUB_OFFLINE=1 venv/bin/python -W ignore look.py 2>/dev/null
