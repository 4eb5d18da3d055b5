"""The SQL of the store, read from named blocks in `sql/*.sql`; Python never puts SQL together.

A block begins with two comment lines, its name and what it does::

    -- name: put_brand
    -- Write a brand; the feed's number and the new version.
    insert into brands ...
"""

import re
from importlib.resources import files
from typing import Final

_BLOCK: Final = re.compile(r"^-- name: (\w+)\n-- (.+)\n", re.MULTILINE)


def load_queries() -> dict[str, str]:
    """Every named block of the package's `sql` folder: name -> SQL.

    Raises:
        ValueError: two blocks have the same name, or something stands before the first block.
    """
    queries: dict[str, str] = {}
    for file in sorted((files("engine.store") / "sql").iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".sql"):
            continue
        before, *parts = _BLOCK.split(file.read_text("utf-8"))
        if before.strip():
            raise ValueError(f"{file.name}: text before the first '-- name:' line")
        for name, sql in zip(parts[0::3], parts[2::3], strict=True):
            if name in queries:
                raise ValueError(f"{file.name}: a second query is named {name}")
            queries[name] = sql.strip()
    return queries
