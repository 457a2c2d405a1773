"""
Figures of a result, named by where they stand in its JSON: `{text.batches[batch=4].ratio:.2f} times as fast`.

| a path holds | which takes |
|---|---|
| `text.batches` | a value by its keys |
| `[batch=4]` | the rows in which it holds; one must be left where a key follows; can be repeated |
| `[0]`, `[-1]` | one item of a list |
| `['kronecker_0.9']` | a key with dots or brackets in it |
| `[*]` | every item: what follows is taken of each |
| `|max`, `|min`, `|all`, `|count` | one value of a list, at the end |

Behind the colon stands how Python's `format` shows it, or `.2GB` for bytes, or `yes|no` for true and false. A list is shown item by
item; one whose key ends in `range` as `least to largest`.
"""

import re
import string

STEP = re.compile(r"\[('[^']*'|[^\]]*)\]|([^.\[\]]+)")
SUMMARIES = {"max": max, "min": min, "all": all, "count": len}
BYTES = {"kB": 1e3, "MB": 1e6, "GB": 1e9}


class FigureError(ValueError):
    """A text names a figure that its result does not hold, or does not say how to show it."""


def at(content, path: str):
    """The value at `path`. Raises FigureError naming the step that leads nowhere."""
    steps, _, summary = path.partition("|")
    value, each, here = content, False, path
    try:
        for inside, key in STEP.findall(steps):
            here = inside or key
            if inside.startswith("'"):
                inside, key = "", inside.strip("'")
            if inside == "*":
                each = True
            elif "=" in inside:
                column, wanted = inside.split("=", 1)
                value = [row for row in value if wanted in _names(row[column])]
            elif inside:
                value = [item[int(inside)] for item in value] if each else value[int(inside)]
            elif each:
                value = [item[key] for item in value]
            else:
                value = (value if isinstance(value, dict) else _only(value))[key]
        here = summary
        return SUMMARIES[summary](value) if summary else value
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise FigureError(f"{path!r} leads nowhere at {here!r} ({type(error).__name__}: {error})") from None


def _names(value) -> tuple[str, ...]:
    """What a path may call a value: 16.0 is 16, too."""
    return (str(value), f"{value:g}") if isinstance(value, float) else (str(value),)


def _only(rows: list) -> dict:
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows are left where one is wanted")
    return rows[0]


def show(value, spec: str) -> str:
    """`value` as the format behind a path's colon says."""
    if isinstance(value, list):
        return ", ".join(show(item, spec) for item in value)
    if isinstance(value, bool) and spec.count("|") == 1:
        return spec.split("|")[not value]
    if isinstance(value, bool | float) and not spec:
        raise FigureError(f"{value!r} needs a format, such as :.2f, or :yes|no for true and false")
    if spec[-2:] in BYTES:
        return f"{value / BYTES[spec[-2:]]:{spec[:-2]}f} {spec[-2:]}"
    shown = format(value, spec)
    return f"{shown[:-1]} %" if spec.endswith("%") else shown


class _Figures(string.Formatter):
    def __init__(self, content: dict):
        self.content = content

    def get_field(self, field_name, args, kwargs):
        value = at(self.content, field_name)
        if field_name.endswith("range"):
            value = _Range(value)
        return value, field_name

    def format_field(self, value, format_spec):
        return (" to " if isinstance(value, _Range) else ", ").join(
            show(item, format_spec) for item in (value if isinstance(value, list) else [value])
        )


class _Range(list):
    """The least and the largest value."""


def fill(text: str, content: dict) -> str:
    """`text` with the figures of `content` in the place of its paths. Raises FigureError."""
    return _Figures(content).vformat(text, (), {})
