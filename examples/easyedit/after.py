"""The same script with PersonalizationEditor: three lines changed."""

# ruff: noqa: E402 - the order of these lines is the point
import sys

from easyedit_personal import PersonalizationHyperParams, register

register()
from easyeditor import BaseEditor

hparams = PersonalizationHyperParams.from_hparams("llama3-8b")
hparams.model_name, hparams.device = sys.argv[1], "cpu"
editor = BaseEditor.from_hparams(hparams)
metrics, edited_model, _ = editor.edit(
    prompts=["What's my hobby?"],
    target_new=["falconry"],
    subject=["hobby"],
    rephrase_prompts=["Which pastime do I enjoy?"],
    locality_inputs={"unrelated": {"prompt": ["What's the capital of France?"], "ground_truth": ["Paris"]}},
    portability_inputs={"implicit": {"prompt": ["What should I do this weekend?"], "ground_truth": ["falconry"]}},
)
print(metrics[0]["post"])
