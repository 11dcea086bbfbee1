"""Say what is in pictures: python predict.py cat.png [more pictures]"""

import sys

import mnv1deploy as mnv1

classifier = mnv1.load()  # the bundled int8 network; or mnv1.load("your.onnx")
for path in sys.argv[1:]:
    prediction = classifier.predict(path)
    print(f"{path}: {prediction.label} ({prediction.probability:.0%})")
