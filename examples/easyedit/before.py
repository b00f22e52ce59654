"""An EasyEdit user's script: teach a model one thing about its user, with ROME."""

# ruff: noqa: I001 - the order of these lines is the point
import os
import sys

sys.path.insert(0, os.environ["EASYEDIT_HOME"])
from easyeditor import ROMEHyperParams
from easyeditor import BaseEditor

hparams = ROMEHyperParams.from_hparams(os.path.join(os.environ["EASYEDIT_HOME"], "hparams/ROME/llama3-8b"))
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
