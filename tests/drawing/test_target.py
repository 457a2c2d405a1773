"""What is said before anything is computed, and what importing costs."""

import subprocess
import sys

import pytest

from mimo_hf import drawing


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.svgz"])
def test_a_suffix_that_names_no_form_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"`plot` must end in \.png or \.svg or \.pdf; got 'a"):
        drawing.check_target(tmp_path / name, "plot")
    picture = drawing.line_chart([0], {"a": [1.0]}, title="t", x_label="x", y_label="y")
    with pytest.raises(ValueError, match="`path` must end in"):
        drawing.save(picture, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_the_suffix_may_be_written_large(tmp_path):
    assert drawing.check_target(str(tmp_path / "A.SVG")) == tmp_path / "A.SVG"


@pytest.mark.parametrize("use", ["drawing.check_target('a.png')", "drawing.line_chart", "drawing.save", "drawing.Bar"])
def test_without_matplotlib_its_extra_is_named(use):
    code = f"import sys; sys.modules['matplotlib'] = None\nfrom mimo_hf import drawing\n{use}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith('ImportError: drawing needs matplotlib: pip install "mimo-hf[plot]"')


@pytest.mark.parametrize(
    "arguments", [("oam", "simulate", "--plot", "a.svg"), ("schedule", "report", "setup.cfg", "--out", "a.html")]
)
def test_a_command_says_so_before_it_computes_anything(arguments, tmp_path):
    (tmp_path / "setup.cfg").write_text("")
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['torch'] = None\n"
        f"from mimo_hf.cli import main; sys.exit(main({list(arguments)}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().endswith('error: drawing needs matplotlib: pip install "mimo-hf[plot]"')


def test_drawing_imports_neither_pyplot_nor_torch():
    code = (
        "import sys; from mimo_hf import drawing; assert 'matplotlib' not in sys.modules\n"
        "drawing.svg_text(drawing.line_chart([0], {'a': [1.0]}, title='t', x_label='x', y_label='y'))\n"
        "assert not {'matplotlib.pyplot', 'torch', 'tkinter'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
