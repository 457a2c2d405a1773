"""
Code rewards by test difficulty: how many groups teach nothing under each scheme, what is learnt, and how fast the sandbox is.

    python benchmarks/code_reward.py                        # everything, a quarter of an hour on two cores
    python benchmarks/code_reward.py --sections sandbox
    python benchmarks/code_reward.py --seeds 1 --steps 20

Sections
    schemes  GRPO on staged programs (four stages; tests of depth 1 to 4), from one warm start a seed that passes all tests of a problem
             less than once in fifty ("hard") or in a hundred samples ("very hard"); levels come from pass rates measured on that warm start.
             Only the reward differs between the arms
    sandbox  short programs a second on one worker, and what the first one costs, for each backend that is here
"""

import argparse
import asyncio
import copy
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from _record import force_option, record
from _timing import STEADY, in_turn, ratio_of
from datasets import Dataset
from rich.console import Console
from rich.progress import track
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from mimo_hf.data.staged_programs import WORDS, as_python, demonstrations, run_program, staged_programs
from mimo_hf.data.word_tokenizer import word_tokenizer
from mimo_hf.rewards import CodeReward, Sandbox, grade_tests, pass_rates, score
from mimo_hf.trainers import sample_responses

SECTIONS = ("schemes", "sandbox")
SCHEMES = ("vanilla", "strict", "soft")
GROUP, PROMPTS = 8, 16
COMPLETION_TOKENS = 6
# How often each stage of the demonstrations is right: the warm start then passes all tests in about 1.3 and 0.7 % of samples.
DEMONSTRATIONS = {"hard": (0.8, 0.55, 0.2, 0.12), "very hard": (0.8, 0.55, 0.1, 0.03)}
STEPS = {"hard": 60, "very hard": 200}
console = Console(stderr=True)


def warm_start(
    tokenizer: PreTrainedTokenizerFast, seed: int, right: Sequence[float], steps: int = 500
) -> Qwen2ForCausalLM:
    """A small model that writes pipelines whose later stages it hardly knows."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(WORDS), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=32, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id, bos_token_id=None, attention_dropout=0.0,
        )
    )  # fmt: skip
    problems = staged_programs(400, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 50) * (1 - step / steps))
    rows, generator = [], torch.Generator().manual_seed(seed)
    for epoch in range(20):  # the same problems, each time with other mistakes
        pairs = demonstrations(problems, right, seed=100 * seed + epoch)
        rows += tokenizer([f"{pair['prompt']} {pair['completion']} <eos>" for pair in pairs]).input_ids
    tokens = torch.tensor(rows)
    prompt_tokens = len(tokenizer(problems[0]["prompt"]).input_ids)
    labels = tokens.clone()
    labels[:, :prompt_tokens] = -100
    for _ in track(range(steps), f"warm start {seed}", console=console):
        batch = torch.randint(len(tokens), (64,), generator=generator)
        loss = model(tokens[batch], labels=labels[batch]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def samples(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Dataset, each: int
) -> list[list[str]]:
    """Programs drawn at temperature 1, `each` a problem."""
    drawn = sample_responses(
        model, tokenizer, problems["prompt"], each, max_new_tokens=COMPLETION_TOKENS, batch_size=len(problems)
    )
    return [tokenizer.batch_decode(responses, skip_special_tokens=True) for responses in drawn]


def verdicts(program: str, tests: Sequence[dict]) -> list[bool]:
    return [run_program(program, test["input"]) == test["output"] for test in tests]


def with_levels(problems: Dataset, rollouts: list[list[str]]) -> Dataset:
    """Adds `test_levels` and `level_scores` from each problem's own rollouts."""
    levels, worth = [], []
    for row, programs in zip(problems, rollouts, strict=True):
        graded = grade_tests(pass_rates([verdicts(program, row["tests"]) for program in programs]))
        levels.append(graded.test_levels)
        worth.append(graded.level_scores)
    return problems.add_column("test_levels", levels).add_column("level_scores", worth)


def staged_reward(
    completions: Sequence[str], tests: Sequence, test_levels: Sequence, level_scores: Sequence, scheme: str, **columns
) -> list[float]:
    """`CodeReward` with the pipelines run by their own interpreter instead of the sandbox."""
    return [
        score(verdicts(program, own), levels, worth, scheme)
        for program, own, levels, worth in zip(completions, tests, test_levels, level_scores, strict=True)
    ]


def all_pass_rate(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Dataset, each: int = 8
) -> float:
    rows = zip(problems, samples(model, tokenizer, problems, each), strict=True)
    return statistics.mean(all(verdicts(program, row["tests"])) for row, programs in rows for program in programs)


