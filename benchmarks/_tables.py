"""Tables in Markdown, and the whole of a result in them."""

MAX_ITEMS = 16  # of a list in a cell; of longer ones the ends are shown


def cell(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if is_table(value):
        return f"{len(value)} rows"
    if isinstance(value, list) and len(value) > MAX_ITEMS:
        return f"{cell(value[0])}, ... {cell(value[-1])} ({len(value)} in all)"
    if isinstance(value, list):
        return ", ".join(cell(item) for item in value)
    return "none" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def table(columns: list[str], rows: list[list]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def is_table(value) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(row, dict) for row in value)


def full(name: str, content: dict, level: int = 1) -> list[str]:
    """A heading, one table of the plain figures, then a part for each table and nested object."""
    parts = [f"{'#' * level} {name.replace('_', ' ')}"]
    plain = [
        [key.replace("_", " "), value]
        for key, value in content.items()
        if not isinstance(value, dict) and not is_table(value)
    ]
    if plain:
        parts.append(table(["what", "value"], plain))
    for key, value in content.items():
        if is_table(value):
            columns = list(dict.fromkeys(column for row in value for column in row))
            parts += [
                f"{'#' * (level + 1)} {key.replace('_', ' ')}",
                table([c.replace("_", " ") for c in columns], [[row.get(c) for c in columns] for row in value]),
            ]
        elif isinstance(value, dict):
            parts += full(key, value, min(level + 1, 6))
    return parts
