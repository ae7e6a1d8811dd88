"""The house rules: what the wheel holds, which way imports run, how light the help is."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

FLOORS = [
    *("contract", "schema", "files", "work", "page", "options"),
    *("prep", "shards", "train", "eval"),
]
TOP = {"cli", "demo", "__main__", "__init__"}  # the floor above all; __init__ imports nothing
HEAVY = ["torch", "spacy", "transformers", "cv2", "dask", "distributed", "pyarrow", "pydicom"]
STAGES = ["prep", "shards", "train", "eval"]


def sources(repository: Path) -> list[Path]:
    inside = [path for stage in STAGES for path in (repository / stage).rglob("*.py")]
    return sorted([*repository.glob("*.py"), *inside])


def floor_of(module: str) -> int:
    return len(FLOORS) if module in TOP else FLOORS.index(module)


def imported_floors(path: Path, repository: Path) -> list[str]:
    """Names of the root modules or stages that a file imports, wherever in the file."""
    package = path.relative_to(repository).with_suffix("").parts[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = [*base, *(node.module or "").split(".")]
            names = [target[0]] if target[0] else [alias.name for alias in node.names]
            found += [name for name in names if name in FLOORS or name in TOP]
    return found


def test_imports_only_run_down(repository: Path) -> None:
    wrong = []
    for path in sources(repository):
        here = path.relative_to(repository).parts[0].removesuffix(".py")
        for name in imported_floors(path, repository):
            if floor_of(name) > floor_of(here):
                wrong.append(f"{path.relative_to(repository)} imports {name}")
    assert not wrong


def test_code_imports_relatively_and_tests_absolutely(repository: Path) -> None:
    pattern = re.compile(r"^\s*(from|import) imitate\b", re.M)
    assert [p.name for p in sources(repository) if pattern.search(p.read_text())] == []
    relative = re.compile(r"^\s*from \.", re.M)
    tests = (repository / "tests").rglob("*.py")
    assert [p.name for p in tests if relative.search(p.read_text())] == []


def test_root_init_has_no_imports(repository: Path) -> None:
    # pytest imports it once more under the checkout's folder name
    tree = ast.parse((repository / "__init__.py").read_text())
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]


def test_package_list_names_every_folder(repository: Path) -> None:
    settings = tomllib.loads((repository / "pyproject.toml").read_text())
    listed = set(settings["tool"]["setuptools"]["packages"])
    folders = {
        ".".join(["imitate", *path.parent.relative_to(repository).parts])
        for path in sources(repository)
        if path.name == "__init__.py"
    }
    assert listed == folders


def test_wheel_holds_the_package_and_nothing_else(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "imitate"
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listing.stdout.splitlines():
        if (repository / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, copy / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(copy)], check=True)
    wheel = next(tmp_path.glob("imitate_cxr-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        inside = {n for n in archive.namelist() if ".dist-info/" not in n}
    code = {f"imitate/{path.relative_to(repository)}" for path in sources(repository)}
    data = {
        f"imitate/{path.relative_to(repository)}"
        for stage in STAGES
        for path in (repository / stage).rglob("*.yaml")
    }
    assert inside == code | data | {"imitate/py.typed", "imitate/page.html"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["prep", "--help"], ["train", "--help"], ["eval", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['imitate', *{arguments!r}]\n"
        "from imitate.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_torchvision_is_neither_required_nor_imported(repository: Path) -> None:
    settings = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = settings["optional-dependencies"].values()
    wanted = [*settings["dependencies"], *(name for extra in extras for name in extra)]
    wanted += (repository / "constraints.txt").read_text().splitlines()
    names = {re.split(r"[\[<>=~! ]", line)[0].lower() for line in wanted}
    assert not names & {"torchvision", "timm", "medspacy", "litdata", "albumentations"}
    pattern = re.compile(r"^\s*(from|import) (torchvision|timm|pickle)\b", re.M)
    assert [p.name for p in sources(repository) if pattern.search(p.read_text())] == []


def lines_of(node: ast.FunctionDef, *, signature: bool) -> int:
    """Lines of a function without its docstring, and without its signature if not asked for."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    inside = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
    return inside + (node.body[0].lineno - node.lineno if signature else 0)


def test_functions_have_at_most_forty_lines(repository: Path) -> None:
    long = []
    for path in sources(repository):
        # the signature of a command is the list of its options
        signature = path.name not in ("commands.py", "demo.py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and lines_of(node, signature=signature) > 40:
                long.append(f"{path.name}:{node.lineno} {node.name}")
    assert not long


def test_modules_say_what_they_are_and_stay_short(repository: Path) -> None:
    for path in sources(repository):
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), path
        longest = 320
        assert text.count("\n") <= longest, path


def test_no_path_of_a_machine_is_in_the_repository(repository: Path) -> None:
    listing = subprocess.run(
        ["git", "grep", "-nIE", r"/(work|home|root)/[a-z]", "--", ".", ":!tests/test_house.py"],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert listing.stdout == ""
