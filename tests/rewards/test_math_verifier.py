"""Final answers against gold answers, and what happens when the comparison does not end."""

import os
import pickle
import signal
import threading
import time
from pathlib import Path

import pytest

from mimo_hf.rewards import MathReward

from .conftest import call

pytest.importorskip("math_verify", reason="math-verify is not installed")

HANGS = r"\boxed{9^{9^{9^9}}}"


@pytest.fixture(scope="module")
def math():
    reward = MathReward(timeout_s=2.0)
    call(reward, [r"\boxed{1}"], solution=["1"])
    yield reward
    reward.close()


def boxed(*answers):
    return [rf"So it is \boxed{{{answer}}}." for answer in answers]


RIGHT = [
    ("5", "5"), (r"\frac{1}{2}", "0.5"), ("0.5", r"\frac{1}{2}"), ("(1,2)", "(1,2)"), (r"\{1,2\}", r"\{2,1\}"), ("A", "A"),
    ("1,2,3", "1,2,3"), (r"50\%", "0.5"), (r"50\%", "50"), ("x+1", "1+x"), ("[0,1)", "[0,1)"), ("x=5", "5"), (r"5\text{ cm}", "5"),
    (r"2\sqrt{2}", r"\sqrt{8}"), ("5", "$5$"), ("5", r"\boxed{5}"), ("5", r"the answer is \(5\)"),
]  # fmt: skip
WRONG = [
    ("6", "5"), ("(2,1)", "(1,2)"), ("B", "A"), ("[0,1]", "[0,1)"), (r"\text{yes}", "5"), (r"\begin{pmatrix}1\\2\end{pmatrix}", "5"),
    (r"\frac{1}{0}", "5"), ("", "5"), (r"\emptyset", "5"), ("x<5", "(2,3)"),
]  # fmt: skip


def test_equal_answers_earn_one_and_others_nothing(math):
    pairs = RIGHT + WRONG
    found = call(math, boxed(*(answer for answer, _ in pairs)), solution=[gold for _, gold in pairs])
    assert dict(zip(pairs, found, strict=True)) == {**dict.fromkeys(RIGHT, 1.0), **dict.fromkeys(WRONG, 0.0)}


def test_only_a_marked_answer_after_the_thinking_counts(math):
    texts = [
        "5",
        "$5$",
        "<think>\\boxed{5}</think> It is \\boxed{6}.",
        "<think>\\boxed{6}</think> It is \\boxed{5}.",
        "none",
    ]
    assert call(math, texts, solution=["5"] * 5) == [0.0, 0.0, 0.0, 1.0, 0.0]


def test_plain_and_conversational_completions_earn_the_same_in_the_main_thread_and_others(math):
    chat = [[{"role": "assistant", "content": text}] for text in boxed("5", "6")]
    expected = [1.0, 0.0]
    assert call(math, chat, solution=["5", "5"]) == call(math, boxed("5", "6"), solution=["5", "5"]) == expected
    found = []
    thread = threading.Thread(target=lambda: found.extend(call(math, chat, solution=["5", "5"])))
    thread.start()
    thread.join()
    assert found == expected


def test_it_agrees_with_trl_where_trl_has_an_answer(math):
    from trl.rewards import accuracy_reward

    pairs = [pair for pair in RIGHT + WRONG if pair[1] != r"the answer is \(5\)"]
    chat = [[{"role": "assistant", "content": text}] for text in boxed(*(answer for answer, _ in pairs))]
    golds = [gold if "$" in gold or "boxed" in gold else f"${gold}$" for _, gold in pairs]
    assert call(math, chat, solution=golds) == accuracy_reward(chat, golds)


def test_a_comparison_that_does_not_end_is_none_and_holds_up_nobody(math):
    logged = {}
    begin = time.monotonic()
    answers = [HANGS, *boxed(*range(12))]
    found = call(math, answers, solution=["7"] * 13, log_metric=logged.__setitem__)
    assert found == [None, *(float(n == 7) for n in range(12))]
    assert time.monotonic() - begin < 2 * math.limits.timeout_s + 2
    assert logged == pytest.approx(
        {"reward/verifier_timeout": 1 / 13, "reward/verifier_error": 0, "reward/gold_unparsable": 0}
    )
    assert call(math, boxed("7"), solution=["7"]) == [1.0]


