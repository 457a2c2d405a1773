"""
A MiMo checkpoint continues a text plainly and with its MTP heads: both as they come, then the two side by side.

In reading order: `command` has the options, `run` is the whole story, `prompt` the text, `checkpoint` the model, `comparison` decoding and
measuring, `terminal` what is shown meanwhile.
"""
