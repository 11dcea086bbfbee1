"""From a folder of pictures to an int8 artifact: python train_own_folder.py FOLDER

FOLDER holds one folder of pictures per class; a fifth of each is kept for the test.
"""

import sys

import mnv1deploy as mnv1
from mnv1deploy import datasets, training
from mnv1deploy.settings import Settings

folder = sys.argv[1]
train_split, test_split = datasets.image_folder(folder, size=32)
settings = Settings.recipe("quick", epochs=20, batch_size=16, holdout=0.15, ema=0.9)
run = training.Run(training.spec_for(train_split), train_split, settings, "runs/own")
run.fit(on_epoch=lambda epoch: print(f"epoch {epoch.epoch}: training loss {epoch.train_loss:.3f}"))
print(f"top-1 {run.measure(test_split).accuracy}")
for item in mnv1.export(
    "onnx", "int8", checkpoint_path=run.checkpoint, output="artifacts", calibration=folder, data=folder
):
    print("; ".join(item.failures) or f"proved: {item.path}")
