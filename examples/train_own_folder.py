"""From a folder of pictures to an int8 artifact: python train_own_folder.py FOLDER

FOLDER holds one folder of pictures per class; a fifth of each is kept for the test. The bundled network, which knows
CIFAR-10, is fine-tuned with a new head: a few dozen pictures a class are enough.
"""

import sys

import mnv1deploy as mnv1
from mnv1deploy import bundled, datasets, training
from mnv1deploy.settings import Settings
from mnv1deploy.spec import Pixels

folder = sys.argv[1]
train_split, test_split = datasets.image_folder(folder, Pixels(32))
settings = Settings.recipe("quick", epochs=10, batch_size=16, learning_rate=0.02, holdout=0.0, ema=0.9)
spec = training.spec_for(train_split, init=bundled.CHECKPOINT)
run = training.Run(spec, train_split, settings, "runs/own", init=bundled.CHECKPOINT)
run.fit(on_epoch=lambda epoch: print(f"epoch {epoch.epoch}: training loss {epoch.train_loss:.3f}"))
print(f"top-1 {run.measure(test_split).accuracy}")
for item in mnv1.export(
    "onnx", "int8", checkpoint_path=run.checkpoint, output="artifacts", calibration=folder, data=folder
):
    print("; ".join(item.failures) or f"proved: {item.path}")
