"""The package in which PersonalizationEditor lives; imported when it is used, so that nobody else needs it."""

import importlib


def personal_package():
    """The module easyedit_personal; ImportError says how to get it."""
    try:
        return importlib.import_module("easyedit_personal")
    except ImportError as error:
        raise ImportError(
            "PersonalizationEditor needs the package easyedit-personal: pip install easyedit-personal"
        ) from error
