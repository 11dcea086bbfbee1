"""The Python face: pictures in, names out."""

import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mnv1deploy as mnv1
from mnv1deploy import bundled, datasets
from mnv1deploy.classifier import BATCH
from mnv1deploy.errors import MnvError

CAT = Path(__file__).parents[1] / "examples" / "cat.png"


@pytest.fixture(scope="module")
def classifier() -> mnv1.Classifier:
    return mnv1.load()


def test_the_cat_is_a_cat(classifier: mnv1.Classifier) -> None:
    found = classifier.predict(CAT)
    assert found.label == "cat"
    assert found.probability > 0.5
    assert len(found.top) == 5


def test_probabilities_are_a_softmax_of_the_logits_at_the_specs_temperature(classifier: mnv1.Classifier) -> None:
    picture = datasets.sample().images[0]
    found = classifier.predict(picture, top=10)
    logits = classifier.session(picture[None])[0].astype(np.float64) / classifier.spec.temperature
    expected = np.exp(logits) / np.exp(logits).sum()
    assert sum(p for _, p in found.top) == pytest.approx(1)
    assert [p for _, p in found.top] == sorted((p for _, p in found.top), reverse=True)
    for label, probability in found.top:
        assert probability == pytest.approx(expected[classifier.spec.classes.index(label)])


def test_every_kind_of_source_gives_the_same_answer(classifier: mnv1.Classifier) -> None:
    image = Image.open(CAT)
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    sources = [CAT, str(CAT), encoded.getvalue(), image, np.asarray(image.convert("RGB"))]
    assert len({classifier.predict(source) for source in sources}) == 1


def test_arrays_at_the_networks_size_get_a_prediction_each(classifier: mnv1.Classifier) -> None:
    pictures = datasets.sample().images[:3]
    found = classifier.predict_array(pictures, top=2)
    assert [answer.label for answer in found] == [classifier.predict(picture).label for picture in pictures]
    assert [len(answer.top) for answer in found] == [2, 2, 2]
    with pytest.raises(MnvError, match=r"uint8 \[N, 32, 32, 3\]"):
        classifier.predict_array(pictures[0])


def test_many_pictures_keep_their_order_and_report_the_broken(classifier: mnv1.Classifier, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no")
    pictures = list(datasets.sample().images[: BATCH + 10])
    sources = [*pictures[:5], broken, *pictures[5:], tmp_path / "gone.png"]
    answers = list(classifier.predict_all(sources, top=1))
    assert len(answers) == len(sources)
    errors = [source for source, answer in answers if isinstance(answer, MnvError)]
    assert errors == [broken, tmp_path / "gone.png"]
    labels = [answer.label for _, answer in answers if not isinstance(answer, MnvError)]
    assert labels == [classifier.predict(picture).label for picture in pictures]


def test_one_picture_is_not_many_and_a_generator_is(classifier: mnv1.Classifier) -> None:
    pictures = datasets.sample().images[:3]
    for one in (str(CAT), CAT, CAT.read_bytes(), pictures[0], None):
        with pytest.raises(MnvError, match="takes many pictures"):
            classifier.predict_all(one)  # type: ignore[arg-type]
    found = [answer for _, answer in classifier.predict_all(picture for picture in pictures)]
    assert found == [classifier.predict(picture) for picture in pictures]


def test_arrays_with_blue_first(classifier: mnv1.Classifier) -> None:
    """As OpenCV reads pictures; files say themselves what they are."""
    pictures = datasets.sample().images[:3]
    turned = pictures[..., ::-1]
    bgr = mnv1.load(bgr=True)
    np.testing.assert_array_equal(bgr(turned), classifier(pictures))
    assert bgr.predict_array(turned) == classifier.predict_array(pictures)
    assert [bgr.predict(picture) for picture in turned] == [classifier.predict(picture) for picture in pictures]
    assert [answer for _, answer in bgr.predict_all(turned)] == bgr.predict_batch(list(turned))
    assert bgr.predict(CAT) == classifier.predict(CAT)
    alpha = np.full((32, 32, 1), 128, np.uint8)
    pairs = [np.concatenate([picture, alpha], 2) for picture in (turned[0], pictures[0])]
    assert bgr.predict(pairs[0]) == classifier.predict(pairs[1])
    assert pickle.loads(pickle.dumps(bgr)).predict(turned[0]) == classifier.predict(pictures[0])


def test_names_and_texts_are_for_people(classifier: mnv1.Classifier) -> None:
    assert {"export", "load", "Classifier", "MnvError"} <= set(dir(mnv1))
    assert repr(classifier).endswith("uint8 [N, 32, 32, 3] -> 10 classes>")
    assert repr(classifier.predict(CAT)).startswith("<Prediction cat ")


def test_every_artifact_and_the_checkpoint_agree(classifier: mnv1.Classifier) -> None:
    for path in (bundled.FP32, bundled.CHECKPOINT):
        other = mnv1.load(path, threads=1).predict(CAT)
        assert other.label == "cat"
        assert other.probability == pytest.approx(classifier.predict(CAT).probability, abs=0.1)


def test_load_refuses_what_is_not_there() -> None:
    with pytest.raises(MnvError, match="There is no file"):
        mnv1.load("model.onnx")


def test_predicting_imports_neither_torch_nor_the_exporters() -> None:
    script = (
        "import sys, mnv1deploy as mnv1\n"
        "assert mnv1.load().predict(sys.argv[1]).label == 'cat'\n"
        "heavy = {'torch', 'torchvision', 'onnx', 'matplotlib', 'rich', 'typer'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, CAT], check=True)


def test_the_public_face() -> None:
    for name in mnv1.__all__:
        assert getattr(mnv1, name) is not None
    with pytest.raises(AttributeError):
        _ = mnv1.no_such_name
