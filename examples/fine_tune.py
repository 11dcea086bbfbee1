"""Fine-tune somebody else's MobileNetV1 on your pictures: python fine_tune.py WEIGHTS FOLDER [EPOCHS]

WEIGHTS is any file that mnv1 import reads; FOLDER holds one folder of pictures per class, of which a fifth is kept for
the test. The same network is trained from nothing as well, by the same settings, to show what the weights are worth.
"""

import sys
from pathlib import Path

from mnv1deploy.importing import import_file
from mnv1deploy.training import start
from mnv1deploy.training.run import Run


def compare(weights: Path, folder: Path, output: Path, epochs: int = 20) -> dict[str, Run]:
    """Both runs, trained and measured: their checkpoints are in ``output/tuned`` and ``output/nothing``."""
    output.mkdir(parents=True, exist_ok=True)
    imported = output / "imported.safetensors"
    import_file(weights).save(imported)
    changes = {"holdout": 0.0, "epochs": epochs}
    tuned, test_split = start.begin(output / "tuned", folder, init=str(imported), changes=changes)
    nothing = Run(tuned.spec, tuned.parts, tuned.settings, output / "nothing")
    runs = {"tuned": tuned, "nothing": nothing}
    for name, run in runs.items():
        run.fit()
        print(f"{name}: top-1 {run.measure(test_split).accuracy}: {run.checkpoint}")
    return runs


if __name__ == "__main__":
    epochs = map(int, sys.argv[3:])
    compare(Path(sys.argv[1]), Path(sys.argv[2]), Path("runs/fine_tune"), *epochs)
