"""The evaluators, one small module each; ``easyedit_personal.registry.EVALUATORS`` finds them by name."""
