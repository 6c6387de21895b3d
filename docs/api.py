"""Builds the API pages with pdoc: python docs/api.py [FOLDER], docs/api unless given.

pip install '.[docs]'
"""

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import apollo_plugin

if __name__ == "__main__":
    # The package imports its public names when they are asked for; pdoc does not ask.
    for name in apollo_plugin.__all__:
        setattr(apollo_plugin, name, getattr(apollo_plugin, name))
    pdoc.render.configure(docformat="google")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/api")
    # All by name: of a package with __all__ pdoc shows only what stands there, of others all.
    warnings.filterwarnings("ignore", "The module specification")
    modules = [
        name for _, name, _ in pkgutil.walk_packages(apollo_plugin.__path__, "apollo_plugin.")
    ]
    modules = [name for name in modules if not name.endswith("__main__")]
    pdoc.pdoc("apollo_plugin", *modules, output_directory=folder)
    print(folder / "index.html")
