"""Folders of pictures as people have them: class folders, in one part or in parts named train, valid, test, ..."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mnv1deploy import images
from mnv1deploy.errors import MnvError

Role = Literal["train", "validation", "test"]

WORDS: Mapping[str, Role] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(
        ("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"), "validation"
    ),
    **dict.fromkeys(("test", "testing", "tests"), "test"),
}
"""What the parts of a data set are called."""

_FILLERS = frozenset(
    {"set", "data", "dataset", "images", "image", "imgs", "img", "pictures", "photos", "split", "part"}
)
_JOINED = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})({'|'.join(sorted(_FILLERS))})")
_TOKENS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+|[^\W\d_]+")

FORMS = (
    "A data set is a folder with <class>/* or with train/<class>/* and test/<class>/*, or CIFAR-10's or CIFAR-100's. "
    "Without --data CIFAR-10 is used; --download FOLDER fetches it."
)


@dataclass(frozen=True)
class Files:
    """The files of a part of a data set: paths ``[N]``, labels int64 ``[N]`` and class names."""

    name: str
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def subset(self, indices: NDArray[np.int64], name: str) -> Files:
        """Those at ``indices``, under another name."""
        return Files(name, tuple(self.paths[i] for i in indices), self.labels[indices], self.classes)


def parts(root: Path, seed: int) -> dict[Role, Files]:
    """The parts of a folder of class folders; "train" and "test" are always there.

    Where nothing is named as the test part, the validation part is it; where there is none either, a fifth of every
    class, drawn by ``seed``. Class names are the folders', in Unicode's composed form (NFC), sorted.

    Raises:
        MnvError: for a folder that has not this form, saying what is there.
    """
    title = root.resolve().name
    given, root = root, _unwrapped(root)
    if root != given:
        title += f" {_inside(given, root)}"
    splits = _splits(root)
    if "train" not in splits:
        return _divided(_training(root, title), title, "", seed)
    train = _training(splits["train"], f"{title} {_inside(root, splits['train'])}")
    if len(splits) == 1:
        return _divided(train, title, f" of {_inside(root, splits['train'])}", seed)
    found: dict[Role, Files] = {"train": train}
    for role, folder in splits.items():
        if role != "train":
            found[role] = _listed(folder, train.classes, f"{title} {_inside(root, folder)}", splits["train"])
    if "test" not in found:
        found["test"] = found.pop("validation")
    return found


def split(
    labels: NDArray[np.int64], classes: int, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of two parts by seed, the second with ``fraction`` of every class (rounded; at least one if it can)."""
    rng = np.random.default_rng(seed)
    second = []
    for label in range(classes):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(round(len(members) * fraction), int(fraction > 0)), max(len(members) - 1, 0))
        second.append(members[:count])
    taken = np.sort(np.concatenate(second))
    return np.setdiff1d(np.arange(len(labels)), taken), taken


def role_of(name: str) -> tuple[Role, tuple[str, ...]] | None:
    """The part that a folder's name says it is, and what else the name says; None if it is no part's name.

    ``Train``, ``training_set``, ``testSet`` and ``valid images`` are plain; ``seg_test`` also says ``seg``.
    """
    tokens: list[str] = []
    for token in _TOKENS.findall(unicodedata.normalize("NFC", name)):
        joined = _JOINED.fullmatch(token.lower())
        tokens += joined.groups() if joined else [token.lower()]
    roles = [token for token in tokens if token in WORDS]
    if len(roles) != 1:
        return None
    return WORDS[roles[0]], tuple(token for token in tokens if token not in WORDS and token not in _FILLERS)


def looks_like_classes(root: Path) -> bool:
    """Whether a folder that has something else in it has class folders too, or parts with them."""
    inner = _folders(root)
    return sum(images.has_picture(f, below=False) for f in inner) > 1 or any(
        role_of(f.name) and any(map(images.has_picture, _folders(f))) for f in inner
    )


def _splits(root: Path) -> dict[Role, Path]:
    """The folders of a root that are parts; none if its folders are classes."""
    named = {folder: role for folder in _folders(root) if (role := role_of(folder.name))}
    filled = {folder for folder in named if images.has_picture(folder)}
    structured = {folder for folder in filled if any(map(images.has_picture, _folders(folder)))}
    names = _listing(named)
    roles = {role for role, _ in named.values()}
    if not named or (len(named) == 1 and next(iter(named.values()))[1]):
        return {}  # "train station" is a class
    if not structured:
        plain = [
            role for role, rest in named.values() for other, same in named.values() if rest == same and role != other
        ]
        if plain and filled:
            raise MnvError(
                f"{root} has {names}, which have pictures but no class folders, so that nothing says their classes.",
                FORMS,
            )
        return {}  # "train" may be a class, beside "bus" and "test tube"
    unclear = ""
    if len({rest for _, rest in named.values()}) > 1 or len(roles) < len(named):
        unclear = "more than one of them may be the same part"
    elif "train" not in roles:
        unclear = "none of them is the training part"
    elif loose := sorted(filled - structured):
        unclear = f"{_listing(loose)} has pictures but no class folders, so that nothing says their classes"
    elif empty := sorted(set(named) - filled):
        unclear = f"{_listing(empty)} has no picture"
    elif others := [f for f in _folders(root) if f not in named and images.has_picture(f)]:
        unclear = f"beside them {_listing(others)} with pictures, which may be classes or another part"
    if unclear:
        raise MnvError(
            f"{root} looks like a data set in parts ({names}), but {unclear}.",
            "Rename or move away what does not belong to it, or name one of its folders with --data.",
        )
    return {role: _unwrapped(folder) for folder, (role, _) in named.items()}


