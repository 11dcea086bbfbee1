"""Export a checkpoint to int8 in every format there is, and print each file's proof: python export.py [CHECKPOINT]"""

import sys

import mnv1deploy as mnv1
from mnv1deploy import bundled

checkpoint = sys.argv[1] if len(sys.argv) > 1 else bundled.CHECKPOINT
for item in mnv1.export("all", "int8", checkpoint_path=checkpoint, output="artifacts"):
    if item.proof is None:
        print(f"{item.path}: not run here, {item.manifest.not_run}")
    else:
        verdict = "; ".join(item.failures) or "proved"
        print(f"{item.path}: top-1 agreement {item.proof.agreement:.2%}, {item.proof.accuracy}: {verdict}")
