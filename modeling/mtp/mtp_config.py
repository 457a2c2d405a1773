"""The configuration fields that all models with MTP heads share."""

from transformers import PreTrainedConfig

HIDDEN_SOURCES = ("pre_norm", "post_norm")
TRAIN_MODES = ("joint", "heads", "trunk")


def check_mtp_fields(config: PreTrainedConfig, number_field: str):
    """
    Args:
        number_field: the field that holds K, the number of heads.

    Raises:
        ValueError: a field has a value that no head can have.
    """
    number = getattr(config, number_field)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f"`{number_field}` must be 0 or a positive integer; got {number!r}.")
    if config.mtp_hidden_source not in HIDDEN_SOURCES:
        raise ValueError(f"`mtp_hidden_source` must be one of {HIDDEN_SOURCES}; got {config.mtp_hidden_source!r}.")
    if config.mtp_train_mode not in TRAIN_MODES:
        raise ValueError(f"`mtp_train_mode` must be one of {TRAIN_MODES}; got {config.mtp_train_mode!r}.")
    if config.mtp_loss_weight < 0:
        raise ValueError(f"`mtp_loss_weight` must not be negative; got {config.mtp_loss_weight}.")
