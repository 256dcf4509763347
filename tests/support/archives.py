"""Archives of noise for jobs: folders of sound files, and the same in tar archives."""

import io
import tarfile
from pathlib import Path

import numpy as np
import soundfile


def write_noise(folder: Path, seconds: list[float], rate: int = 16000, channels: int = 1) -> None:
    """Files of these lengths: 000.wav, 001.wav ..."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(seconds))
    for i, length in enumerate(seconds):
        samples = rng.uniform(-0.5, 0.5, (round(length * rate), channels))
        soundfile.write(folder / f"{i:03d}.wav", samples, rate)


def pack(tar: Path, folder: Path, *extra: tuple[tarfile.TarInfo, bytes]) -> None:
    """The files of a folder, and further members, in a tar archive."""
    with tarfile.open(tar, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, f"rec/{file.name}")
        for info, content in extra:
            archive.addfile(info, io.BytesIO(content))


def member(name: str, content: bytes = b"", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a tar archive, with attributes of its header."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content
