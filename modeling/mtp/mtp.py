"""Multi-token prediction (MTP) shared by the MiMo models: training losses, and self-speculative decoding.

Head k (k = 0..K-1) reads the trunk state h_i and the embedding of token t_{i+1+k} and predicts t_{i+2+k}. Heads are not
chained: all of them read the same h_i (arXiv 2601.02780, section 2.3.2). Each head keeps its own key-value cache whose
entries are called rows; row i belongs to the trunk state h_i.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import pad
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.utils import logging

from .mtp_config import TRAIN_MODES
from .mtp_generation import MTPCandidateGenerator, MTPGenerationMixin
from .mtp_statistics import MTPStatistics
from .mtp_trunk import MTPTrunkMixin

logger = logging.get_logger(__name__)

IGNORE_INDEX = -100


class MTPMixin(MTPGenerationMixin):
    """
    Losses, logits and decoding of a causal language model with MTP heads.

    The model provides `mtp_heads` (a `ModuleList` of modules called with the signature used below), `mtp_window`,
    `mtp_cache()`, `mtp_position_embeddings(hidden, position_ids)`, `mtp_mask(...)`, `set_num_mtp_heads(K)`, and outputs
    with `mtp_hidden_states` when called with `output_mtp_hidden_states=True`.
    """

    mtp_prefix: str  # of the names of the heads' tensors
    _untouched_mtp_tensors: dict[str, int] = {}  # no values in the checkpoint: name -> version when it was loaded

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """
        As in transformers; MTP tensors that are missing or superfluous are named in a warning. What was FP8 and is
        dequantised here has the model's dtype and is saved in it.
        """
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        _settle_dequantised(model)
        missing = sorted(key for key in info["missing_keys"] if key.startswith(cls.mtp_prefix))
        extra = sorted(key for key in info["unexpected_keys"] if key.startswith(cls.mtp_prefix))
        number = f"num_mtp_layers={model.config.num_mtp_layers}"
        if missing:
            parameters = dict(model.named_parameters())
            model._untouched_mtp_tensors = {key: parameters[key]._version for key in missing if key in parameters}
            logger.warning(
                f"{pretrained_model_name_or_path} has no values for {len(missing)} MTP tensors, which start out untrained: "
                f"{', '.join(missing)}. Train the heads before `use_mtp=True`, or load with `num_mtp_layers` as in the "
                "checkpoint."
            )
        if extra:
            logger.warning(
                f"{pretrained_model_name_or_path} has {len(extra)} MTP tensors that this model ({number}) has no place "
                f"for: {', '.join(extra)}. Load with a larger `num_mtp_layers` to use them."
            )
        return (model, info) if output_loading_info else model

    def mtp_logits(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """
        The heads' predictions for a known text (teacher forcing).

        Args:
            input_ids: `[batch, length]`.
            attention_mask: `[batch, length]`, 1 for tokens and 0 for padding.

        Returns:
            K tensors `[batch, max(length - 1 - k, 0), vocab]`: row i of the k-th is the distribution of token i + 2 + k.
        """
        self._require_heads("mtp_logits")
        outputs = self(input_ids, attention_mask=attention_mask, output_mtp_hidden_states=True, use_cache=False)
        return self._mtp_logits(input_ids, outputs.mtp_hidden_states, attention_mask)

    def _mtp_logits(
        self,
        input_ids: torch.LongTensor,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None = None,
        trunk_is_constant: bool = False,
    ) -> list[torch.Tensor]:
        embeddings = self.get_input_embeddings()(input_ids)
        lm_head: Callable = self.get_output_embeddings()
        if trunk_is_constant:
            embeddings, hidden_states = embeddings.detach(), hidden_states.detach()
            lm_head = _without_gradients(lm_head)
        known_positions = position_ids
        if position_ids is None:
            position_ids = _positions(input_ids, attention_mask)

        logits = []
        for k, head in enumerate(self.mtp_heads):
            num_rows = input_ids.shape[1] - 1 - k
            if num_rows <= 0:
                logits.append(hidden_states.new_zeros(input_ids.shape[0], 0, self.config.vocab_size))
                continue
            rows = hidden_states[:, :num_rows]
            positions = position_ids[:, :num_rows]
            mask_of_rows = _first_rows(attention_mask, num_rows)
            packed_positions = None if known_positions is None else known_positions[:, :num_rows]
            states = head(
                embeddings[:, 1 + k :],
                rows,
                attention_mask=self.mtp_mask(rows, mask_of_rows, packed_positions, None, layer_idx=k),
                position_ids=positions,
                position_embeddings=self.mtp_position_embeddings(rows, positions),
            )
            logits.append(lm_head(states))
        return logits

    def trains_mtp(self, input_ids: torch.Tensor | None, labels: torch.Tensor | None) -> bool:
        """Whether a forward pass with these `labels` has the MTP loss in it."""
        config = self.config
        wanted = len(self.mtp_heads) > 0 and config.mtp_loss_weight > 0 and config.mtp_train_mode != "trunk"
        if labels is not None and not wanted and config.mtp_train_mode == "heads" and self.training:
            raise ValueError(
                f"`mtp_train_mode` must not be 'heads' if there are none to train; got num_mtp_layers={len(self.mtp_heads)}, "
                f"mtp_loss_weight={config.mtp_loss_weight}. Use mtp_train_mode='trunk' or 'joint', or a weight above 0."
            )
        if labels is None or not wanted:
            return False
        if input_ids is None:
            raise ValueError(
                "`input_ids` must be given for the MTP loss, since the heads read the tokens that follow; got "
                "`inputs_embeds`. Set `config.mtp_loss_weight = 0` to train the trunk alone."
            )
        if config.mtp_train_mode == "heads" and self.training:
            logger.warning_once("mtp_train_mode='heads': only the MTP heads are trained, the trunk stays as it is.")
        return True

    def trunk_gradients(self, trains_mtp: bool) -> AbstractContextManager:
        """What the trunk runs in: without gradients where only the heads are trained."""
        return torch.no_grad() if trains_mtp and self.config.mtp_train_mode == "heads" else nullcontext()

    def mtp_loss(
        self,
        input_ids: torch.LongTensor,
        labels: torch.LongTensor,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        shift_labels: torch.LongTensor | None = None,
    ) -> torch.Tensor:
        """
        Mean over the heads of the cross-entropy of t_{i+2+k} (arXiv 2601.02780, section 2.3.2).

        Rows whose tokens i..i+2+k touch padding or two packed documents, and labels of -100, are left out. As in the
        trunk's loss, `shift_labels` take the place of `labels`: entry i is t_{i+1}, also where that is not in `input_ids`.
        """
        trunk_is_constant = self.config.mtp_train_mode == "heads"
        if shift_labels is None:
            shift_labels = pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:]
        segments = _segments(input_ids, attention_mask, position_ids)
        segments = torch.cat([segments, segments[:, -1:]], dim=1)  # the token behind the last one is of its document
        losses = []
        all_logits = self._mtp_logits(input_ids, hidden_states, attention_mask, position_ids, trunk_is_constant)
        for k, logits in enumerate(all_logits):
            num_rows = logits.shape[1]
            inside = (segments[:, 2 + k :] == segments[:, :num_rows]) & (segments[:, 2 + k :] >= 0)
            targets = shift_labels[:, 1 + k :].to(inside.device).masked_fill(~inside, IGNORE_INDEX)
            if num_items_in_batch is None:
                count = (targets != IGNORE_INDEX).sum().clamp(min=1)
            else:
                count = num_items_in_batch
            losses.append(
                self.loss_function(
                    logits=logits,
                    labels=None,
                    vocab_size=self.config.vocab_size,
                    shift_labels=targets,
                    num_items_in_batch=count,
                )
            )
        return torch.stack(losses).mean()

    def replicate_mtp_heads(self, num_heads: int, train_mode: str = "heads"):
        """
        Makes `num_heads` heads that all equal head 0, the start of post-training (arXiv 2601.02780, section 2.3.2).

        Args:
            num_heads: K, at least 1. Trained heads beyond head 0 are discarded.
            train_mode: the `mtp_train_mode` from here on; `"heads"` keeps the trunk as it is.
        """
        self._require_heads("replicate_mtp_heads")
        if train_mode not in TRAIN_MODES:
            raise ValueError(f"`train_mode` must be one of {TRAIN_MODES}; got {train_mode!r}.")
        if isinstance(num_heads, bool) or not isinstance(num_heads, int) or num_heads < 1:
            raise ValueError(f"`num_heads` must be a positive integer; got {num_heads!r}.")
        first = self.mtp_heads[0]
        state = {name: tensor.detach().clone() for name, tensor in first.state_dict().items()}
        reference = next(first.parameters())
        self.set_num_mtp_heads(num_heads)
        for head in self.mtp_heads:
            head.to(device=reference.device, dtype=reference.dtype)
            head.load_state_dict(state)
            head.train(self.training)
        self.config.mtp_train_mode = train_mode

    def freeze_mtp_heads(self, heads: Iterable[int] | None = None):
        """
        Leaves heads as they are.

        Args:
            heads: their numbers; head 0 stays while copies of it are trained (arXiv 2505.07608, section 2.2). None: all, and
                `mtp_train_mode` becomes `"trunk"`, which leaves the MTP loss out, as in reinforcement learning.
        """
        self._require_heads("freeze_mtp_heads")
        chosen = range(len(self.mtp_heads)) if heads is None else list(heads)
        wrong = [k for k in chosen if not 0 <= k < len(self.mtp_heads)]
        if wrong:
            raise ValueError(f"`heads` must lie between 0 and {len(self.mtp_heads) - 1}; got {wrong}.")
        for k in chosen:
            self.mtp_heads[k].requires_grad_(False)
        if heads is None:
            self.config.mtp_train_mode = "trunk"

    def on_drafts_rejected(self, counts: list[int]):
        """Called after each verification with the number of tokens that the trunk saw in vain, for each row."""

    def on_rows_finished(self, kept: list[int]):
        """Called when rows leave the batch, with the places of those that stay."""

    def _require_heads(self, what: str):
        if len(self.mtp_heads) == 0:
            raise ValueError(
                f"`{what}` must go with MTP heads; this model has none (`num_mtp_layers=0`). If the checkpoint has tensors "
                f"`{self.mtp_prefix}*`, load it with `from_pretrained(..., num_mtp_layers=K)`. Otherwise build the model with "
                "`num_mtp_layers=1`, train it, then `replicate_mtp_heads(K)` and train the heads."
            )

    def _require_trained_heads(self, what: str):
        self._require_heads(what)
        untouched = self._untouched_mtp_tensors
        names = [n for n, p in self.named_parameters() if n in untouched and p._version == untouched[n]]
        if names:
            raise ValueError(
                f"`{what}` must go with trained MTP heads; the checkpoint had no values for {', '.join(names)}, and nothing "
                "has trained them since. Train the heads, or load a checkpoint that has them."
            )


def _settle_dequantised(model: nn.Module):
    """One dtype, and the way back to official names: transformers leaves bf16 beside float32, and can't save the model."""
    conversions = getattr(model, "_weight_conversions", None) or []
    if any(isinstance(op, Fp8Dequantize) for entry in conversions for op in getattr(entry, "operations", ())):
        model._weight_conversions = None  # saving takes those of the model type
        for parameter in model.parameters():
            parameter.data = parameter.data.to(model.config.dtype)


