"""What JudgeRLVR's pipeline takes: problems in every format, wrong ones with where they stand, options as they are typed."""

import csv
import dataclasses
import json
import logging
import re
import subprocess
import sys

import pytest
from datasets import Dataset, DatasetDict
from trl import TrlParser

from mimo_hf import cli
from mimo_hf.trainers.judge_rlvr import command as judge_rlvr
from mimo_hf.trainers.judge_rlvr.options import JudgeRLVRPipelineConfig
from mimo_hf.trainers.judge_rlvr.problems import load_problems

ROWS = [{"problem_id": f"p{index}", "problem": f"solve {index}", "solution": str(index % 2)} for index in range(20)]
TRAIN, TEST = ROWS[:16], ROWS[16:]
NEEDED = [
    "--reward",
    "json.dumps",
    "--judge_reward",
    "json.dumps",
    "--parse_answer",
    "json.loads",
    "--model_name_or_path",
    "org/model",
]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def saved(path):
    DatasetDict({"train": Dataset.from_list(TRAIN), "test": Dataset.from_list(TEST)}).save_to_disk(str(path))
    return str(path)


def split_file(path):
    path.write_text(json.dumps({"train": TRAIN, "test": TEST}, indent=1))
    return str(path)


def folder(path, write, suffix):
    path.mkdir()
    for split, rows in (("train", TRAIN), ("test", TEST)):
        write(path / f"{split}{suffix}", rows)
    return str(path)


