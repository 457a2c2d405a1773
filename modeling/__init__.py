"""The MiMo models, one folder each with transformers' file names; `mtp.py` is what their MTP heads share."""