def _without_gradients(module: nn.Module) -> Callable:
    constants = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return lambda states: functional_call(module, constants, (states,))


def _first_rows(attention_mask, num_rows: int):
    """A mask of the whole text cut to its first rows: 2-D `[batch, length]` or 4-D `[batch, heads, query, key]`."""
    if attention_mask is None or attention_mask.dim() == 2:
        return None if attention_mask is None else attention_mask[:, :num_rows]
    return attention_mask[:, :, :num_rows, :num_rows]


def _positions(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Places in the text, `[batch or 1, length]`; those of a left-padded text begin behind the padding."""
    if attention_mask is None or attention_mask.dim() != 2:
        return torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def _segments(input_ids, attention_mask, position_ids) -> torch.Tensor:
    """Number of the document of each token, `[batch, length]`; -1 for padding. Positions restart with a document."""
    segments = torch.zeros_like(input_ids)
    if position_ids is not None:
        restarts = position_ids[:, 1:] != position_ids[:, :-1] + 1
        segments[:, 1:] = restarts.long().cumsum(dim=1)
    if attention_mask is not None and attention_mask.dim() == 2:
        segments = segments.masked_fill(attention_mask == 0, -1)
    return segments


__all__ = ["MTPCandidateGenerator", "MTPMixin", "MTPStatistics", "MTPTrunkMixin"]