def train(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Dataset, scheme: str, seed: int, steps: int
) -> list[float]:
    """Trains the model; share of zero-variance groups at each step."""
    folder = tempfile.TemporaryDirectory()
    arguments = GRPOConfig(
        output_dir=folder.name, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no",
        disable_tqdm=True, logging_steps=1, max_steps=steps, seed=seed, per_device_train_batch_size=GROUP * PROMPTS,
        num_generations=GROUP, max_completion_length=COMPLETION_TOKENS, learning_rate=1e-4, lr_scheduler_type="constant", beta=0.0,
        epsilon=0.2, epsilon_high=0.28, loss_type="dapo", scale_rewards="group", temperature=1.0,
    )  # fmt: skip
    reward = partial(staged_reward, scheme=scheme)
    trainer = GRPOTrainer(
        model=model, args=arguments, processing_class=tokenizer, train_dataset=problems, reward_funcs=reward
    )
    trainer.train()
    folder.cleanup()
    return [log["frac_reward_zero_std"] for log in trainer.state.log_history if "frac_reward_zero_std" in log]


def measure_schemes(seeds: int, steps: int | None) -> dict:
    tokenizer = word_tokenizer(WORDS)
    rows = []
    for difficulty, seed in itertools.product(DEMONSTRATIONS, range(seeds)):
        start = warm_start(tokenizer, seed, DEMONSTRATIONS[difficulty])
        held_out = staged_programs(128, "held_out", seed=seed)
        torch.manual_seed(seed)
        before = all_pass_rate(start, tokenizer, held_out)
        problems = staged_programs(400, seed=seed)
        problems = with_levels(problems, samples(start, tokenizer, problems, 16))
        for scheme in SCHEMES:
            model = copy.deepcopy(start)
            zero = train(model, tokenizer, problems, scheme, seed, steps or STEPS[difficulty])
            torch.manual_seed(seed)
            rows.append(
                {
                    "problems": difficulty, "seed": seed, "scheme": scheme,
                    "levels_a_problem": statistics.mean(map(len, problems["level_scores"])),
                    "zero_variance_first_50": statistics.mean(zero[:50]), "zero_variance_all": statistics.mean(zero),
                    "all_pass_before": before, "all_pass_after": all_pass_rate(model.eval(), tokenizer, held_out),
                }
            )  # fmt: skip
            console.print(rows[-1])
    table = []
    for difficulty, scheme in itertools.product(DEMONSTRATIONS, SCHEMES):
        own = [row for row in rows if (row["problems"], row["scheme"]) == (difficulty, scheme)]
        entry: dict = {"problems": difficulty, "scheme": scheme, "steps": steps or STEPS[difficulty]}
        for name in ("zero_variance_first_50", "all_pass_before", "all_pass_after"):
            values = [row[name] for row in own]
            entry |= {name: statistics.mean(values), f"{name} range": [min(values), max(values)]}
        table.append(entry)
    return {"seeds": seeds, "group": GROUP, "prompts_a_step": PROMPTS, "schemes": table, "runs": rows}


def bare_interpreter(source: str, stdin: str) -> str:
    """The floor: a program in an interpreter of its own, with no protection at all."""
    command = [sys.executable, "-I", "-S", "-c", source]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout


def measure_sandbox(programs: int, repeats: int) -> list[dict]:
    """Every backend that is here and the bare interpreter, in turn; each time in a round runs `programs` of them."""
    problems = staged_programs(16)
    first_s: dict[str, float] = {}
    run: dict[str, Callable[[str, str], str]] = {"bare interpreter": bare_interpreter}

    def round_of(name: str):
        for row in itertools.islice(itertools.cycle(problems), programs):
            stdout = run[name](as_python(row["solution"]), row["tests"][-1]["input"])
            assert stdout.strip() == row["tests"][-1]["output"]

    with ExitStack() as stack:
        for backend in ("bwrap", "subprocess"):
            begin = time.perf_counter()
            sandbox = stack.enter_context(Sandbox(backend, workers=1))
            try:
                sandbox.run("pass")
            except OSError as error:
                console.print(f"{backend}: {error}")
                continue
            first_s[backend] = time.perf_counter() - begin
            run[backend] = lambda source, stdin, sandbox=sandbox: sandbox.run(source, stdin).stdout
            reward = CodeReward("soft", sandbox)
            completions = [f"```python\n{as_python(row['solution'])}```" for row in problems]
            assert asyncio.run(reward(completions, tests=problems["tests"])) == [1.0] * len(problems)
        seconds = in_turn({name: partial(round_of, name) for name in run}, repeats)
    rows = []
    for name, spent in seconds.items():
        ratio = ratio_of(seconds["bare interpreter"], spent)
        row = {"backend": name, "workers": 1, "programs_a_second": programs / statistics.median(spent)}
        row |= {"range": [programs / max(spent), programs / min(spent)], "first_program_s": first_s.get(name)}
        row |= {f"over_bare_{key}": value for key, value in ratio.items()}
        rows.append(row | {"repeats": repeats, "steady": ratio["spread"] <= STEADY})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each run (default: 60 and 200)")
    parser.add_argument("--programs", type=int, default=200)
    force_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if "sandbox" in options.sections:
        rows = measure_sandbox(options.programs, repeats=5)
        record("code_reward_sandbox", {"sandbox": rows}, seed=0, timed=True, force=options.force)
    if "schemes" in options.sections:
        record("code_reward", measure_schemes(options.seeds, options.steps), seed=0, timed=False)


if __name__ == "__main__":
    main()
