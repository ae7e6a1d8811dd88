"""Measure every goal that has a benchmark here: one table on stdout, and bench.json.

Each `bench_*.py` has a function `bench()` that returns rows of `goal`, `target`, `measured` (a
ratio within one run) and `ok` (None where this machine cannot judge it).
"""

import importlib.util
import json
import platform
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def rows_of(path: Path) -> list[dict[str, Any]]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows: list[dict[str, Any]] = module.bench()
    return [{"bench": path.stem.removeprefix("bench_"), **row} for row in rows]


def main() -> None:
    wanted = set(sys.argv[1:])
    rows: list[dict[str, Any]] = []
    for path in sorted(HERE.glob("bench_*.py")):
        if not wanted or path.stem.removeprefix("bench_") in wanted:
            sys.stderr.write(f"measuring {path.stem}\n")
            rows += rows_of(path)
    width = max(len(row["goal"]) for row in rows)
    verdict = {True: "met", False: "NOT met", None: "not judged here"}
    for row in rows:
        measured = "-" if row["measured"] is None else f"{row['measured']:.3g}"
        line = f"{row['goal']:<{width}}  {row['target']:>12}  {measured:>10}"
        sys.stdout.write(f"{line}  {verdict[row['ok']]}\n")
    result = {"machine": platform.platform(), "python": platform.python_version(), "rows": rows}
    Path("bench.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