def write_parquet(path, rows):
    Dataset.from_list(rows).to_parquet(str(path))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: saved(path / "saved"),
        lambda path: split_file(path / "both.json"),
        lambda path: folder(path / "lines", write_lines, ".jsonl"),
        lambda path: folder(path / "lists", lambda file, rows: file.write_text(json.dumps(rows, indent=1)), ".json"),
        lambda path: folder(path / "csv", write_csv, ".csv"),
        lambda path: folder(path / "parquet", write_parquet, ".parquet"),
    ],
)
def test_every_format_gives_the_same_problems(tmp_path, make):
    problems = load_problems(make(tmp_path))
    assert (problems.train, problems.test) == (TRAIN, TEST)
    assert problems.notes == ["problems are taken from the column `problem`"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_one_file_gives_a_part_of_itself_to_the_test(tmp_path, name):
    problems = load_problems(write_lines(tmp_path / name, ROWS), test_share=0.25)
    assert problems.test == ROWS[3::4]
    assert problems.train == [row for row in ROWS if row not in ROWS[3::4]]
    assert "every 4th problem is held out" in problems.notes[1]
    with pytest.raises(ValueError, match=r"its 20 problems at least one; got .* test_share=0.01"):
        load_problems(str(tmp_path / name), test_share=0.01)


def test_prompts_of_trl_are_problems(tmp_path):
    rows = [
        {"prompt": "one", "solution": 1},
        {"prompt": [{"role": "user", "content": "two"}], "solution": 2},
        *({"prompt": "more", "solution": 3} for _ in range(8)),
    ]
    problems = load_problems(write_lines(tmp_path / "a.jsonl", rows))
    assert [(row["problem_id"], row["problem"], row["solution"]) for row in problems.train[:2]] == [
        ("0", "one", 1),
        ("1", "two", 2),
    ]
    assert problems.notes[0] == "problems are taken from the column `prompt`"
    both = [{**row, "problem": "other"} for row in rows]
    problems = load_problems(write_lines(tmp_path / "b.jsonl", both))
    assert problems.train[0]["problem"] == "other"
    assert problems.notes[0] == "problems are taken from the column `problem` (there is `prompt`, too)"


GOOD = '{"problem": "p", "solution": "1"}\n'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", GOOD + "\n{bad\n", "a.jsonl:3: the line must be JSON"),
        ("a.jsonl", GOOD + "[1]\n", "a.jsonl:2: a row must be a JSON object; got [1]"),
        ("a.jsonl", GOOD + '{"problem": " ", "solution": "1"}\n' * 3, "a.jsonl:2: `problem` must be text"),
        ("a.jsonl", GOOD + '{"problem": "p"}\n' * 3, "a.jsonl:2: `solution` is empty; and 2 more, such as "),
        (
            "a.jsonl",
            '{"question": "p", "answer": "1"}\n',
            "a column `problem` (or `prompt`); got 'question', 'answer'",
        ),
        ("a.jsonl", '{"problem": "p", "answer": "1"}\n', "a column `solution`; got 'problem', 'answer'"),
        (
            "a.jsonl",
            '{"problem_id": 1, "problem": "p", "solution": "1"}\n{"problem_id": 1, "problem": "q", "solution": "1"}\n',
            "a.jsonl:2: `problem_id` 1 is that of another problem",
        ),
        ("a.jsonl", "", "got a split without rows"),
        ("a.json", '[\n {"problem": "p",\n  "solution": "1"},\n 7\n]', "a.json:4: a row must be a JSON object; got 7"),
        ("a.json", '[\n {"problem": "p", "solution": "1"},\n {"problem": ]', "a.json:3: the file must be JSON"),
        (
            "a.json",
            '[{"problem": "p", "solution": "1"},\n\n {"problem": "p", "solution": ""}]',
            "a.json:3: `solution` is empty",
        ),
        ("a.json", '{"train": [], "dev": []}', "a.json must have rows in each split"),
        ("a.json", '{"dev": []}', "'dev'; got 'train'"),
        ("a.csv", 'problem,solution\n"two\nlines",1\nthree,\n', "a.csv:4: `solution` is empty"),
        ("a.csv", "problem,solution\none,1\ntwo\n", "a.csv:3: the line must have 2 values"),
        ("a.parquet", "no parquet", "a.parquet must be Parquet"),
        ("a.txt", "text", "a.txt must be a .json, .jsonl, .csv or .parquet file"),
    ],
)
def test_wrong_rows_are_told_with_where_they_stand(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_problems(str(tmp_path / name))


def test_a_folder_or_file_that_is_not_there_is_no_data_set_of_the_hub(tmp_path):
    for name in (f"{tmp_path}/nothing", "nothing.jsonl", "./nothing"):
        with pytest.raises(FileNotFoundError, match="There is no file or folder"):
            load_problems(name)
    with pytest.raises(ValueError, match=r"must hold a data set saved by `save_to_disk`, or train\.jsonl"):
        load_problems(str(tmp_path))


def test_a_data_set_of_the_hub_is_asked_for_by_its_name(monkeypatch):
    asked = []

    def load_dataset(name, config):
        asked.append((name, config))
        return DatasetDict({"main": Dataset.from_list(TRAIN), "dev": Dataset.from_list(TEST)})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    problems = load_problems("org/data", "hard", "main", "dev")
    assert asked == [("org/data", "hard")]
    assert (problems.train, problems.test) == (TRAIN, TEST)


WRONG = {
    "": "`--dataset_name`, `--reward`, `--judge_reward`, `--parse_answer` must be given",
    "--dataset_name FILE --reward x": "`--judge_reward`, `--parse_answer` must be given",
    "--dataset_name missing.jsonl NEEDED": "There is no file or folder 'missing.jsonl': correct `--dataset_name`.",
    "--dataset_name FILE NEEDED": "BAD:2: `solution` is empty.",
    "--dataset_name FILE --dataset other.jsonl NEEDED": "`--dataset_name` and `--dataset` are one option",
    "--dataset_name FILE NEEDED --reward nothing.at.all": "`--reward` must be the dotted path of a function",
    "--dataset_name FILE NEEDED --reward accuracy": "`--reward` must be the dotted path of a function",
    "--dataset_name FILE NEEDED --model_name_or_path ./missing": "There is no model folder './missing'",
    "--dataset_name FILE NEEDED --candidates_per_problem 1": "`--candidates_per_problem` must be at least 2",
    "--dataset_name FILE NEEDED --test_share 0.9": "`--test_share` must be above 0 and at most 0.5; got 0.9",
    "--dataset_name FILE NEEDED --sandbox subprocess": "`sandbox` is no option of the trainer any more: it is the field `sandbox` of",
    "--dataset_name FILE NEEDED --sandbox-workers=3": "`sandbox_workers` is no option of the trainer any more",
    "--config FILE.yaml": "`code_reward_scheme` is no option of the trainer any more: it is the field `code_reward_scheme` of mimo_hf.rewards.",
    "--config missing.yaml": "missing.yaml does not exist",
}


def test_wrong_input_is_one_line_before_torch_is_imported(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(GOOD + '{"problem": "p", "solution": null}\n')
    (tmp_path / "bad.jsonl.yaml").write_text("code_reward_scheme: soft\n")
    commands = [
        [
            word
            for part in command.split()
            for word in (NEEDED if part == "NEEDED" else [part.replace("FILE", str(path))])
        ]
        for command in WRONG
    ]
    script = (
        "import json, sys\nfrom mimo_hf.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n    print(main(['judge-rlvr', *words]), flush=True)\n"
        "print(sorted({'torch', 'trl', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert result.stdout.splitlines() == ["2"] * len(WRONG) + ["[]"]
    lines = result.stderr.splitlines()
    assert len(lines) == len(WRONG)
    for line, message in zip(lines, WRONG.values(), strict=True):
        assert message.replace("BAD", str(path)) in line


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--model_thinks False --restart --test_share 0.2",
        "--model-thinks true --restart false --candidates-per-problem 3 --candidate_models a b",
        "--stage_handoff merge --judge_steps 5 --step build --dataset_config hard",
    ],
)
def test_own_options_are_read_as_trls_parser_reads_them(words):
    words = ["--dataset", "d", "--reward", "a.b", "--judge_reward", "a.b", "--parse_answer", "a.b", *words.split()]
    parser = judge_rlvr.argparse.ArgumentParser()
    judge_rlvr.add_options(parser)
    own = vars(parser.parse_known_args(words)[0])
    names = {field.name for field in dataclasses.fields(JudgeRLVRPipelineConfig)}
    ours = JudgeRLVRPipelineConfig(**{name: value for name, value in own.items() if name in names})
    assert TrlParser((JudgeRLVRPipelineConfig,)).parse_args_and_config(words) == (ours,)


def test_every_field_is_documented_and_in_a_group():
    fields = dataclasses.fields(JudgeRLVRPipelineConfig)
    assert [field.name for field in fields if f"        {field.name} (`" not in JudgeRLVRPipelineConfig.__doc__] == []
    grouped = [name for names in judge_rlvr.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(field.name for field in fields)


def test_the_help_names_own_options_and_where_the_others_are(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["judge-rlvr", "--help"])
    assert end.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert all(f"--{field.name}" in printed for field in dataclasses.fields(JudgeRLVRPipelineConfig))
    assert "--help-all prints them" in printed
    assert "--num_generations" not in printed
    from mimo_hf.trainers import JudgeRLVRConfig

    named = set(re.findall(r"--(\w+)", judge_rlvr.ALSO)) - {"help", "use_peft", "dtype"}
    assert named <= {field.name for field in dataclasses.fields(JudgeRLVRConfig)}


def test_all_options_can_be_printed(capsys):
    with pytest.raises(SystemExit) as end:
        judge_rlvr.main(["--help-all"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in ("dataset_name", "judge_min_gap", "num_generations", "use_peft"))


def test_the_sub_command_runs_the_pipeline(capsys, tmp_path):
    assert (
        cli.main(["judge-rlvr", "--dataset_name", str(tmp_path / "missing.jsonl"), *NEEDED, "--stage", "mixed"]) == 2
    )
    assert capsys.readouterr().err.startswith("mimo-hf judge-rlvr: error: There is no file or folder")
    assert cli.main(["judge-rlvr", "--candidates_per_problem", "many"]) == 2


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("set `restart=True` to make", "set `--restart` to make"),
        ("set `model_thinks=False`.", "set `--model_thinks False`."),
        ("below test_share=0.05: the", "below --test_share 0.05: the"),
        ("in step='build'.", "in --step build."),
        ("`dataset`, `prompt` and the dataset", "`--dataset`, `prompt` and the dataset"),
        ("/runs/restart=1.5/a.jsonl:3", "/runs/restart=1.5/a.jsonl:3"),
    ],
)
def test_messages_name_options_as_they_are_typed(message, expected):
    assert judge_rlvr.as_typed(message, judge_rlvr._flags(JudgeRLVRPipelineConfig)) == expected


def thinks(option, completions, vocabulary=()):
    from mimo_hf.trainers.judge_rlvr.pipeline import _Pipeline

    pipeline = object.__new__(_Pipeline)
    needed = dict.fromkeys(("dataset_name", "reward", "judge_reward", "parse_answer"), "a.b")
    pipeline.options = JudgeRLVRPipelineConfig(**needed, model_thinks=option)
    pipeline.tokenizer = type("Tokenizer", (), {"get_vocab": lambda self: dict.fromkeys(vocabulary, 0)})()
    return pipeline._model_thinks([{"completion": text} for text in completions])


def test_the_completions_show_whether_a_model_thinks(caplog):
    with caplog.at_level(logging.WARNING):
        assert thinks(None, ["a</think>b", "cut off"]) is True
        assert thinks(True, ["a</think>b", "cut off"]) is True
        assert thinks(False, ["a</think>b"]) is False
        assert caplog.records == []
        assert thinks(None, ["a", "b"]) is False
    assert [record.getMessage() for record in caplog.records] == [
        "No sampled completion holds </think>: the model answers without thoughts, and whole completions are judged."
    ]
    for option, vocabulary in ((True, ()), (None, ["</think>"])):
        with pytest.raises(ValueError, match=r"got 2 without </think>.* set `model_thinks=False`") as error:
            thinks(option, ["a", "b"], vocabulary)
        assert "truncated" not in str(error.value)


REWARDS = """
def answer(text):
    word = (text.split() or [""])[0]
    return ["even", "odd"][int(word) % 2] if word.isdecimal() else None

async def accuracy(completions, solution, **columns):
    return [float(answer(text) == right) for text, right in zip(completions, solution)]

def verdict(completions, label, **columns):
    return [float(("yes" in text.split()) == bool(right)) for text, right in zip(completions, label)]
"""


@pytest.mark.slow  # five steps of a pipeline
def test_prompts_in_a_file_a_model_without_thoughts_and_an_async_reward(
    tmp_path, monkeypatch, make_model, tokenizer, capsys
):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        {"prompt": f"solve {index // 10} {index % 10}", "solution": ["even", "odd"][index % 2]} for index in range(20)
    ]
    data = write_lines(tmp_path / "problems.jsonl", rows)
    (tmp_path / "own_rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    words = (
        f"--model_name_or_path {tmp_path}/model --dataset_name {data} --reward own_rewards.accuracy --output_dir run "
        "--judge_reward own_rewards.verdict --parse_answer own_rewards.answer --judge_min_gap -1 --judge_steps 1 "
        "--generate_steps 1 --save_strategy no --report_to none --use_cpu --bf16 false --gradient_checkpointing false "
        "--max_completion_length 5 --num_generations 4 --per_device_train_batch_size 8 --dtype float32"
    ).split()
    try:
        # A wrong choice does not have to be undone by --restart: nothing was made by it.
        assert cli.main(["judge-rlvr", *words, "--model_thinks", "True"]) == 2
        assert "set `--model_thinks False`" in capsys.readouterr().err.splitlines()[-1]
        assert cli.main(["judge-rlvr", *words]) == 0
    finally:
        sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]
    captured = capsys.readouterr()
    assert re.search(r"^generate +\d\.\d+ +\d", captured.out, re.MULTILINE)
    assert f"{data}: problems are taken from the column `prompt`" in captured.err
    assert all(f"test solutions of {name}" in captured.err for name in ("start", "judge", "generate"))
    assert len(json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())) == 3
