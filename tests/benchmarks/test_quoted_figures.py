"""Figures that the README, guides and cards quote are those of the results: each row is made anew and looked for in the text."""

import json
import re
from functools import cache

import pytest
import report
from _figures import at, fill

ROOT = report.RESULTS.parents[1]


@cache
def result(name: str) -> dict:
    return json.loads((report.RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def spread(row: str) -> str:
    return f"{{{row}.ratio:.2f}} ({{{row}.ratio_min:.2f}} to {{{row}.ratio_max:.2f}})"


def batches(rows: str) -> str:
    return ", ".join(spread(f"{rows}[batch={batch}]") for batch in (1, 2, 4, 8))


def arms(column: str, digits: int, *names: str) -> str:
    return " | ".join(f"{{table[arm={name}].{column}:.{digits}f}}" for name in names)


THREE = ("full", "hybrid_swa", "hysparse")
CARD, SCHEDULER, REWARDS = "modeling/hysparse/README.md", "mimo_hf/scheduler/README.md", "mimo_hf/rewards/README.md"
QUOTED = [
    (
        "README.md",
        "mtp_decoding",
        (
            "{acceptance.acceptance_length:.2f} of 4; {acceptance.acceptance_length_without_loops:.2f} without the continuations that "
            "fall into loops, {acceptance.acceptance_length_looping:.2f} in those"
        ),
    ),
    ("README.md", "mtp_batch", f"{batches('forced.batches[target=3.4]')} times as fast"),
    ("README.md", "mtp_batch", f"{batches('text.batches')} times"),
    (
        "README.md",
        "mtp_decoding",
        (
            "{speed.dense_model.rows[*].round_outside_trunk_over_step|min:.2f} to "
            "{speed.dense_model.rows[*].round_outside_trunk_over_step|max:.2f}; reading the heads' weights alone is "
            "{speed.dense_model.floor.weights_read_by_heads_over_trunk_step:.2f}"
        ),
    ),
    ("README.md", "mtp_decoding", "| {overhead.drafting_ratio:.2f} of its time |"),
    ("README.md", "pretrain_mimo", "({acceptance.greedy.acceptance_length:.2f} greedy)"),
    (
        CARD,
        "hysparse_quality_chain",
        (
            "| {table[arm=full].hop_3:.3f} | {table[arm=hybrid_swa].hop_3:.3f} ({table[arm=hybrid_swa].last_hop_min:.3f}-"
            "{table[arm=hybrid_swa].last_hop_max:.3f}) | **{table[arm=hysparse].hop_3:.4f}**"
        ),
    ),
    (
        CARD,
        "hysparse_quality_relay",
        (
            "{table[arm=no_swa_branch].hop_2:.3f} ({table[arm=no_swa_branch].last_hop_min:.3f}-"
            "{table[arm=no_swa_branch].last_hop_max:.3f}) | {table[arm=swa_shares_kv].hop_2:.3f}"
        ),
    ),
    (CARD, "hysparse_quality_chain_256", f"256 positions, 900 steps | {arms('hop_3', 3, *THREE)} | 1 |"),
    (CARD, "hysparse_quality_chain_4", f"800 steps | {arms('hop_4', 3, *THREE)} | 1; HySparse 2 |"),
    (CARD, "hysparse_quality_text", f"the standard library | {arms('bits_a_byte', 3, *THREE)} | 3 |"),
    *(
        (
            CARD,
            "hysparse_quality_needle",
            f"| {context:,} | "
            + " | ".join(
                f"{{by_context[arm={arm}][context={context}].last_hop:.3f}}" for arm in ("full", "hybrid_swa")
            )
            + "".join(
                f" | {{by_context[arm=hysparse][context={context}][topk_tokens={topk}].last_hop:.3f}}"
                for topk in (8, 16, 32, 64)
            ),
        )
        for context in (128, 256, 512, 1024)
    ),
    *(
        (
            CARD,
            "distill_hysparse",
            (
                f"| {gates} | {{students[student=HySparse][full_layers={layers}][gates_start={gates}].kl_before:.3f}} | "
                f"{{students[student=HySparse][full_layers={layers}][gates_start={gates}].kl_after:.3f}} |"
            ),
        )
        for layers in ("period", "agreement")
        for gates in ("equal", "window")
    ),
    (
        CARD,
        "hysparse_cpu",
        (
            "{decode[layout=7b].full_over_hysparse:.1f} times as long as HySparse with 4 of 12 layers full "
            "({decode[layout=7b].full_over_hysparse_min:.1f} to {decode[layout=7b].full_over_hysparse_max:.1f} over 30 pairs of steps), "
            "{decode[layout=80b].full_over_hysparse:.1f} times with 2 of 13"
        ),
    ),
    (CARD, "hysparse_cpu", "peaks at {prefill[arm=hysparse].peak_bytes:.2GB}"),
    (CARD, "hysparse_memory", "a cache is {formula.rows[context=1048576].full_over_hysparse:.1f} times smaller"),
    *(
        (
            REWARDS,
            "code_reward",
            f"{scheme} | {{schemes[problems={problems}][scheme={scheme}].zero_variance_first_50:.3f}} [",
        )
        for problems in ("hard", "very hard")
        for scheme in ("vanilla", "strict", "soft")
    ),
    (
        REWARDS,
        "code_reward_sandbox",
        (
            "{sandbox[backend=bwrap].programs_a_second:.0f} a second in bubblewrap, {sandbox[backend=subprocess].programs_a_second:.0f} in "
            "a subprocess"
        ),
    ),
    (
        REWARDS,
        "code_reward_sandbox",
        "({sandbox[backend=bwrap].over_bare_ratio:.2f} and {sandbox[backend=subprocess].over_bare_ratio:.2f} times as many",
    ),
    *(
        (
            SCHEDULER,
            "scheduler_coding",
            (
                f"| {cores} | {{sweep[cores={cores}][policy=price].act_s:.2f}} s / {{sweep[cores={cores}][policy=price].step_s:.0f}} s | "
                f"{{sweep[cores={cores}][policy=pods of 4].act_s:.1f}} s / {{sweep[cores={cores}][policy=pods of 4].step_s:.0f}} s | "
                f"{{against_pods[cores={cores}]['act ratio, pods of 4']:.1f}}x / "
            ),
        )
        for cores in (80, 160, 320, 640, 1280)
    ),
    (SCHEDULER, "scheduler_coding", "takes `price` {saving.price_cores} cores ({saving.share_of_cores:.1%})"),
    (
        SCHEDULER,
        "scheduler_live",
        (
            "| {wait_on_four_counted_cores[system=local executor].live_over_simulated:.3f} / "
            "{wait_on_four_counted_cores[system=Ray executor, two nodes].live_over_simulated:.3f} |"
        ),
    ),
    (
        SCHEDULER,
        "scheduler_deepsearch",
        (
            "clients that retry on 429 in {runs[searches_per_s=16][rule=uncontrolled, 429s].step_s:.0f} s with "
            "{runs[searches_per_s=16][rule=uncontrolled, 429s].refused:,.0f} refused calls"
        ),
    ),
    (
        SCHEDULER,
        "scheduler_speed",
        "| {commands.overhead_ms_median:.2f} / {commands.overhead_ms_p99:.2f} ms |",
    ),
    (
        SCHEDULER,
        "scheduler_speed",
        "| {decisions[policy=price].p99_ms:.2f} / {decisions[policy=fifo4].p99_ms:.2f} / {decisions[policy=evict].p99_ms:.2f} ms |",
    ),
    ("trainers/README.md", "seamless", "{simulated[arm=+ early stop].speed_up:.2f} times"),
    ("trainers/README.md", "seamless", "{reported_by_the_paper[arm=+ early stop].speed_up:.2f} times as fast"),
]


@pytest.mark.parametrize(("document", "name", "quote"), QUOTED)
def test_a_quoted_figure_still_stands(document, name, quote):
    text = re.sub(r"\s+", " ", (ROOT / document).read_text(encoding="utf-8"))
    assert fill(quote, result(name)) in text


@pytest.mark.parametrize("domain", ["PairSum", "DoubtSearch", "equations", "plans"])
def test_the_table_of_judging_first_still_stands(domain):
    name = {"PairSum": "pair_sum", "DoubtSearch": "doubt_search"}.get(domain, domain)
    content, text = result(f"judge_rlvr_{name}"), (ROOT / "trainers/README.md").read_text(encoding="utf-8")
    for row in content["judge_then_generate_over_vanilla"]:
        steps, points = row["generator_steps"], sorted(row["points_by_seed"])
        vanilla, judge = (
            at(content, f"table[arm={arm}][point={steps}].accuracy") for arm in ("vanilla", "judge -> generate")
        )
        gain = " to ".join(f"{point:+.1f}" for point in dict.fromkeys([points[0], points[-1]]))
        assert f"| {domain}, {steps} steps | {vanilla:.3f} | {judge:.3f} | {gain} |" in text
