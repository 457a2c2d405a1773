#!/usr/bin/env bash
# trl 1.16.0 with transformers 5.22.2: GRPO that is resumed in its second epoch trains on the first epoch's order of prompts.
#
# Guess: resume_from_checkpoint goes on with the prompts that the undisturbed run would have taken, as transformers' Trainer does.
# Seen:  within the first epoch it does. From the second epoch on, the resumed run takes the prompts of the first epoch's order: the
#        sampler's generator starts anew with the process and is not told the epoch. In what is left of the epoch some prompts come
#        a second time and others never, without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.22.2 trl==1.16.0 datasets==5.2.0 accelerate==1.15.0
cd "$folder"
cat >look.py <<'PYTHON'
import transformers, trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

words = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *map(str, range(12))])}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
config = Qwen2Config(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                     num_key_value_heads=1, pad_token_id=0, eos_token_id=1, bos_token_id=None)
rows = Dataset.from_dict({"prompt": [str(i) for i in range(12)]})  # 6 steps of 2 prompts an epoch


def run(folder, resume=None):
    """The prompts of each step."""
    seen = []

    def reward(prompts, completions, **columns):
        seen.append(sorted(set(prompts), key=int))
        return [float(len(text)) for text in completions]

    args = trl.GRPOConfig(folder, max_steps=12, save_steps=3, per_device_train_batch_size=4, num_generations=2,
                          max_completion_length=3, bf16=False, use_cpu=True, report_to="none", disable_tqdm=True)
    trainer = trl.GRPOTrainer(Qwen2ForCausalLM(config), reward, args, rows, processing_class=tokenizer)
    trainer.train(resume_from_checkpoint=resume)
    return seen


whole = run("whole")
first = run("first", "whole/checkpoint-3")
second = run("second", "whole/checkpoint-9")
print(f"trl {trl.__version__}, transformers {transformers.__version__}")
print("steps 4 to 6, undisturbed and resumed:  ", whole[3:6], first[:3])
print("steps 10 to 12, undisturbed and resumed:", whole[9:], second)
assert first[:3] == whole[3:6], "the first epoch is not resumed any more"
assert second != whole[9:] and second == whole[3:6], "the behaviour has changed"
again = [prompt for step in whole[6:9] + second for prompt in step]
print("prompts of epoch 2 that come twice:", sorted({p for p in again if again.count(p) > 1}, key=int),
      "and never:", sorted(set(rows["prompt"]) - set(again), key=int))
PYTHON
HF_HUB_OFFLINE=1 venv/bin/python -W ignore look.py 2>/dev/null | grep -v "^{"
