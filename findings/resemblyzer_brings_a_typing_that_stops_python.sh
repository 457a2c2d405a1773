#!/usr/bin/env bash
# resemblyzer 0.1.4 (speaker embeddings): installed into a folder for PYTHONPATH, it stops Python 3.11 from starting.
#
# Guess: `pip install --target FOLDER resemblyzer` and `PYTHONPATH=FOLDER python`, the usual way to lend packages to a machine whose
#        environment one may not change, give an interpreter with one package more.
# Seen:  its metadata ask for `typing` on every Python. The package of that name, typing 3.7.4.3, is a backport for Python 3.4 and holds a
#        typing.py; a folder on PYTHONPATH comes before the standard library, so that module is taken for the library's own, and `import typing`
#        raises AttributeError in anything that Python runs. In a virtual environment nothing shows, since site-packages come after the
#        library. Removing typing.py from the folder is enough.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
python="$folder/venv/bin/python"
"$folder/venv/bin/pip" install --quiet --no-deps --target "$folder/lent" resemblyzer==0.1.4
grep -Eq '^Requires-Dist: typing[[:space:]]*$' "$folder"/lent/?esemblyzer-0.1.4.dist-info/METADATA
# What pip installs for that line; the other requirements have no part in this.
"$folder/venv/bin/pip" install --quiet --no-deps --target "$folder/lent" typing==3.7.4.3
seen=$(PYTHONPATH="$folder/lent" "$python" -c 'import typing' 2>&1 || true)
echo "$("$python" --version), resemblyzer 0.1.4 on PYTHONPATH: $(tail -n 1 <<<"$seen")"
grep -q "AttributeError: .*_abc_registry" <<<"$seen"
rm "$folder/lent/typing.py"
PYTHONPATH="$folder/lent" "$python" -c 'import typing'
