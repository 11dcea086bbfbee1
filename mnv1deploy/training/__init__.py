"""A data set and a recipe in, a folder with the best checkpoint, its log and the state of the run out.

run.py is the loop; beside it stand what it is made of: settings and recipes, how a run is set up, augmentation,
optimizers, the average, the teacher's network and its answers, the state file, and several processes.
"""
