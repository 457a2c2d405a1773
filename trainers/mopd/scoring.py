"""Every row of a batch scored by the teacher of its domain."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .heads import top_tokens
from .pool import LocalTeacher, RemoteTeacher, TeacherPool
from .server_teacher import TeacherError

NO_TOKEN = -1  # in `teacher_top_ids`


def score_rows(pool: TeacherPool, batch: Mapping[str, Tensor], accelerator: Any) -> dict[str, Tensor]:
    """
    Args:
        batch: `prompt_ids`, `prompt_mask`, `completion_ids`, `completion_mask` and `domain_idx`, of this process.

    Returns:
        Of each token of the completions, `[B, T]`, 0 where there is none: `teacher_per_token_logps`, and `teacher_is_top1` (1 where the
        token is the teacher's most likely one, NaN where a server scores). With the estimators that need them also
        `teacher_hidden_states`, `[B, T, H]`, or `teacher_top_ids` and `teacher_top_logps`, `[B, T, K + 1]`: the teacher's most likely
        tokens and the sampled one; ids are -1 where an entry does not count.
    """
    scores = _empty(pool, batch)
    for teacher, domains in pool.distinct():
        chosen = torch.tensor(domains, device=batch["domain_idx"].device)
        rows = torch.isin(batch["domain_idx"], chosen).nonzero().squeeze(-1)
        if isinstance(teacher, RemoteTeacher):
            _ask(teacher, batch, rows, scores, pool)
        else:
            _check_tokens(teacher, batch, rows, pool.names[domains[0]])
            _run(teacher, batch, rows, scores, pool, accelerator)
    _check_finite(scores["teacher_per_token_logps"], batch, pool)
    return scores


def _check_tokens(teacher: LocalTeacher, batch: Mapping[str, Tensor], rows: Tensor, name: str) -> None:
    """Of two tables of which only the padding differs, the student's may be the larger one."""
    known = teacher.host.causal_lm.get_input_embeddings().weight.shape[0]
    if known >= teacher.student_size or not len(rows):
        return
    token = int((batch["completion_ids"][rows] * batch["completion_mask"][rows]).max())
    if token >= known:
        raise TeacherError(
            f"The student has sampled token {token}, which is of the padding of its own table; the teacher {name!r} has {known} tokens. "
            "Resize the student's embeddings to its tokenizer, or suppress these tokens in `generation_kwargs`."
        )


def _check_finite(log_probs: Tensor, batch: Mapping[str, Tensor], pool: TeacherPool) -> None:
    wrong = log_probs.isnan()
    if pool.args.adv_clip is None:  # which bounds what a token that a teacher rules out would do
        wrong |= log_probs.isinf()
    wrong &= batch["completion_mask"].bool()
    if wrong.any():
        row, place = wrong.nonzero()[0].tolist()
        raise TeacherError(
            f"The teacher {pool.names[int(batch['domain_idx'][row])]!r} gives the log-probability {log_probs[row, place].item()} for token "
            f"{int(batch['completion_ids'][row, place])}, where a finite number must be. Weights that give NaN may need "
            "`teacher_dtype='float32'`; for a teacher that rules tokens out, set `adv_clip`."
        )


def _empty(pool: TeacherPool, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    shape, device = batch["completion_ids"].shape, batch["completion_ids"].device
    scores = {
        "teacher_per_token_logps": torch.zeros(shape, device=device),
        "teacher_is_top1": torch.full(shape, torch.nan, device=device),
    }
    if pool.args.kl_estimator in ("full", "topk"):
        weights = [teacher.head(device).weight for teacher in pool.teachers if isinstance(teacher, LocalTeacher)]
        width = max(weight.shape[1] for weight in weights)
        dtype = functools.reduce(torch.promote_types, [weight.dtype for weight in weights])
        scores["teacher_hidden_states"] = torch.zeros(*shape, width, device=device, dtype=dtype)
    elif pool.args.kl_estimator == "topk_teacher":
        width = pool.args.kl_top_k + 1
        scores["teacher_top_ids"] = torch.full((*shape, width), NO_TOKEN, device=device)
        scores["teacher_top_logps"] = torch.zeros(*shape, width, device=device)
    return scores


def _run(
    teacher: LocalTeacher,
    batch: Mapping[str, Tensor],
    rows: Tensor,
    scores: dict[str, Tensor],
    pool: TeacherPool,
    accelerator: Any,
) -> None:
    size = pool.args.teacher_batch_size or pool.args.per_device_train_batch_size
    chunks = list(rows.split(size)) if len(rows) else []
    passes = len(chunks)
    if pool.is_sharded:  # weights are gathered on all processes at once, so all take as many passes as the busiest
        passes = int(accelerator.gather(torch.tensor(passes, device=accelerator.device)).max())
    if not passes:
        return
    keep = batch["completion_ids"].shape[1]
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    wants_hidden = pool.args.kl_estimator != "sampled"
    with teacher.host.as_teacher(teacher.adapter, accelerator.device) as model:
        for index in range(passes):
            chunk = chunks[index] if index < len(chunks) else rows.new_zeros(1)
            with accelerator.autocast():
                found = teacher.host.score(model, ids[chunk], mask[chunk], keep, hidden=wants_hidden)
            if index >= len(chunks):
                continue
            scores["teacher_per_token_logps"][chunk] = found["log_probs"].float()
            scores["teacher_is_top1"][chunk] = found["is_top1"]
            if "teacher_hidden_states" in scores:
                states = found["hidden"].to(scores["teacher_hidden_states"].dtype)
                scores["teacher_hidden_states"][chunk, :, : states.shape[-1]] = states
            elif wants_hidden:
                _keep_top_tokens(teacher, found["hidden"], batch["completion_ids"][chunk], chunk, scores, pool)


def _keep_top_tokens(
    teacher: LocalTeacher, hidden: Tensor, tokens: Tensor, chunk: Tensor, scores: dict[str, Tensor], pool: TeacherPool
) -> None:
    head = teacher.head(hidden.device)
    ids, log_probs = top_tokens(hidden.flatten(0, 1), head, tokens.flatten(), pool.args.kl_top_k)
    width = ids.shape[-1]  # fewer where the vocabulary has fewer
    scores["teacher_top_ids"][chunk, :, :width] = without_repeats(ids).view(*tokens.shape, width)
    scores["teacher_top_logps"][chunk, :, :width] = log_probs.view(*tokens.shape, width)


def without_repeats(ids: Tensor) -> Tensor:
    """The last entry, the sampled token, does not count where it is among the others: `[..., K + 1]`."""
    repeated = (ids[..., :-1] == ids[..., -1:]).any(-1)
    return torch.cat([ids[..., :-1], ids[..., -1:].masked_fill(repeated.unsqueeze(-1), NO_TOKEN)], -1)


def _ask(
    teacher: RemoteTeacher,
    batch: Mapping[str, Tensor],
    rows: Tensor,
    scores: dict[str, Tensor],
    pool: TeacherPool,
) -> None:
    prompts = [batch["prompt_ids"][row][batch["prompt_mask"][row].bool()].tolist() for row in rows]
    completions = [batch["completion_ids"][row][batch["completion_mask"][row].bool()].tolist() for row in rows]
    wanted = pool.args.kl_top_k if "teacher_top_ids" in scores else 0
    sequences = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    if not sequences:
        return
    lengths = [len(prompt) for prompt in prompts]
    try:
        answers = teacher.client.score(sequences, lengths, pool.args.temperature, wanted)
    except TeacherError:
        raise
    except Exception as error:  # whatever a client of another make raises ends the training alike
        raise TeacherError(f"The teacher {teacher.description['source']!r} does not score: {error!r}.") from error
    size, source = pool.vocabulary.size, teacher.description["source"]
    if len(answers) != len(completions):
        raise TeacherError(
            f"The teacher {source!r} gives {len(answers)} answers for {len(completions)} completions: `score` must give one for each."
        )
    for row, completion, answer in zip(rows.tolist(), completions, answers, strict=True):
        given = [answer.logps, *((answer.top_ids, answer.top_logps) if wanted else ())]
        if any(len(part) != len(completion) for part in given):
            raise TeacherError(
                f"The teacher {source!r} gives {len(answer.logps)} log-probabilities and {len(answer.top_ids)} lists of likely tokens for "
                f"{len(completion)} tokens: `score` must give one of each for every token of a completion, the lists where `top_k` is not 0."
            )
        place = (row, slice(0, len(completion)))
        scores["teacher_per_token_logps"][place] = torch.tensor(answer.logps)
        if not wanted or not completion:
            continue
        ids = torch.full((len(completion), wanted + 1), NO_TOKEN)
        values = torch.zeros(len(completion), wanted + 1)
        for place_in_row, (top, top_values) in enumerate(zip(answer.top_ids, answer.top_logps, strict=True)):
            count = min(wanted, len(top))  # fewer where the vocabulary has fewer
            ids[place_in_row, :count] = torch.tensor(top[:count])
            values[place_in_row, :count] = torch.tensor(top_values[:count])
        ids[:, -1], values[:, -1] = torch.tensor(completion), torch.tensor(answer.logps)
        # A server's table may be padded beyond the student's.
        ids = without_repeats(ids).masked_fill(ids >= size, NO_TOKEN)
        scores["teacher_top_ids"][place] = ids.to(scores["teacher_top_ids"].device)
        scores["teacher_top_logps"][place] = values.to(scores["teacher_top_logps"].device)
