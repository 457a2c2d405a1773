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

# Stands for an answer that makes the comparison slow, and for a gold answer that does; none of the real kind is kept here.
SLOW = "\\boxed{slow}"
STAND_IN = """
import json, sys, time
from mimo_hf.rewards.verify_answer import compare
asked = json.load(sys.stdin)
if "slow" in asked["text"] or "slow" in asked["gold"]: time.sleep(100)
if "fails" in asked["text"] or "fails" in asked["gold"]: raise RuntimeError
if "large" in asked["text"] or "large" in asked["gold"]: bytearray(10**11)
if "dies" in asked["text"] or "dies" in asked["gold"]:
    import os
    os.kill(os.getpid(), 9)
print("\\n" + json.dumps(compare(asked["text"], asked["gold"])))
"""


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


def test_an_answer_that_makes_the_comparison_slow_is_wrong_and_holds_up_nobody(math, monkeypatch):
    monkeypatch.setattr("mimo_hf.rewards.math_verifier.PROGRAM", STAND_IN)
    logged = {}
    begin = time.monotonic()
    answers = [SLOW, *boxed(*range(12))]
    found = call(math, answers, solution=["7"] * 13, log_metric=logged.__setitem__)
    assert found == [0.0, *(float(n == 7) for n in range(12))]
    assert time.monotonic() - begin < 2 * math.limits.timeout_s + 10
    shares = {"verifier_timeout": 1 / 13, "verifier_error": 0, "gold_unparsable": 0, "not_plain": 0}
    assert logged == pytest.approx({f"reward/{name}": share for name, share in shares.items()})
    assert call(math, boxed("7"), solution=["7"]) == [1.0]


@pytest.mark.parametrize("kind", ["slow", "fails", "large", "dies"])
def test_only_the_gold_answers_doing_is_none(math, monkeypatch, kind):
    """One right answer and nine that choose not to be counted: the accuracy is one in ten."""
    monkeypatch.setattr("mimo_hf.rewards.math_verifier.PROGRAM", STAND_IN)
    logged = {}
    answers = [*boxed("5"), *[rf"\boxed{{{kind} {n}}}" for n in range(2)]]
    assert call(math, answers, solution=["5"] * 3, log_metric=logged.__setitem__) == [1.0, 0.0, 0.0]
    problem = "verifier_timeout" if kind == "slow" else "verifier_error"
    assert logged[f"reward/{problem}"] == pytest.approx(2 / 3)
    assert call(math, boxed("5"), solution=[rf"\text{{{kind}}}"]) == [None]


NOT_PLAIN = [
    (r"\sum_{k=1}^{10} k", "55", "a sum"), (r"\prod_{k=1}^{3} k", "6", "a product"), (r"\int_0^1 2x dx", "1", "an integral"),
    (r"\frac{d}{dx} x^2", "2x", "a derivative"), (r"\lim_{x\to 0} (x+1)", "1", "a limit"), (r"\binom{5}{2}", "10", "a binomial"),
    (r"\gcd(4,6)", "2", "a greatest common"), (r"\det \begin{pmatrix}1&2\\3&4\end{pmatrix}", "-2", "a determinant"),
    (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2", "a determinant"), ("5!", "120", "a factorial"),
    (r"3\cdot 4", "12", "a product of numbers"), ("2+3", "5", "a sum of numbers"), (r"3\times 4+2", "14", "a product of numbers"),
    ("x=2+3", "5", "a sum of numbers"), ("3=4=5", "5", "a side of the equation"), (r"\{1,2\}", "(1,2)", "a set"), ("a", "A", "it is another letter"),
]  # fmt: skip
PLAIN = [
    (r"\sum_{k=1}^{n} k^3", r"\sum_{k=1}^{n} k^3"), ("5!", "5!"), (r"\binom{n}{2}", r"\binom{n}{2}"), (r"3\times 10^5", "300000"),
    (r"2^{10}", "1024"), (r"\frac{10}{4}", "2.5"), (r"2\sqrt{3}", r"\sqrt{12}"), ("x=5", "5"), ("-5", "-5"), (r"\sin\frac{\pi}{6}", "0.5"),
    ("5=5", "5"), (r"\{1,2\}", r"\{2,1\}"), ("a", "a"), (r"\{1\}", r"\{1\}"), ("(x+1)^2", "x^2+2x+1"), (r"\log 100", "2"),
    (r"2+3\sqrt{2}", r"3\sqrt{2}+2"), (r"\frac{1}{2}+\frac{\sqrt{3}}{2}", r"\frac{1+\sqrt{3}}{2}"), (r"12\text{ factories}", "12"),
]  # fmt: skip


def test_the_question_is_no_answer(math):
    extra, logged = {}, {}
    answers, golds, why = zip(*NOT_PLAIN, strict=True)
    found = call(math, boxed(*answers), solution=golds, log_extra=extra.__setitem__, log_metric=logged.__setitem__)
    assert dict(zip(answers, found, strict=True)) == dict.fromkeys(answers, 0.0)
    for shown, reason in zip(extra["answer_parsed"], why, strict=True):
        assert f"[{reason}" in shown
    assert logged["reward/not_plain"] == 1


def test_answers_that_are_plain_or_as_the_gold_answer_is_earn_as_ever(math):
    answers, golds = zip(*PLAIN, strict=True)
    assert dict(zip(answers, call(math, boxed(*answers), solution=golds), strict=True)) == dict.fromkeys(answers, 1.0)


def test_without_plain_answers_only_the_value_counts():
    with_all = MathReward(timeout_s=20.0, plain_answers=False)
    answers, golds, _ = zip(*NOT_PLAIN, strict=True)
    found = dict(zip(answers, call(with_all, boxed(*answers), solution=golds), strict=True))
    with_all.close()
    assert found == dict.fromkeys(answers, 1.0)


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


@pytest.mark.parametrize(
    ("columns", "words"), [({}, "`solution` must be a column"), ({"solution": ["5", "6"]}, "1; got 2")]
)
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
