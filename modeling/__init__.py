"""The MiMo models, one folder each with transformers' file names; `mtp.py` is what their MTP heads share."""

if __name__ != "mimo_hf.modeling":
    raise ImportError(f"{__name__} is called mimo_hf.modeling: under two names there would be two of each class.")
