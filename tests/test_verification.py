"""Proofs: what they measure, and that each limit is really applied."""

import numpy as np
import pytest

from mnv1deploy import bundled, datasets, formats, verification
from mnv1deploy.datasets import Dataset
from mnv1deploy.errors import MnvError
from mnv1deploy.evidence import Evidence, Pictures
from mnv1deploy.formats.base import CPU, Images, Logits
from mnv1deploy.spec import CIFAR, ModelSpec
from mnv1deploy.verification import Evaluation, Prover, evaluate, logit_noise


class Fixed:
    """A session that answers picture i (known by its first pixel, little endian) with row i of ``logits``."""

    spec: ModelSpec = CIFAR
    provider = CPU

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits.astype(np.float32)

    def __call__(self, images: Images) -> Logits:
        return self.logits[images[:, 0, 0, 0].astype(int) + 256 * images[:, 0, 0, 1].astype(int)]


def numbered(count: int) -> Images:
    images = np.zeros((count, 32, 32, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
    return images


def answers(labels: np.ndarray) -> np.ndarray:
    return np.eye(10)[labels] * 5


LABELS = np.arange(12_000) % 10


def prover(labelled: int, answers_: np.ndarray | None = None) -> Prover:
    """Of a checkpoint that gives picture i label i % 10, compared on 1,000 pictures or on so many labelled ones."""
    dataset = Dataset("test", numbered(labelled), LABELS[:labelled], CIFAR.classes) if labelled else None
    unseen = Pictures("numbered", dataset.images if dataset else numbered(1000))
    checkpoint = Fixed(answers(LABELS) if answers_ is None else answers_)
    return Prover(checkpoint, Evidence(None, unseen, None, Pictures("one more", numbered(1)), dataset))


def test_the_same_answers_are_proved() -> None:
    proof, failures = prover(0).prove(Fixed(answers(LABELS)), "fp32")
    assert failures == []
    assert (proof.max_logit_difference, proof.agreement, proof.count, proof.accuracy) == (0.0, 1.0, 1000, None)


@pytest.mark.parametrize(("difference", "fine"), [(0.9e-4, True), (1.1e-4, False), (np.nan, False)])
def test_fp32_logits(difference: float, fine: bool) -> None:
    logits = answers(LABELS)
    logits[17, 4] += difference
    proof, failures = prover(0).prove(Fixed(logits), "fp32")
    assert (failures == []) == fine
    assert fine is False or proof.max_logit_difference == pytest.approx(difference, rel=0.01)


@pytest.mark.parametrize(("precision", "wrong", "fine"), [
    ("fp32", 1, False), ("fp16", 9, True), ("fp16", 10, False), ("int8", 23, True), ("int8", 24, False),
])  # fmt: skip
def test_agreement_on_few_pictures_allows_for_chance(precision: verification.Precision, wrong: int, fine: bool) -> None:
    """Two standard errors and a half: of 1,000 pictures 5 + 4.96 of fp16's, 15 + 8.2 of int8's."""
    labels = LABELS.copy()
    labels[:wrong] += 1
    proof, failures = prover(0).prove(Fixed(answers(labels % 10)), precision)
    assert proof.agreement == 1 - wrong / 1000
    assert any("agreement" in failure for failure in failures) != fine


@pytest.mark.parametrize(("wrong", "fine"), [(150, True), (151, False)])
def test_agreement_on_the_full_split(wrong: int, fine: bool) -> None:
    labels = LABELS.copy()
    labels[:wrong] += 1
    failures = prover(10_000).prove(Fixed(answers(labels % 10)), "int8")[1]
    assert any("agreement" in failure for failure in failures) != fine


@pytest.mark.parametrize(("place", "fine"), [(2, True), (5, True), (6, False)])
@pytest.mark.parametrize("classes", [99, 100])
def test_with_many_classes_agreement_is_among_the_five_best(classes: int, place: int, fine: bool) -> None:
    """Breeds of cats take each other's place under int8's noise; what is shown is still top-1."""
    expected = np.zeros((1000, classes))
    expected[:, :10] = 5 - 0.01 * np.arange(10)
    expected[np.arange(1000), np.arange(1000) % 10] += 0.1
    answered = expected.copy()
    rows = np.arange(200)
    others = (rows[:, None] + np.arange(1, place)) % 10
    answered[rows[:, None], others] += 0.3
    proof, failures = prover(0, expected).prove(Fixed(answered), "int8")
    assert proof.agreement == 0.8
    assert any("agreement" in failure for failure in failures) != (fine and classes == 100)


@pytest.mark.parametrize(("other", "says"), [(99, False), (101, True)])
def test_agreement_is_not_claimed_where_the_checkpoint_gives_one_class(other: int, says: bool) -> None:
    labels = np.full(1000, 3)
    labels[:other] = 4
    proof, failures = prover(0, answers(labels)).prove(Fixed(answers(labels)), "int8")
    assert failures == []
    assert proof.agreement == (1.0 if says else None)


def test_fp32_may_fall_either_way_where_the_checkpoint_ties() -> None:
    tied = answers(LABELS)
    tied[17, 1] = tied[17, 7] - 1e-5
    turned = tied.copy()
    turned[17, 1] += 2e-5
    proof, failures = prover(0, tied).prove(Fixed(turned), "fp32")
    assert (proof.agreement, failures) == (1.0, [])


@pytest.mark.parametrize(("deviation", "fine"), [(0.3, True), (0.5, False)])
def test_int8_is_judged_by_its_logits_too(deviation: float, fine: bool) -> None:
    """Noise that changes no class: the logits of a picture deviate by 1.5."""
    noise = np.random.default_rng(0).standard_normal((12_000, 10)) * deviation
    noisy = answers(LABELS) + noise
    noisy[np.arange(12_000), LABELS] += 10 * (noisy.argmax(1) != LABELS)
    proof, failures = prover(0).prove(Fixed(noisy), "int8")
    assert proof.noise == pytest.approx(deviation * np.sqrt(0.9) / 1.5, rel=0.05)
    assert [failure.split()[0] for failure in failures] == ([] if fine else ["noise"])


def test_noise_does_not_see_what_softmax_does_not() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 10)).astype(np.float32)
    assert logit_noise(logits + np.arange(5, dtype=np.float32)[:, None], logits) == pytest.approx(0, abs=1e-6)
    assert logit_noise(2 * logits, logits) == pytest.approx(1)


