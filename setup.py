"""What pyproject.toml cannot say: the YAML files stand at the top level and travel inside the package."""

from setuptools import find_packages, setup

# At the top level is where EasyEdit's users look for them.
RECIPES = {
    "easyedit_personal._hparams": "hparams",
    "easyedit_personal._hparams.PersonalizationEditor": "hparams/PersonalizationEditor",
}
DATA = ["py.typed", *(f"**/*.{kind}" for kind in ("yaml", "json", "md", "html"))]

setup(
    packages=[*find_packages(include=["easyedit_personal", "easyedit_personal.*"]), *RECIPES],
    package_dir=RECIPES,
    package_data={"": ["*.yaml"], "easyedit_personal": DATA},
)