@pytest.mark.parametrize(
    "answer", ["(" * 3000, "{" * 500 + "1" + "}" * 500, r"10^{10^{8}}!", r"\sin^{999}(x)+\cos^{998}(x)"]
)
def test_no_answer_outlives_its_limit(math, answer):
    begin = time.monotonic()
    assert call(math, boxed(answer), solution=[r"\tan(x)"]) in ([None], [0.0])
    assert time.monotonic() - begin < math.limits.timeout_s + 2


@pytest.mark.parametrize(
    "program", ["x = bytearray(10**11)", "raise RuntimeError('no')", "import os; os.kill(os.getpid(), 9)"]
)
def test_a_comparison_that_fails_or_lacks_memory_is_none_not_zero(math, monkeypatch, program):
    logged = {}
    monkeypatch.setattr("mimo_hf.rewards.math_verifier.PROGRAM", program)
    assert call(math, boxed("5"), solution=["5"], log_metric=logged.__setitem__) == [None]
    assert logged == {"reward/verifier_error": 1, "reward/verifier_timeout": 0, "reward/gold_unparsable": 0}


def test_a_gold_answer_that_cannot_be_read_names_its_row_once(math, caplog):
    logged = {}
    golds = ["5", "###", "", None, r"\frac{1}{", ["5"]]
    found = call(math, boxed(*["5"] * 6), solution=golds, log_metric=logged.__setitem__)
    assert found == [1.0, None, None, None, None, None]
    assert logged["reward/gold_unparsable"] == pytest.approx(5 / 6)
    for row, gold in ((1, "'###'"), (2, "''"), (3, "None"), (4, r"'\\frac{1}{'"), (5, "['5']")):
        assert f"row {row} can't be read by math-verify, its reward is None: {gold}" in caplog.text
    caplog.clear()
    call(math, boxed("5"), solution=["###"])
    assert "###" not in caplog.text


def test_what_was_read_is_logged_for_the_table_of_completions(math):
    extra = {}
    call(math, boxed("0.5", "", "3"), solution=["0.5", "5", "###"], log_extra=extra.__setitem__)
    assert extra["gold_parsed"][2] == "[unparsable]"
    assert extra["answer_parsed"][1:] == ["[unparsable]", "[gold]"]
    assert "0.5" in extra["answer_parsed"][0]


def test_equal_pairs_are_compared_once(math, monkeypatch):
    seen = []
    compare = math._compare
    monkeypatch.setattr(math, "_compare", lambda pool, *pair: seen.append(pair) or compare(pool, *pair))
    assert call(math, boxed("5", "5", "6", "5"), solution=["5", "5", "5", "6"]) == [1, 1, 0, 0]
    assert len(seen) == 3


def test_a_reward_pickles(math):
    copy = pickle.loads(pickle.dumps(math))
    assert copy.limits == math.limits
    assert copy.workers == math.workers


@pytest.mark.parametrize(("columns", "words"), [({}, "column `solution`"), ({"solution": ["5", "6"]}, "2 rows")])
def test_a_dataset_without_answers_is_refused(math, columns, words):
    with pytest.raises(ValueError, match=words):
        call(math, boxed("5"), **columns)


def test_without_math_verify_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"mimo-hf\[math\]"):
        call(MathReward(), boxed("5"), solution=["5"])


def test_a_process_that_was_killed_leaves_no_folder(own_folder):
    reward = MathReward(workers=1)
    assert call(reward, boxed("5"), solution=["5"]) == [1.0]
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [pid for path in children for pid in path.read_text().split()]
    for pid in pids:
        if b"verify_answer" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(int(pid), signal.SIGKILL)
    assert call(reward, boxed("5"), solution=["5"]) == [1.0]
    reward.close()
    assert os.listdir(own_folder) == []
