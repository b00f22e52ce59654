"""Packaging: what is installed, what is carried along, and which extras exist."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "easyedit_personal/__init__.py").read_text()).group(1)

EXTRAS = {
    # What EasyEdit's *text* editors import; its video, vision and OCR packages are not needed.
    "easyedit": ["higher", "omegaconf", "pandas", "datasets", "sentence-transformers", "nltk", "hydra-core"],
    "llm": ["openai>=2.8.1,<4"],
    "sentences": ["sentence-transformers>=5"],
    "report": ["matplotlib>=3.9"],
    "postgres": ["psycopg[binary]>=3.2,<4"],
    "ray": ["ray>=2.60,<3"],
    "parquet": ["pyarrow>=20"],
    "metrics": ["prometheus-client>=0.20"],
    "serve": ["fastapi>=0.115,<1", "uvicorn>=0.34,<1", "prometheus-client>=0.20"],
    "capability": ["lm_eval>=0.4.13,<0.5"],
    "test": [
        *("pytest>=9.0.2", "hypothesis", "ruff", "mypy", "types-PyYAML", "build", "setuptools>=77", "wheel"),
        *("openai>=2.8.1,<4", "matplotlib>=3.9", "psycopg[binary]>=3.2,<4", "pyarrow>=20", "prometheus-client>=0.20"),
        *("fastapi>=0.115,<1", "uvicorn>=0.34,<1", "prometheus-client>=0.20"),
    ],
}

RECIPES = {
    "easyedit_personal._hparams": "hparams",
    "easyedit_personal._hparams.PersonalizationEditor": "hparams/PersonalizationEditor",
}
DATA = ["py.typed", *(f"**/*.{kind}" for kind in ("yaml", "json", "safetensors", "jinja", "md", "png", "txt"))]

setup(
    name="easyedit-personal",
    version=VERSION,
    description="Personalise a language model by editing it: every user's copy is a file of a few kilobytes.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # The YAML files stand at the top level, where EasyEdit's users look for them, and travel inside the package.
    packages=[*find_packages(include=["easyedit_personal", "easyedit_personal.*"]), *RECIPES],
    package_dir=RECIPES,
    package_data={"": ["*.yaml"], "easyedit_personal": DATA},
    install_requires=[
        "torch>=2.9,<3",
        "transformers>=5.5.4,<6",
        "tokenizers>=0.22.1,<0.24",
        "safetensors>=0.8,<1",
        "numpy>=2.2.6,<3",
        "scikit-learn>=1.7.2,<2",
        "scipy>=1.15,<2",
        "sqlalchemy>=2.0,<3",
        "PyYAML>=6.0,<7",
        "pydantic>=2.12,<3",
        "peft>=0.18,<0.22",
        "typer>=0.25,<1",
        "rich>=15,<16",
        "platformdirs>=4",
        "filelock>=3",
        "gguf>=0.17,<1",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["easyedit-personal=easyedit_personal.cli.main:main"]},
)