def _unwrapped(folder: Path) -> Path:
    """The folder further down in which the classes are, where it holds but one, as unpacked archives often do."""
    inner = [f for f in _folders(folder) if images.has_picture(f)]
    if len(inner) != 1 or images.has_picture(folder, below=False) or images.has_picture(inner[0], below=False):
        return folder
    same = inner[0].name.casefold() == folder.name.casefold()
    wrapper = not role_of(inner[0].name) and len(_folders(inner[0])) > 1
    return _unwrapped(inner[0]) if same or wrapper else folder


def _training(folder: Path, name: str) -> Files:
    """The files of a training part, which defines the classes."""
    found = _class_folders(folder)
    if len(found) < 2:
        raise MnvError(f"{folder} is no data set: {_contents(folder)}.", FORMS)
    paths = {name: [p for f in folders for p in images.pictures_in(f)] for name, folders in found.items()}
    if not any(paths.values()):
        raise MnvError(f"{folder} is no data set: it has {len(found)} folders, without a picture.", FORMS)
    if empty := [name for name, files in paths.items() if not files]:
        raise MnvError(
            f"{folder} has class folders without a picture: {', '.join(empty)}.",
            "Put pictures into them, or remove them. Pictures are found by their suffix; hidden files are left out.",
        )
    return _files(name, paths)


def _listed(folder: Path, classes: tuple[str, ...], name: str, train: Path) -> Files:
    """The files of another part, which need not have every class."""
    found = _class_folders(folder)
    if extra := sorted(set(found) - set(classes)):
        raise MnvError(f"{folder} has classes that {train} has not: {', '.join(extra)}.")
    paths = {label: [p for f in found.get(label, []) for p in images.pictures_in(f)] for label in classes}
    return _files(name, paths)


def _files(name: str, paths: Mapping[str, list[str]]) -> Files:
    labels = np.repeat(np.arange(len(paths)), [len(files) for files in paths.values()])
    return Files(name, tuple(path for files in paths.values() for path in files), labels, tuple(paths))


def _divided(whole: Files, title: str, of: str, seed: int) -> dict[Role, Files]:
    rest, taken = split(whole.labels, len(whole.classes), 0.2, seed)
    if not len(taken):
        raise MnvError(
            f"{title} has one picture of every class, so that none is left to test with.", "Two or more are needed."
        )
    return {
        "train": whole.subset(rest, f"{title} train (4/5{of} by seed {seed})"),
        "test": whole.subset(taken, f"{title} test (1/5{of} by seed {seed})"),
    }


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """Class names and their folders: more than one where names differ only in how Unicode composes their letters."""
    found: dict[str, list[Path]] = {}
    for inner in _folders(folder):
        name = unicodedata.normalize("NFC", inner.name)
        if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
            raise MnvError(
                f"The name of the folder {str(inner)!r} is no text, and cannot name a class.", "Rename that folder."
            )
        found.setdefault(name, []).append(inner)
    return dict(sorted(found.items()))


def _folders(folder: Path) -> list[Path]:
    return [path for name in images.visible(folder) if (path := folder / name).is_dir()]


def _inside(root: Path, folder: Path) -> str:
    return folder.relative_to(root).as_posix()


def _contents(folder: Path) -> str:
    names = images.visible(folder)
    if not names:
        return "it is empty"
    inner = _folders(folder)
    pictures = sum(images.is_picture(name) for name in names)
    said = []
    if inner:
        said.append(f"1 class folder ({inner[0].name})" if len(inner) == 1 else f"{len(inner)} folders")
    if pictures:
        said.append(f"{pictures} picture{'s' if pictures > 1 else ''} in no class folder")
    if len(names) > len(inner) + pictures:
        other = [name for name in names if not images.is_picture(name) and folder / name not in inner]
        said.append(f"{len(other)} other file{'s' if len(other) > 1 else ''} ({_listing(map(Path, other))})")
    return f"it has {' and '.join(said)}"


def _listing(folders: object) -> str:
    names = [folder.name for folder in folders]  # type: ignore[attr-defined]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
