"""Personalises a model for some users of UPQA, one after the other, each from clean weights.

python examples/run_upqa.py --hparams hparams/PersonalizationEditor/smollm2.yaml --model path/to/smollm2 --size 3
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from easyeditor import BaseEditor, PersonalizationHyperParams
from easyeditor.dataset import UPQADataset
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    """Edit in what the first users of a UPQA file have said, and print the figures after each edit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hparams", required=True, help="a file of hparams/PersonalizationEditor")
    parser.add_argument("--model", required=True, help="a folder with the model it was made for")
    parser.add_argument("--data", default="bundled", help="a UPQA file, or bundled")
    parser.add_argument("--size", type=int, default=3, help="the first so many users")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    hparams = PersonalizationHyperParams.from_hparams(args.hparams)
    model, tok = AutoModelForCausalLM.from_pretrained(args.model), AutoTokenizer.from_pretrained(args.model)
    tok.pad_token = tok.pad_token or tok.eos_token
    hparams.model_name, hparams.device = (model, tok), args.device
    editor = BaseEditor.from_hparams(hparams)
    editor.model_name = model.config.model_type  # a pair has no name, and the evaluation looks for one
    metrics, _, _ = editor.edit(**UPQADataset(args.data, args.size).edit_kwargs())
    print(json.dumps([case["post"] for case in metrics], indent=1, default=str))


if __name__ == "__main__":
    main()
