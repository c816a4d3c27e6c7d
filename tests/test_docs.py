"""The pages hold what they say: examples run, links lead somewhere, the picture is up to date."""

import doctest
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
if not DOCS.is_dir():
    pytest.skip("docs/ is not beside tests/: not a source tree", allow_module_level=True)

PAGES = sorted(DOCS.rglob("*.md"))
WITH_EXAMPLES = [page for page in PAGES if ">>> " in page.read_text("utf-8")]
WITH_LINKS = [page for page in (ROOT / "README.md", *PAGES) if page.exists()]

# What is shown as it is: code blocks, code, formulas.
VERBATIM = re.compile(r"^```.*?^```|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$", re.MULTILINE | re.DOTALL)
LINKS = (
    re.compile(r"\]\(\s*<?([^)\s>]+)"),  # [text](target), ![text](target "title")
    re.compile(r"^\s*\[[^\]]+\]:\s*<?([^\s>]+)", re.MULTILINE),  # [name]: target
    re.compile(r"\b(?:href|src|srcset)\s*=\s*[\"']([^\"']+)"),
)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|#", re.IGNORECASE)


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def relative_links(text):
    shown = VERBATIM.sub("", text)
    targets = [target for pattern in LINKS for target in pattern.findall(shown)]
    return [target.split("#")[0] for target in targets if not ELSEWHERE.match(target)]


def test_relative_links_finds_every_kind_and_no_other():
    text = """[a](a.md) ![b](b.svg "title") [c](<c.md>) [d](d.md#part) <img src="e.svg">
[f]: f.md
[web](https://example.org/x) [mail](mailto:x@example.org) [here](#part) `[code](no.md)` $x[i](y)$
```text
[block](no.md)
```
"""
    assert sorted(relative_links(text)) == ["a.md", "b.svg", "c.md", "d.md", "e.svg", "f.md"]


# What the pages of frameworks import.
FRAMEWORKS = {
    "torch": ("torch",),
    "jax": ("jax",),
    "boosting": ("xgboost", "lightgbm", "catboost"),
    "scikit-learn": ("sklearn", "scipy"),
    "sklearn": ("sklearn", "scipy"),
    "numba": ("numba",),
    "arrays": ("torch", "jax", "array_api_strict"),
    "tensorflow": ("tensorflow",),
    "keras": ("keras", "tensorflow"),
    "linear": ("torch", "jax"),
    "scaling": ("torch", "jax", "dask", "mpi4py"),
}


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
def test_examples(page):
    for framework in FRAMEWORKS.get(page.stem, ()):
        pytest.importorskip(framework, reason=f"{framework} is not installed: the page needs it")
    flags = doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(str(page), module_relative=False, optionflags=flags, encoding="utf-8")
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("page", WITH_LINKS, ids=name_of)
def test_links(page):
    targets = relative_links(page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_picture(tmp_path):
    matplotlib = pytest.importorskip("matplotlib", reason="Matplotlib draws the picture")
    script = DOCS / "pictures" / "traffic.py"
    expected = script.with_suffix(".svg").read_bytes()
    version = re.search(rb"Matplotlib v([^,]+),", expected).group(1).decode()
    if matplotlib.__version__ != version:
        pytest.skip(f"drawn with Matplotlib {version}, here is {matplotlib.__version__}")
    # the script writes beside itself
    subprocess.run([sys.executable, shutil.copy(script, tmp_path)], check=True, cwd=tmp_path)
    assert (tmp_path / "traffic.svg").read_bytes() == expected