@pytest.mark.parametrize(("wrong", "fine"), [(0, True), (30, True), (31, False)])
def test_accuracy_on_the_full_split(wrong: int, fine: bool) -> None:
    """0.3 points of 10,000 images are 30."""
    labels = LABELS.copy()
    labels[5000 : 5000 + wrong] += 1
    proof, failures = prover(10_000).prove(Fixed(answers(labels % 10)), "int8")
    assert proof.accuracy is not None
    assert proof.accuracy.top1 == pytest.approx(1 - wrong / 10_000)
    assert (failures == []) == fine


def test_accuracy_on_few_images_allows_for_chance() -> None:
    """Of 1,000 images 3 may be lost, and 2 standard errors: 2 sqrt(10) = 6.3 more if 10 differ, all one way."""
    for wrong, fine in ((9, True), (25, False)):
        labels = LABELS.copy()
        labels[985 : 985 + wrong] += 1
        failures = prover(1000).prove(Fixed(answers(labels % 10)), "int8")[1]
        assert any("accuracy" in failure for failure in failures) != fine


def test_a_wrong_normalisation_is_caught() -> None:
    """The commonest deployment bug: the same weights behind another mean and std."""
    session = formats.open_session(bundled.FP32)

    class Wrong:
        spec, provider = CIFAR, CPU

        def __call__(self, images: Images) -> Logits:
            return session((images * 0.7 + 40).astype(np.uint8))

    pictures = datasets.calibration()
    evidence = Evidence(None, Pictures("real", pictures.images), None, Pictures("some", pictures.images[:9]), pictures)
    _, failures = Prover(session, evidence).prove(Wrong(), "int8")
    assert any("agreement" in failure for failure in failures)


@pytest.mark.slow
def test_the_shipped_int8_reaches_its_accuracy(cifar10_test: Dataset) -> None:
    evaluation = evaluate(formats.open_session(bundled.INT8), cifar10_test)
    assert evaluation.accuracy.images == 10_000
    assert evaluation.accuracy.top1 >= 0.88


def test_evaluation_counts() -> None:
    dataset = Dataset("small", numbered(6), np.array([0, 0, 1, 1, 1, 9]), CIFAR.classes)
    found = Evaluation(dataset, np.eye(10, dtype=np.float32)[[0, 1, 1, 1, 0, 9]])
    assert found.accuracy.top1 == pytest.approx(4 / 6)
    assert found.confusion.sum() == 6
    assert found.confusion[1].tolist()[:2] == [1, 2]
    np.testing.assert_allclose(found.class_accuracy[[0, 1, 9]], [0.5, 2 / 3, 1.0])
    assert np.isnan(found.class_accuracy[5])


def test_other_classes_are_refused() -> None:
    dataset = Dataset("pets", numbered(2), np.array([0, 1]), ("cat", "dog"))
    with pytest.raises(MnvError, match="knows 10 classes"):
        evaluate(Fixed(answers(LABELS)), dataset)


def test_progress_is_told_of_every_image() -> None:
    seen: list[int] = []
    verification.logits(Fixed(answers(LABELS)), numbered(601), seen.append)
    assert sum(seen) == 601
