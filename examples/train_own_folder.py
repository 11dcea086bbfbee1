"""From a folder of pictures to an int8 artifact: python train_own_folder.py FOLDER

FOLDER holds one folder of pictures per class; a fifth of each is kept for the test. The bundled network, which knows
CIFAR-10, is fine-tuned with a new head: a few dozen pictures a class are enough.
"""

import sys
from pathlib import Path

import mnv1deploy as mnv1
from mnv1deploy.training import start

folder = sys.argv[1]
run, test_split = start.begin(Path("runs/own"), Path(folder), changes={"holdout": 0.0, "epochs": 20})
run.fit(on_epoch=lambda epoch: print(f"epoch {epoch.epoch}: training loss {epoch.train_loss:.3f}"))
print(f"top-1 {run.measure(test_split).accuracy}")
for item in mnv1.export("onnx", "int8", checkpoint_path=run.checkpoint, output="artifacts", data=folder):
    print("; ".join(item.failures) or f"proved: {item.path}")
